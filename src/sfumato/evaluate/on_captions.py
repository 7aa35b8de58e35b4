"""The suites that ask the captioner itself: zero-shot, captions, scenes, hard negatives. Test pictures only."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from sfumato.data import hard_negatives
from sfumato.evaluate.attributes import attribute_accuracy
from sfumato.evaluate.bench import Bench, NotApplicableError, Results, labels_of, needed, read
from sfumato.evaluate.caption import bleu4, cider_scores
from sfumato.evaluate.subject import MAX_EXACT_LABELS
from sfumato.evaluate.zeroshot import TEMPLATE, choose_caption, zero_shot

_WRITES_NOTHING = "the model writes no captions"


@dataclass(frozen=True, kw_only=True)
class Written:
    """Generated captions of N pictures, with their row numbers and what the data set says of them."""

    rows: np.ndarray
    texts: list[str]
    examples: list[Mapping[str, Any]]


def write_captions(bench: Bench, dataset: Any, rows: np.ndarray) -> Written:
    """Return the greedy caption of each picture that can be read.

    Raises:
        NotApplicableError: the model writes no captions, or no picture can be read.
    """
    describe = needed(bench.subject.describe, _WRITES_NOTHING)
    kept, texts, examples = [], [], []
    for batch in read(bench, dataset, rows, "captions"):
        kept.append(batch.rows)
        texts += describe(batch.pictures)
        examples += batch.examples
    return Written(rows=np.concatenate(kept), texts=texts, examples=examples)


def zero_shot_suite(bench: Bench) -> Results:
    """Return zero-shot accuracy: the label whose caption is likeliest per token."""
    score_labels = needed(bench.subject.score_labels, "the model reads no texts")
    labels = labels_of(bench.test_set, "test")
    captions = label_captions(bench.test_set)
    rows, scores = [], []
    for batch in read(bench, bench.test_set, bench.test_rows, "zero-shot"):
        rows.append(batch.rows)
        scores.append(score_labels(batch.pictures, captions))
    found = zero_shot(np.concatenate(scores), labels[np.concatenate(rows)], bench.class_names)
    method = "exact" if len(captions) <= MAX_EXACT_LABELS else "prefix tree"
    return found.to_json() | {"method": method, "captions": captions}


def label_captions(dataset: Any) -> list[str]:
    """Return one caption per class: the set's own, or the template filled with the class names.

    Raises:
        NotApplicableError: the set has neither.
    """
    captions, names = getattr(dataset, "class_captions", None), getattr(dataset, "class_names", None)
    if captions is not None:
        return list(captions)
    if names is None:
        raise NotApplicableError("the test set has no class names")
    return [TEMPLATE.format(label=name) for name in names]


def caption_suite(bench: Bench, written: Written) -> Results:
    """Return BLEU-4 and CIDEr-D, beside those of the same captions moved on by one picture (`shuffled`).

    A captioner that does not look at its picture scores as well shuffled as not.
    """
    references = [references_of(bench.test_set, int(row), e) for row, e in zip(written.rows, written.examples)]
    return {
        "captioner": _caption_metrics(written.texts, references),
        "shuffled": _caption_metrics(written.texts[-1:] + written.texts[:-1], references),
        "n": len(references),
        "num_distinct": len(set(written.texts)),
    }


def references_of(dataset: Any, row: int, example: Mapping[str, Any]) -> list[str]:
    """Return the true captions of a row: all that the set tells (its `references(row)`), else its fixed one.

    Raises:
        NotApplicableError: the row has no caption.
    """
    told = dataset.references(row) if hasattr(dataset, "references") else [example.get("caption")]
    captions = [caption for caption in told if caption]
    if not captions:
        raise NotApplicableError("the test set has no captions")
    return captions


def _caption_metrics(texts: list[str], references: list[list[str]]) -> Results:
    scores = cider_scores(texts, references)
    mean = float(scores.mean())
    # 95 % by the normal law; the idf of the corpus is taken as given
    half = 1.96 * float(scores.std(ddof=1)) / len(scores) ** 0.5 if len(scores) > 1 else 0.0
    return {"bleu4": bleu4(texts, references), "cider": mean, "cider_low": mean - half, "cider_high": mean + half}


def shapes_suite(bench: Bench, written: Written) -> Results:
    """Return what the captions say rightly of the scenes, attribute by attribute, with chance."""
    scenes = [_scene(example) for example in written.examples]
    found = attribute_accuracy(written.texts, scenes, seed=bench.seed)
    return {name: _with_times_chance(accuracy.to_json()) for name, accuracy in found.items()}


def _with_times_chance(found: Results) -> Results:
    return found | {"times_chance": found["accuracy"] / found["chance"] if found["chance"] else None}


def _scene(example: Mapping[str, Any]) -> Any:
    scene = example.get("attributes")
    if scene is None:
        raise NotApplicableError("the test set has no scenes (only `shapes` has)")
    return scene


def aro_suite(bench: Bench) -> Results:
    """Return, for each kind of hard negative, how often the true caption has the lowest loss per token.

    `other_picture` is the same beside the picture before: what the captioner's sense of language does without sight.
    """
    caption_losses = needed(bench.subject.caption_losses, _WRITES_NOTHING)
    losses: dict[str, list[np.ndarray]] = {}
    blind: dict[str, list[np.ndarray]] = {}
    before: np.ndarray | None = None
    for batch in read(bench, bench.test_set, bench.test_rows, "hard negatives"):
        kinds = [hard_negatives(_scene(example)) for example in batch.examples]
        shown = [
            [e["caption"], *(text for texts in k.values() for text in texts)] for e, k in zip(batch.examples, kinds)
        ]
        others = np.concatenate([batch.pictures[-1:] if before is None else before, batch.pictures[:-1]])
        before = batch.pictures[-1:]
        _by_kind(losses, caption_losses(batch.pictures, shown), kinds)
        _by_kind(blind, caption_losses(others, shown), kinds)
    return {
        kind: choose_caption(_padded(rows)).to_json() | {"other_picture": choose_caption(_padded(blind[kind])).rate}
        for kind, rows in losses.items()
    }


def _by_kind(into: dict[str, list[np.ndarray]], losses: np.ndarray, kinds: list[dict[str, list[str]]]) -> None:
    """Add to each kind the losses of a picture's true caption and of that kind's false ones, where it has any."""
    for row, negatives in zip(losses, kinds, strict=True):
        start = 1
        for kind, texts in negatives.items():
            if texts:
                into.setdefault(kind, []).append(np.concatenate([row[:1], row[start : start + len(texts)]]))
            start += len(texts)


def _padded(rows: list[np.ndarray]) -> np.ndarray:
    losses = np.full((len(rows), max(map(len, rows))), np.inf)
    for place, row in enumerate(rows):
        losses[place, : len(row)] = row
    return losses
