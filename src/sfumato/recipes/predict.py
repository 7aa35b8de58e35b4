"""Captions for new pictures from a run's exported model."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from sfumato import data, models
from sfumato.base import BadInput, SfumatoError
from sfumato.recipes.execute import CONFIG, read_config

_BATCH = 32
Prediction = tuple[Path, str | None, str | None]


def predict(
    folder: Path, images: Sequence[Path], window: tuple[float, float] | None = None, num_beams: int = 1
) -> Iterator[Prediction]:
    """Yield (file, caption, error) for each picture, in order; one of the last two is None.

    Raises:
        BadInput: no model in `folder`, a path that is not there, or a folder without pictures.
    """
    loaded = models.load_export(folder)
    if window is None and (folder / CONFIG).is_file():
        window = read_config(folder).data.window
    decoder = data.Decoder(window=window) if window else data.Decoder()
    known = loaded.preprocess
    preprocess = data.Preprocess(
        image_size=known["image_size"], mean=tuple(known["mean"]), std=tuple(known["std"]), channels=known["channels"]
    )
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
            batch = torch.stack(list(pictures.values()))
            captions = models.generate_captions(loaded.model, loaded.tokenizer, batch, num_beams=num_beams)
            texts = dict(zip(pictures, captions, strict=True))
        for path in files[first : first + _BATCH]:
            yield path, texts.get(path), errors.get(path)


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
