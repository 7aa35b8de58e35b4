"""Features of frozen towers, computed once for every row: heads then train on them alone.

The towers draw nothing and are fed without augmentation, so a row's features are a function of that row; what trains,
and what a record contributes, is the same as with pictures, at a thousandth of the cost.
"""

import hashlib
import json
import logging
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import default_collate

from sfumato import data, models
from sfumato.base.errors import UndecodableRow

log = logging.getLogger(__name__)

_AT_ONCE = 64


def heads_only(started: models.StartedTowers) -> bool:
    """Whether nothing but the projections of a `TowerPair` trains."""
    return isinstance(started.model, models.TowerPair) and all(
        name.startswith(("image_projection.", "text_projection.")) for name in started.training.trainable
    )


def feature_rows(started: models.StartedTowers, rows: data.PairRows) -> data.FeatureRows:
    """Return the features of every row of a set, zero where a row cannot be read: no row is left out.

    Args:
        started: a `TowerPair` whose towers are frozen.
        rows: its pictures and captions, as in evaluation.
    """
    model: Any = started.model
    log.info("features of %s: %d rows, once", rows.captioned.name, len(rows))
    readable = np.zeros(len(rows), bool)
    columns: dict[str, np.ndarray] = {}
    for places, batch in _batches(rows):
        found = models.frozen_features(model, batch["pixel_values"], batch["input_ids"])
        for name, values in zip(("image_features", "text_features"), found, strict=True):
            column = columns.setdefault(name, np.zeros((len(rows), values.shape[1]), np.float32))
            column[places] = values.float().cpu().numpy()
        readable[places] = True
    return data.FeatureRows(captioned=rows.captioned, columns=columns, readable=readable, source=digest(started))


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


def digest(loaded: Any) -> str:
    """Return a hash of the weights and the normalisation of what was started or loaded, for the fingerprint."""
    found = hashlib.blake2b(json.dumps(loaded.preprocess, sort_keys=True).encode(), digest_size=16)
    for name, value in sorted(loaded.model.state_dict().items()):
        found.update(name.encode() + value.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()
