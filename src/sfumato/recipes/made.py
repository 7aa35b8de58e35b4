"""What every kind of run trains with, whatever its model: the one shape that `execute` and `course` know."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from sfumato import data, models
from sfumato.losses import Contrast
from sfumato.mechanisms import LossFn
from sfumato.plan import Plan
from sfumato.recipes.sets import Sets


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """How the course of a run is measured on public held-out rows.

    Attributes:
        rows: a map-style dataset of them, made without randomness.
        loss: model and batch to one value per row, (N,).
        metric, unit: what the mean of these values is, in words.
    """

    rows: Any
    loss: Callable[[nn.Module, Any], Tensor]
    metric: str
    unit: str


@dataclass(frozen=True, kw_only=True)
class Made:
    """Everything that training needs.

    Attributes:
        sets: trained on, and held out.
        preprocess: augmentation and normalisation; None where the model's own processor does it.
        rows: the map-style dataset of training.
        plan: of the run.
        model: at its start, in training mode, on the CPU.
        loss_fn: one value per row, or a `Contrast`.
        training: which parameters train.
        notes: where the weights come from, for log and card.
        export: writes the model into a folder, in a form that loads without sfumato.
        held_out: for the course; None where nothing public is held out.
        record: what one record is, in words.
        public: further facts of the card that are public, such as the vocabulary.
        settings: what the fingerprint needs besides (the tokenizer's digest).
        said: a line about the texts, for the console.
        synthetic: n -> a batch of n made-up rows, where ones and zeros are no valid rows for the model.
    """

    sets: Sets
    preprocess: data.Preprocess | None
    rows: Any
    plan: Plan
    model: nn.Module
    loss_fn: LossFn | Contrast
    training: models.Training
    notes: tuple[str, ...]
    export: Callable[[Path], object]
    held_out: HeldOut | None = None
    record: str = "one picture with its caption"
    public: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    said: str = ""
    synthetic: Callable[[int], Any] | None = None


def public_test(sets: Sets) -> data.Captioned | None:
    """Return what is held out where it was declared public: only then may figures on it be shown during a run."""
    return sets.test if sets.test is not None and sets.test.public else None
