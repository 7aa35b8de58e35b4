"""Features of frozen towers, computed once for every row: what trains then trains on them in place of pictures.

Frozen towers draw nothing and are fed without augmentation, so a row's features are a function of that row; what
trains, and what a record contributes, is the same as with pictures, at a thousandth of the cost (of heads).
"""

import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import default_collate

from sfumato import data, models
from sfumato.base.errors import UndecodableRow

log = logging.getLogger(__name__)

_AT_ONCE = 64
_REMEMBERED = 1 << 16  # rows: 340 MB of 1,280 features each
_FEATURES: dict[bytes, torch.Tensor] = {}


def recall(
    rows: Sequence[np.ndarray], key: bytes, compute: Callable[[list[int]], torch.Tensor], device: torch.device
) -> torch.Tensor:
    """Return the features (N, F) of rows, those that this process has seen before from memory.

    Args:
        rows: what each row is, bit by bit.
        key: a hash of the tower.
        compute: places of rows to their features.
        device: of the result.
    """
    keys = [hashlib.blake2b(row.tobytes(), key=key).digest() for row in rows]
    unknown = [place for place, one in enumerate(keys) if one not in _FEATURES]
    fresh = {keys[place]: row for place, row in zip(unknown, compute(unknown))} if unknown else {}
    if len(_FEATURES) + len(fresh) <= _REMEMBERED:
        _FEATURES.update({one: row.detach().cpu().clone() for one, row in fresh.items()})
    return torch.stack([fresh[one] if one in fresh else _FEATURES[one].to(device) for one in keys])


def known() -> dict[bytes, torch.Tensor]:
    """Return what this process remembers, to hand it to another one."""
    return _FEATURES


def know(features: dict[bytes, torch.Tensor]) -> None:
    """Remember what another process computed."""
    _FEATURES.update(features)


class Remembered(nn.Module):
    """A frozen image tower that computes each picture once in a process; same pixels and weights, same features.

    Training on features, probes, zero-shot and retrieval all ask for the same pictures.
    """

    def __init__(self, tower: nn.Module) -> None:
        super().__init__()
        self.tower = tower
        self.key = state_digest(tower)

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Return the features (N, F) of pictures (N, C, S, S)."""
        rows = list(pixel_values.cpu().numpy())
        return recall(rows, self.key, lambda places: self.tower(pixel_values[places]), pixel_values.device)


@contextmanager
def remembered(model: Any) -> Iterator[None]:
    """Let a `TowerPair` remember what its image tower says, if that is frozen; the model is left as it was found."""
    tower = model.image
    model.image = Remembered(tower)
    try:
        yield
    finally:
        model.image = tower


def pictures_stay(started: models.StartedTowers) -> bool:
    """Whether the image tower of a `TowerPair` is frozen, so that each picture's features stay what they are."""
    return isinstance(started.model, models.TowerPair) and not any(
        name.startswith("image.") for name in started.training.trainable
    )


def feature_rows(started: models.StartedTowers, rows: data.PairRows) -> data.FeatureRows:
    """Return the features of every row of a set, zero where a row cannot be read: no row is left out.

    Of the texts their tokens, where the text tower trains.

    Args:
        started: a `TowerPair` whose image tower is frozen.
        rows: its pictures and captions, as in evaluation.
    """
    model: Any = started.model
    log.info("features of %s: %d rows, once", rows.captioned.name, len(rows))
    readable = np.zeros(len(rows), bool)
    columns: dict[str, np.ndarray] = {}
    of_texts = state_digest(model.text) if models.is_frozen(model.text) else None
    with remembered(model), models.evaluating(model):
        for places, batch in _batches(rows):
            ids = batch["input_ids"]
            found = {"image_features": model.image_features(batch["pixel_values"]).float()}
            if of_texts is None:
                found["input_ids"] = ids
            else:
                texts = recall(list(ids.numpy()), of_texts, partial(_texts, model, ids), ids.device)
                found["text_features"] = texts.float()
            for name, values in found.items():
                made = values.cpu().numpy()
                column = columns.setdefault(name, np.zeros((len(rows), made.shape[1]), made.dtype))
                column[places] = made
            readable[places] = True
    source = digest(started, rows.manifest())
    return data.FeatureRows(captioned=rows.captioned, columns=columns, readable=readable, source=source)


def _texts(model: models.TowerPair, ids: torch.Tensor, places: list[int]) -> torch.Tensor:
    return model.text_features(ids[places], (ids[places] != model.pad_id).long())


def _batches(rows: data.PairRows) -> Iterator[tuple[list[int], dict[str, torch.Tensor]]]:
    places, kept = [], []
    for index in range(len(rows)):
        try:
            kept.append(rows[index])
            places.append(index)
        except UndecodableRow:
            pass
        if kept and (len(kept) == _AT_ONCE or index == len(rows) - 1):
            yield places, default_collate(kept)
            places, kept = [], []


def digest(loaded: Any, facts: Any = None) -> str:
    """Return a hash for the fingerprint: of the weights and the normalisation of what was started or loaded, and of
    whatever else decides the rows (JSON values: text length, classes).
    """
    facts = json.dumps([loaded.preprocess, facts], sort_keys=True).encode()
    return hashlib.blake2b(facts, key=state_digest(loaded.model), digest_size=16).hexdigest()


def state_digest(module: nn.Module) -> bytes:
    """Return a hash of all parameters and buffers of a module, 32 bytes."""
    found = hashlib.blake2b(digest_size=32)
    for name, value in sorted(module.state_dict().items()):
        flat = value.detach().cpu().contiguous().reshape(-1)
        found.update(name.encode() + flat.view(torch.uint8).numpy().tobytes())
    return found.digest()
