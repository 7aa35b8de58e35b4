"""Zero-shot classification by the scores of K labels, and caption choice by losses.

A captioner scores by how likely it finds each caption, a dual encoder by how similar picture and text are.

Shapes: N pictures, K labels or captions.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sfumato.base import BadInput
from sfumato.evaluate.accuracy import Accuracy, counted, per_class

TEMPLATE = "this is a photo of a {label}"
TOP = 5  # labels among which the right one is sought too ...
MIN_CLASSES_OF_TOP = 10  # ... where there are so many


@dataclass(frozen=True, kw_only=True)
class ZeroShot:
    """Zero-shot accuracy, by class, and how many pictures had no single best label (they count as wrong).

    `top5`: the right label is among the five best; None where there are fewer than ten labels.
    """

    accuracy: Accuracy
    per_class: dict[str, float]
    num_ties: int
    top5: Accuracy | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the numbers as plain JSON values."""
        found = self.accuracy.to_json() | {"per_class": self.per_class, "num_ties": self.num_ties}
        return found if self.top5 is None else found | {"top5": self.top5.to_json()}


def zero_shot(
    scores: np.ndarray, labels: np.ndarray, class_names: Sequence[str] | None = None, *, tie: float = 0.0
) -> ZeroShot:
    """Count the pictures whose own label scores strictly highest, and those where fewer than five others score as high.

    A model that has collapsed gives every label the same score: it gets nothing, not the share of class 0.

    Args:
        scores: (N, K) float, higher is likelier (minus the loss of the label's caption).
        labels: (N,) int in 0..K-1.
        class_names: K names for the per-class figures.
        tie: scores that differ by no more than this are equal (rounding).

    Raises:
        BadInput: shapes that do not fit, a label out of range, or NaN among the scores.
    """
    labels = _checked(scores, labels)
    num_labels = scores.shape[1]
    own = scores[np.arange(len(labels)), labels]
    num_rivals = (scores >= own[:, None] - tie).sum(1) - 1  # other labels that are as good
    num_best = (scores >= scores.max(1, keepdims=True) - tie).sum(1)
    correct = num_rivals == 0
    many = num_labels >= MIN_CLASSES_OF_TOP
    return ZeroShot(
        accuracy=counted(correct, chance=1.0 / num_labels),
        per_class=per_class(correct, labels, class_names),
        num_ties=int((num_best > 1).sum()),
        top5=counted(num_rivals < TOP, chance=TOP / num_labels) if many else None,
    )


def choose_caption(losses: np.ndarray) -> Accuracy:
    """Count the pictures whose true caption, in column 0, has strictly the lowest loss (the ARO tasks).

    Args:
        losses: (N, K) float, the mean loss per token of the true caption (column 0) and of the false ones. Where a
            picture has fewer than K captions the rest is +infinity.

    Returns:
        The accuracy; its chance is the mean over pictures of one over the number of captions.

    Raises:
        BadInput: NaN among the losses, or a picture with no false caption.
    """
    if losses.ndim != 2 or np.isnan(losses).any():
        raise BadInput(f"caption losses must be (N, K) without NaN, got shape {losses.shape}.")
    num_captions = np.isfinite(losses).sum(1)
    if len(losses) == 0 or (num_captions < 2).any() or not np.isfinite(losses[:, 0]).all():
        raise BadInput("every picture needs its true caption in column 0 and at least one false caption.")
    correct = losses[:, 0] < losses[:, 1:].min(1)
    return counted(correct, chance=float((1.0 / num_captions).mean()))


def _checked(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    labels = np.asarray(labels)
    if scores.ndim != 2 or scores.shape[0] != len(labels) or len(labels) == 0:
        raise BadInput(f"scores {scores.shape} and labels {labels.shape} do not fit: want (N, K) and (N,), N >= 1.")
    if labels.min() < 0 or labels.max() >= scores.shape[1]:
        raise BadInput(f"labels reach from {labels.min()} to {labels.max()}, but there are {scores.shape[1]} scores.")
    if np.isnan(scores).any():
        raise BadInput("the scores hold NaN, so the model has diverged.")
    return labels
