"""A linear classifier on the frozen features of a run: the fine-tuning stage of Logit-DP (arXiv 2310.03104), private
or not.

The encoder is fixed and public (its own run has paid for it), so the features of a row are a function of that row, and
are computed once. Every row's features are scaled to norm 1, by themselves: no mean or deviation of private rows.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sfumato import data, models
from sfumato.base import BadInput
from sfumato.base.files import write_whole
from sfumato.base.parse import parsed
from sfumato.recipes.course import chosen
from sfumato.recipes.exported import check_export
from sfumato.recipes.frozen import digest
from sfumato.recipes.made import HeldOut, Made, public_test
from sfumato.recipes.run import Run
from sfumato.recipes.sets import Sets
from sfumato.recipes.trained import class_numbers, open_trained, readable_rows

WEIGHTS, FACTS = "classifier.safetensors", "classifier.json"


class Classifier(nn.Module):
    """Features (B, D) to logits (B, K): one linear layer on features of norm 1, at zero to begin with.

    Attributes:
        head: the layer.
    """

    def __init__(self, num_features: int, num_classes: int) -> None:
        super().__init__()
        self.head = nn.Linear(num_features, num_classes)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, features: Tensor) -> Tensor:
        """Return logits (B, K)."""
        return self.head(features)


def class_loss(model: nn.Module, batch: Any) -> Tensor:
    """Return the cross-entropy of each row, (B,); a row of an undeclared class (-1) has loss zero."""
    labels = batch["label"]
    found = F.cross_entropy(model(batch["features"]), labels.clamp(min=0), reduction="none")
    return torch.where(labels >= 0, found, 0.0)


def make_classifier(run: Run, sets: Sets) -> Made:
    """Return what a classifier trains with: the features of every row, computed once.

    Raises:
        BadInput: `init` is no run with an encoder; labels or classes are missing.
    """
    if run.model.init is None:
        raise BadInput("a classifier needs the run whose encoder it stands on.")
    trained = open_trained(Path(run.model.init))
    _, names = class_numbers(sets.train, run.data.classes)
    if len(names) < 2 or len(set(names)) < len(names):
        raise BadInput(f"a classifier tells two or more different classes apart, got {len(set(names))} (--classes).")

    def rows(captioned: data.Captioned) -> data.FeatureRows:
        numbers, _ = class_numbers(captioned, names)
        features, readable = readable_rows(captioned, trained.normalised(), trained.features)
        columns = {"features": unit_rows(features), "label": numbers}
        source = digest(trained.loaded, names)
        return data.FeatureRows(captioned=captioned, columns=columns, readable=readable, source=source)

    training_rows = rows(sets.train)
    model = Classifier(training_rows.columns["features"].shape[1], len(names))
    shown = public_test(sets)
    return Made(
        sets=sets,
        preprocess=trained.preprocess,
        rows=training_rows,
        plan=run.plan(sets.train.num_records),
        model=model,
        loss_fn=class_loss,
        training=models.Training(
            trainable=tuple(name for name, _ in model.named_parameters()), frozen=(), absent=(), unreached=()
        ),
        notes=(f"a linear layer at zero on the frozen {trained.kind} of {Path(run.model.init).name}",),
        export=lambda folder: save(model, names, run.model.init or "", folder),
        held_out=None
        if shown is None
        else HeldOut(
            rows=rows(shown.select(chosen(len(shown)))),
            loss=class_loss,
            metric="cross-entropy on held-out pictures",
            unit="nats",
        ),
        record="one picture with its class",
        public={"vocabulary": f"none; the classes are public: {', '.join(names)}"},
        said=f"{len(names)} classes on {training_rows.columns['features'].shape[1]} frozen features",
    )


def unit_rows(features: np.ndarray) -> np.ndarray:
    """Return every row (of (R, D) float32) scaled to norm 1; a row of zeros stays."""
    norms = np.linalg.norm(features.astype(np.float64), axis=1, keepdims=True)
    return (features / np.maximum(norms, 1e-12)).astype(np.float32)


@dataclass(frozen=True, kw_only=True)
class Saved:
    """A classifier read back, its classes, and the run of its encoder."""

    model: Classifier
    classes: tuple[str, ...]
    encoder: Path


def save(model: Classifier, classes: Sequence[str], encoder: str, folder: Path) -> None:
    """Write weight (K, D) and bias (K,) as safetensors, and what they mean as JSON."""
    folder.mkdir(parents=True, exist_ok=True)
    facts = {
        "classes": list(classes),
        "encoder": encoder,
        "features": "of the encoder's evaluation transform, scaled to norm 1 row by row; logits = features W^T + b",
    }
    write_whole(folder / FACTS, json.dumps(facts, indent=1) + "\n")  # which names the file where a disk is full
    beside = folder / f".{WEIGHTS}.new"
    save_file({k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}, beside)
    beside.replace(folder / WEIGHTS)


def load(folder: Path) -> Saved:
    """Return what `save` wrote into `folder`/export.

    Raises:
        BadInput: a file is missing or is not one of these.
        DamagedFile: a file is not what was written.
    """
    check_export(folder)
    export = folder / "export"
    try:
        facts = parsed((export / FACTS).read_bytes())
        weights = load_file(export / WEIGHTS)
        model = Classifier(weights["head.weight"].shape[1], weights["head.weight"].shape[0])
        model.load_state_dict(weights)
        return Saved(model=model.eval(), classes=tuple(facts["classes"]), encoder=Path(facts["encoder"]))
    except (OSError, KeyError, RuntimeError, SafetensorError, ValueError, TypeError) as error:
        raise BadInput(f"{export} holds no classifier: {type(error).__name__}.") from error
