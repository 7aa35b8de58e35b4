"""What a run says of new pictures: a caption, the best of given labels, a class, or the answer to a question."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sfumato import data, evaluate, models
from sfumato.base import BadInput, SfumatoError
from sfumato.recipes import classifier
from sfumato.recipes.answering import QUESTION
from sfumato.recipes.config import CONFIG, read_config
from sfumato.recipes.exported import check_export
from sfumato.recipes.run import Data
from sfumato.recipes.sets import decoder_of
from sfumato.recipes.trained import Trained, open_trained, preprocess_of

_BATCH = 32
_HELD = 1 << 24  # numbers of a batch of pictures; one that is larger is answered by itself
Prediction = tuple[Path, str | None, str | None]
_OfPixels = Callable[[Tensor], list[str]]
_UNFED = "the model cannot be fed this picture with this question"


@dataclass(frozen=True, kw_only=True)
class _Answers:
    """How pictures are answered.

    Attributes:
        prepare: what is kept of a decoded picture until its batch is answered.
        answer: a batch of these to texts, None where the model cannot be fed.
        side: pixels of a side that the model sees; None: its family resizes the whole picture.
    """

    prepare: Callable[[np.ndarray], Any]
    answer: Callable[[list[Any]], Sequence[str | None]]
    side: int | None = None


def predict(
    folder: Path,
    images: Sequence[Path],
    window: tuple[float, float] | None = None,
    num_beams: int = 1,
    labels: Sequence[str] = (),
    question: str | None = None,
    max_pixels: int | None = None,
) -> Iterator[Prediction]:
    """Yield (file, answer, error) for each picture, in order; one of the last two is None.

    Pictures are read one at a time, and of each only what the model sees is kept until its batch is answered.

    Args:
        folder: a run, or the export of a captioner.
        images: pictures, or folders of them.
        window: public range of 16-bit and DICOM pictures; default that of the run.
        num_beams: of a captioner; 1 is greedy.
        labels: texts among which two towers choose.
        question: that a model of questions is asked of each picture.
        max_pixels: pictures that are larger are errors; default that of the run.

    Raises:
        BadInput: no model in `folder`, a path that is not there, a folder without pictures, a blank question, or
            labels, a question or beams where the model takes none or needs some.
    """
    if not images:
        raise BadInput("name a picture, or a folder of pictures, after the run.")
    decoder = _decoder(folder, window, max_pixels)
    answers = _answers(folder, num_beams, tuple(labels), question)
    batch: list[tuple[Path, Any, str | None]] = []
    held = 0
    for path in _files(images):
        try:
            kept = answers.prepare(decoder(path, side=answers.side))
        except SfumatoError as error:
            batch.append((path, None, str(error)))
        else:
            batch.append((path, kept, None))
            held += math.prod(kept.shape)
        if len(batch) == _BATCH or held > _HELD:
            yield from _answered(batch, answers.answer)
            batch, held = [], 0
    yield from _answered(batch, answers.answer)


def _answered(
    batch: list[tuple[Path, Any, str | None]], answer: Callable[[list[Any]], Sequence[str | None]]
) -> Iterator[Prediction]:
    kept = [picture for _, picture, error in batch if error is None]
    texts = iter(answer(kept)) if kept else iter(())
    for path, _, error in batch:
        text = next(texts) if error is None else None
        yield path, text, _UNFED if error is None and text is None else error


def _decoder(folder: Path, window: tuple[float, float] | None, max_pixels: int | None) -> data.Decoder:
    known = read_config(folder).data if (folder / CONFIG).is_file() else Data(spec="")
    given = {"window": window, "max_pixels": max_pixels}
    return decoder_of(replace(known, **{name: value for name, value in given.items() if value is not None}))


def _answers(folder: Path, num_beams: int, labels: tuple[str, ...], question: str | None) -> _Answers:
    """Return how decoded pictures are answered."""
    kind = read_config(folder).model.kind if (folder / CONFIG).is_file() else "captioner"
    if bool(labels) != (kind == "towers"):
        raise BadInput(
            f"{folder} holds towers: give the texts to choose from with --labels."
            if kind == "towers"
            else f"{folder} holds a {kind}, which takes no --labels."
        )
    if question is not None and kind != "vlm":
        raise BadInput(f"{folder} holds a {kind}, which takes no --question.")
    if question is not None and not question.strip():
        raise BadInput("--question is blank: ask something, or leave it out.")
    if num_beams != 1 and kind != "captioner":
        raise BadInput(f"{folder} holds a {kind}, which takes no --num-beams.")
    if kind == "captioner":
        check_export(folder)
        loaded = models.load_export(folder)
        return _of_pixels(
            lambda pixels: models.generate_captions(loaded.model, loaded.tokenizer, pixels, num_beams=num_beams),
            preprocess_of(loaded.preprocess),
        )
    if kind == "classifier":
        saved = classifier.load(folder)
        trained = open_trained(saved.encoder)
        return _of_pixels(lambda pixels: _classes(saved, trained, pixels), trained.normalised())
    if kind == "encoder":
        raise BadInput(f"{folder} holds an encoder, which has no words: sfumato finetune makes a classifier of it.")
    trained = open_trained(folder)
    if kind == "vlm":
        return _asked(trained, question)
    return _of_pixels(_chooser(trained.loaded, labels), trained.normalised())


def _of_pixels(answer: _OfPixels, preprocess: data.Preprocess) -> _Answers:
    return _Answers(
        prepare=preprocess.evaluate, answer=lambda kept: answer(torch.stack(kept)), side=preprocess.image_size
    )


def _asked(trained: Trained, question: str | None) -> _Answers:
    asking = trained.run.asking
    asked = question or asking.question or QUESTION
    subject = evaluate.answerer(trained.loaded.model, trained.loaded.family, max_new_tokens=asking.max_answer)
    assert subject.answer is not None
    answer = subject.answer
    return _Answers(prepare=data.eight_bit_rgb, answer=lambda kept: answer(kept, [asked] * len(kept)))


def _classes(saved: classifier.Saved, trained: Trained, pixels: Tensor) -> list[str]:
    features = classifier.unit_rows(trained.features(pixels.numpy()))
    with torch.no_grad():
        return [saved.classes[place] for place in saved.model(torch.from_numpy(features)).argmax(1).tolist()]


def _chooser(loaded: Any, labels: tuple[str, ...]) -> _OfPixels:
    tokenizer, limit = loaded.tokenizer, models.text_positions(loaded.model)
    longest = max(tokenizer.count_text_tokens(labels))
    if limit is not None and longest > limit:
        raise BadInput(f"--labels: a text has {longest} tokens, the model reads {limit} at most.")
    ids = tokenizer.encode_texts(labels, longest)
    with models.evaluating(loaded.model):
        texts = loaded.embed.texts(loaded.model, ids)

    def choose(pixels: Tensor) -> list[str]:
        with models.evaluating(loaded.model):
            return [
                labels[place] for place in (loaded.embed.images(loaded.model, pixels) @ texts.mT).argmax(1).tolist()
            ]

    return choose


def _files(images: Sequence[Path]) -> list[Path]:
    found: list[Path] = []
    for path in images:
        if path.is_dir():
            found += data.picture_files(path)
        elif path.is_file():
            found.append(path)
        else:
            raise BadInput(f"there is no picture {path}.")
    return found
