"""The course of a run: how well the released weights do on public held-out pictures, measured while they train.

It is post-processing of what was released, on data declared public: it costs no privacy, and it is the only curve that
a private run may show. The losses on the training records are never shown.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import default_collate

from sfumato import models
from sfumato.base.errors import UndecodableRow
from sfumato.base.files import append_line
from sfumato.recipes.made import HeldOut, Made

FILE = "course.jsonl"
_PICTURES, _AT_ONCE = 512, 128


@dataclass(frozen=True, kw_only=True)
class Course:
    """Held-out rows in batches, fixed for the whole run, and the file that gets a line at each call."""

    model: Any
    held_out: HeldOut
    batches: tuple[dict[str, torch.Tensor], ...]
    path: Path

    def measure(self, step: int) -> float:
        """Write and return the mean of the loss over the pictures; the model's mode stays as it was."""
        device = next(self.model.parameters()).device
        with models.evaluating(self.model):
            parts = [
                self.held_out.loss(self.model, {name: value.to(device) for name, value in batch.items()})
                for batch in self.batches
            ]
        value = float(torch.cat(parts).mean())
        line = {"metric": self.held_out.metric, "unit": self.held_out.unit, "step": step, "value": value}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        append_line(self.path, line)
        return value


def chosen(size: int) -> np.ndarray:
    """Return which of `size` held-out rows are looked at: at most 512, evenly spread."""
    return np.unique(np.linspace(0, size - 1, _PICTURES).astype(int))


def course_of(made: Made, out: Path) -> Course | None:
    """Return the course of the run in `out`, or None where no public pictures are held out."""
    if made.held_out is None:
        return None
    rows, kept = made.held_out.rows, []
    for index in chosen(len(rows)):
        try:
            kept.append(rows[int(index)])
        except UndecodableRow:
            continue
    if not kept:
        return None
    batches = tuple(default_collate(kept[first : first + _AT_ONCE]) for first in range(0, len(kept), _AT_ONCE))
    return Course(model=made.model, held_out=made.held_out, batches=batches, path=out / "export" / FILE)
