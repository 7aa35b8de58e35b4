"""The course of a run: how well the released weights caption public held-out pictures, measured while they train.

It is post-processing of what was released, on data declared public: it costs no privacy, and it is the only curve that
a private run may show. The losses on the training records are never shown.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sfumato import losses, models
from sfumato.base.errors import UndecodableRow
from sfumato.recipes.make import Made

FILE = "course.jsonl"
METRIC = {"metric": "caption loss on held-out pictures", "unit": "nats per token"}
_PICTURES, _AT_ONCE = 512, 128


@dataclass(frozen=True, kw_only=True)
class Course:
    """Held-out pictures with their captions, fixed for the whole run, and the file that gets a line at each call."""

    model: Any
    pixel_values: Tensor
    labels: Tensor
    path: Path

    def measure(self, step: int) -> float:
        """Write and return the mean over the pictures of the loss per token; the model's mode stays as it was."""
        device = next(self.model.parameters()).device
        with models.evaluating(self.model):
            parts = [
                losses.caption_loss(self.model, {"pixel_values": pixels.to(device), "labels": labels.to(device)})
                for pixels, labels in zip(self.pixel_values.split(_AT_ONCE), self.labels.split(_AT_ONCE), strict=True)
            ]
        value = float(torch.cat(parts).mean())
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({**METRIC, "step": step, "value": value}) + "\n")
        return value


def course_of(made: Made, out: Path) -> Course | None:
    """Return the course of the run in `out`, or None where no public pictures are held out."""
    test = made.sets.test
    if test is None or not test.public:
        return None
    pictures, captions = [], []
    for index in np.unique(np.linspace(0, len(test) - 1, _PICTURES).astype(int)):
        try:
            example = test[int(index)]
        except UndecodableRow:
            continue
        pictures.append(made.preprocess.evaluate(example["image"]))
        captions.append(example["caption"])
    if not pictures:
        return None
    labels = made.tokenizer.encode(captions, made.max_tokens)
    pixel_values = torch.stack(pictures)
    return Course(model=made.started.model, pixel_values=pixel_values, labels=labels, path=out / "export" / FILE)
