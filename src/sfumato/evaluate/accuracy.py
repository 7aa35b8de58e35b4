"""A share of right answers with what is needed to read it: how many, how sure, and what guessing would give."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

from sfumato.base import BadInput


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """`num_correct` of `n` answers were right; `chance` is the share that guessing would get (None: not defined)."""

    num_correct: int
    n: int
    chance: float | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.num_correct <= self.n or self.n < 1:
            raise BadInput(f"an accuracy needs 0 <= num_correct <= n and n >= 1, got {self.num_correct} of {self.n}.")

    @property
    def rate(self) -> float:
        """The share of right answers, in [0, 1]."""
        return self.num_correct / self.n

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % Wilson interval of the share."""
        return wilson(self.num_correct, self.n)

    def to_json(self) -> dict[str, Any]:
        """Return the numbers as plain JSON values."""
        low, high = self.interval
        return {"accuracy": self.rate, "low": low, "high": high, "n": self.n, "chance": self.chance}


def wilson(num_correct: float, n: int, level: float = 0.95) -> tuple[float, float]:
    """Return the Wilson score interval of a share, which stays inside [0, 1] and is honest near its ends.

    It speaks of the sampling of the test pictures only, not of the training run's own randomness.

    >>> [round(x, 3) for x in wilson(8, 10)]
    [0.49, 0.943]
    """
    if not 0 <= num_correct <= n or n < 1:
        raise BadInput(f"an interval needs 0 <= num_correct <= n and n >= 1, got {num_correct} of {n}.")
    return score_interval(num_correct / n, n, NormalDist().inv_cdf(0.5 + level / 2))


def score_interval(rate: float, n: float, z: float) -> tuple[float, float]:
    """Return Wilson's interval of a share in [0, 1] of n values, which need be no whole number, at the quantile z."""
    square = z * z / n
    centre = (rate + square / 2) / (1 + square)
    half = math.sqrt(square * (rate * (1 - rate) + square / 4)) / (1 + square)
    # At 0 and 1 the closed form is exactly 0 and 1; rounding would leave 1e-17 beyond.
    low = 0.0 if rate == 0 else max(0.0, centre - half)
    high = 1.0 if rate == 1 else min(1.0, centre + half)
    return low, high


def counted(correct: np.ndarray, chance: float | None = None) -> Accuracy:
    """Return the accuracy of a boolean array of shape (N,), N >= 1."""
    return Accuracy(num_correct=int(np.count_nonzero(correct)), n=len(correct), chance=chance)


def per_class(correct: np.ndarray, labels: np.ndarray, class_names: Sequence[str] | None = None) -> dict[str, float]:
    """Return the share of right answers among the pictures of each class that occurs, by class name (or number).

    Args:
        correct: (N,) bool.
        labels: (N,) int, the true classes.
        class_names: names in the order of the class numbers.
    """
    present = [int(label) for label in np.unique(labels)]
    names = {label: str(label) if class_names is None else class_names[label] for label in present}
    return {name: float(correct[labels == label].mean()) for label, name in names.items()}
