"""What a run says of new pictures: a caption, the best of given labels, a class, or the answer to a question."""

from collections.abc import Callable, Iterator, Sequence
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
from sfumato.recipes.trained import Trained, open_trained, preprocess_of

_BATCH = 32
Prediction = tuple[Path, str | None, str | None]
Answer = Callable[[list[np.ndarray]], Sequence[str | None]]
_OfPixels = Callable[[Tensor], list[str]]
_UNFED = "the model cannot be fed this picture with this question"


def predict(
    folder: Path,
    images: Sequence[Path],
    window: tuple[float, float] | None = None,
    num_beams: int = 1,
    labels: Sequence[str] = (),
    question: str | None = None,
) -> Iterator[Prediction]:
    """Yield (file, answer, error) for each picture, in order; one of the last two is None.

    Args:
        folder: a run, or the export of a captioner.
        images: pictures, or folders of them.
        window: public range of 16-bit and DICOM pictures; default that of the run.
        num_beams: of a captioner; 1 is greedy.
        labels: texts among which two towers choose.
        question: that a model of questions is asked of each picture.

    Raises:
        BadInput: no model in `folder`, a path that is not there, a folder without pictures, a blank question, or
            labels, a question or beams where the model takes none or needs some.
    """
    if not images:
        raise BadInput("name a picture, or a folder of pictures, after the run.")
    answer = _answers(folder, num_beams, tuple(labels), question)
    if window is None and (folder / CONFIG).is_file():
        window = read_config(folder).data.window
    decoder = data.Decoder(window=window) if window else data.Decoder()
    files = _files(images)
    for first in range(0, len(files), _BATCH):
        pictures: dict[Path, np.ndarray] = {}
        errors: dict[Path, str] = {}
        for path in files[first : first + _BATCH]:
            try:
                pictures[path] = decoder(path)
            except SfumatoError as error:
                errors[path] = str(error)
        texts: dict[Path, str | None] = {}
        if pictures:
            texts = dict(zip(pictures, answer(list(pictures.values())), strict=True))
            errors |= {path: _UNFED for path, text in texts.items() if text is None}
        for path in files[first : first + _BATCH]:
            yield path, texts.get(path), errors.get(path)


def _answers(folder: Path, num_beams: int, labels: tuple[str, ...], question: str | None) -> Answer:
    """Return what answers a batch of decoded pictures."""
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


def _of_pixels(answer: _OfPixels, preprocess: data.Preprocess) -> Answer:
    return lambda pictures: answer(torch.stack([preprocess.evaluate(picture) for picture in pictures]))


def _asked(trained: Trained, question: str | None) -> Answer:
    asking = trained.run.asking
    asked = question or asking.question or QUESTION
    subject = evaluate.answerer(trained.loaded.model, trained.loaded.family, max_new_tokens=asking.max_answer)
    assert subject.answer is not None
    answer = subject.answer
    return lambda pictures: answer([data.eight_bit_rgb(picture) for picture in pictures], [asked] * len(pictures))


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
