"""The suites that compare pictures with texts in one space: zero-shot by prompts, and retrieval. Test pictures only."""

import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from sfumato.data import Captioned, one_per_record
from sfumato.evaluate.bench import Bench, NotApplicableError, Results, labels_of, needed, read, subset
from sfumato.evaluate.cosine import ROUNDING, blocks, unit
from sfumato.evaluate.embed import Encode
from sfumato.evaluate.on_captions import references_of
from sfumato.evaluate.prompts import class_embeddings, prompts_of
from sfumato.evaluate.retrieval import retrieval
from sfumato.evaluate.zeroshot import zero_shot

logger = logging.getLogger(__name__)

_NO_TEXTS = "the model has no text encoder"


def prompt_suite(bench: Bench) -> Results:
    """Return zero-shot accuracy: the class whose prompts, on average, are most similar to the picture."""
    embed_images, embed_texts = _both(bench)
    labels = labels_of(bench.test_set, "test")
    prompts = prompts_of(bench.test_set)
    texts = _embedded(bench, [text for group in prompts.texts for text in group], embed_texts, "prompts")
    classes = class_embeddings(texts.reshape(len(prompts.texts), -1, texts.shape[1]))
    rows, scores = [], []
    for batch in read(bench, bench.test_set, bench.test_rows, "zero-shot"):
        rows.append(batch.rows)
        scores.append(unit(embed_images(batch.pictures), "picture embeddings") @ classes.T)
    found = zero_shot(np.concatenate(scores), labels[np.concatenate(rows)], bench.class_names, tie=ROUNDING)
    return found.to_json() | prompts.told


def retrieval_suite(bench: Bench) -> Results:
    """Return recalls and median rank both ways, on one row of each record, with its fixed caption.

    Captions are one text where they differ by case or white space only.

    Raises:
        NotApplicableError: no text encoder, no captions, or a single caption.
    """
    embed_images, embed_texts = _both(bench)
    dataset = one_per_record(bench.test_set) if isinstance(bench.test_set, Captioned) else bench.test_set
    # of these rows as many as the limit leaves of the set: a record's further rows are no records
    rows = subset(len(dataset), len(bench.test_rows), bench.seed)
    pictures, captions = [], []
    for batch in read(bench, dataset, rows, "retrieval"):
        captions += [references_of(dataset, int(row), e)[0] for row, e in zip(batch.rows, batch.examples)]
        pictures.append(embed_images(batch.pictures))
    distinct, caption_of = _distinct(captions)
    if len(distinct) < 2:
        raise NotApplicableError("all pictures have the same caption")
    texts = _embedded(bench, distinct, embed_texts, "captions to retrieve")
    found = {name: way.to_json() for name, way in retrieval(np.concatenate(pictures), texts, caption_of).items()}
    return found | {
        "num_pictures": len(captions),
        "num_captions": len(distinct),
        "num_unreadable": len(rows) - len(captions),
    }


def _both(bench: Bench) -> tuple[Encode, Callable[[Sequence[str]], np.ndarray]]:
    return needed(bench.subject.embed_images, _NO_TEXTS), needed(bench.subject.embed_texts, _NO_TEXTS)


def _distinct(captions: Sequence[str]) -> tuple[list[str], np.ndarray]:
    """Return each caption once, as first written, and for each row (N,) which one it is."""
    places: dict[str, int] = {}
    distinct: list[str] = []
    caption_of = np.empty(len(captions), np.int64)
    for row, text in enumerate(captions):
        key = " ".join(text.casefold().split())
        if key not in places:
            places[key] = len(distinct)
            distinct.append(text)
        caption_of[row] = places[key]
    return distinct, caption_of


def _embedded(bench: Bench, texts: Sequence[str], embed_texts: Any, what: str) -> np.ndarray:
    """Return the embedding of each text, a batch at a time."""
    found = []
    for block in blocks(len(texts), bench.batch_size):
        found.append(embed_texts(texts[block]))
        bench.progress(what, block.stop, len(texts))
    return np.concatenate(found)
