"""What a run says of new pictures: a caption, the best of given labels, or a class."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sfumato import data, models
from sfumato.base import BadInput, SfumatoError
from sfumato.recipes import classifier
from sfumato.recipes.config import CONFIG, read_config
from sfumato.recipes.trained import Trained, open_trained, preprocess_of

_BATCH = 32
Prediction = tuple[Path, str | None, str | None]
Answer = Callable[[Tensor], list[str]]


def predict(
    folder: Path,
    images: Sequence[Path],
    window: tuple[float, float] | None = None,
    num_beams: int = 1,
    labels: Sequence[str] = (),
) -> Iterator[Prediction]:
    """Yield (file, answer, error) for each picture, in order; one of the last two is None.

    Args:
        folder: a run, or the export of a captioner.
        images: pictures, or folders of them.
        window: public range of 16-bit and DICOM pictures; default that of the run.
        num_beams: of a captioner.
        labels: texts among which two towers choose.

    Raises:
        BadInput: no model in `folder`, a path that is not there, a folder without pictures, or labels where the model
            takes none or needs some.
    """
    answer, preprocess = _answers(folder, num_beams, tuple(labels))
    if window is None and (folder / CONFIG).is_file():
        window = read_config(folder).data.window
    decoder = data.Decoder(window=window) if window else data.Decoder()
    files = _files(images)
    for first in range(0, len(files), _BATCH):
        pictures: dict[Path, torch.Tensor] = {}
        errors: dict[Path, str] = {}
        for path in files[first : first + _BATCH]:
            try:
                pictures[path] = preprocess.evaluate(decoder(path))
            except SfumatoError as error:
                errors[path] = str(error)
        texts: dict[Path, str] = {}
        if pictures:
            texts = dict(zip(pictures, answer(torch.stack(list(pictures.values()))), strict=True))
        for path in files[first : first + _BATCH]:
            yield path, texts.get(path), errors.get(path)


def _answers(folder: Path, num_beams: int, labels: tuple[str, ...]) -> tuple[Answer, data.Preprocess]:
    """Return what answers a batch of pictures, and how they are normalised."""
    kind = read_config(folder).model.kind if (folder / CONFIG).is_file() else "captioner"
    if bool(labels) != (kind == "towers"):
        raise BadInput(
            f"{folder} holds towers: give the texts to choose from with --labels."
            if kind == "towers"
            else f"{folder} holds a {kind}, which takes no --labels."
        )
    if kind == "captioner":
        loaded = models.load_export(folder)
        return (
            lambda pixels: models.generate_captions(loaded.model, loaded.tokenizer, pixels, num_beams=num_beams),
            preprocess_of(loaded.preprocess),
        )
    if kind == "classifier":
        saved = classifier.load(folder)
        trained = open_trained(saved.encoder)
        return lambda pixels: _classes(saved, trained, pixels), trained.preprocess
    if kind == "encoder":
        raise BadInput(f"{folder} holds an encoder, which has no words: sfumato finetune makes a classifier of it.")
    trained = open_trained(folder)
    return _chooser(trained.loaded, labels), trained.preprocess


def _classes(saved: classifier.Saved, trained: Trained, pixels: Tensor) -> list[str]:
    features = classifier.unit_rows(trained.features(pixels.numpy()))
    with torch.no_grad():
        return [saved.classes[place] for place in saved.model(torch.from_numpy(features)).argmax(1).tolist()]


def _chooser(loaded: Any, labels: tuple[str, ...]) -> Answer:
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
