"""Few-shot probe: the same classifier on a handful of labelled pictures per class."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sfumato.base import BadInput
from sfumato.evaluate.probe import checked, fit_predict

SHOTS = (1, 2, 5, 10)
# With ten pictures a class there is nothing to choose C on; 1 is the usual fixed value on standardised features.
INVERSE_PENALTY = 1.0


@dataclass(frozen=True, kw_only=True)
class Shots:
    """Test accuracies after training on `num_shots` pictures per class, one for each draw of those pictures.

    Attributes:
        num_shots: labelled pictures per class.
        accuracies: one per draw.
        n: test pictures.
        chance: one over the number of classes, as the balanced draw gives no reason to prefer any; less where test
            pictures are of classes without training pictures.
        converged: whether every fit did.
    """

    num_shots: int
    accuracies: tuple[float, ...]
    n: int
    chance: float
    converged: bool

    @property
    def mean(self) -> float:
        """Mean over the draws."""
        return float(np.mean(self.accuracies))

    @property
    def std(self) -> float:
        """Standard deviation over the draws (divided by draws - 1; 0 for a single draw)."""
        return float(np.std(self.accuracies, ddof=1)) if len(self.accuracies) > 1 else 0.0

    def to_json(self) -> dict[str, Any]:
        """Return the numbers as plain JSON values."""
        names = ("num_shots", "mean", "std", "n", "chance", "converged")
        return {name: getattr(self, name) for name in names} | {"accuracies": list(self.accuracies)}


def few_shot(
    train_features: np.ndarray,
    train_labels: np.ndarray,
    test_features: np.ndarray,
    test_labels: np.ndarray,
    *,
    shots: Sequence[int] = SHOTS,
    num_draws: int = 5,
    seed: int = 0,
) -> tuple[Shots, ...]:
    """Return, for each number of shots, the test accuracies of `num_draws` class-balanced draws.

    Draw d is a function of (seed, number of shots, d) and of the labels alone, so that every kind of features that
    is compared gets the same pictures. Features are standardised by the drawn pictures.

    Args:
        train_features: (N, D) float; `test_features` (M, D).
        train_labels: (N,) int; `test_labels` (M,).
        shots: pictures per class.
        num_draws: draws for each.
        seed: of the draws.

    Raises:
        BadInput: a class has fewer pictures than shots; or as `linear_probe`.
    """
    train_features, test_features = checked(train_features, train_labels, test_features, test_labels)
    results = []
    for num_shots in shots:
        fits = []
        for draw in range(num_draws):
            rows = balanced_draw(train_labels, num_shots, seed=seed, draw=draw)
            features, labels = train_features[rows], train_labels[rows]
            fits.append(fit_predict(features, labels, test_features, inverse_penalty=INVERSE_PENALTY))
        shot = Shots(
            num_shots=num_shots,
            accuracies=tuple(float((fit.predicted == test_labels).mean()) for fit in fits),
            n=len(test_labels),
            chance=float(np.isin(test_labels, train_labels).mean()) / len(np.unique(train_labels)),
            converged=all(fit.converged for fit in fits),
        )
        results.append(shot)
    return tuple(results)


def balanced_draw(labels: np.ndarray, num_shots: int, *, seed: int, draw: int) -> np.ndarray:
    """Return the rows of `num_shots` pictures of every class that occurs, shape (classes * num_shots,), int64.

    Raises:
        BadInput: a class has fewer than `num_shots` pictures.
    """
    rng = np.random.default_rng([seed, num_shots, draw])
    rows = []
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        if len(members) < num_shots:
            raise BadInput(f"class {label} has {len(members)} pictures, fewer than {num_shots} shots.")
        rows.append(rng.choice(members, num_shots, replace=False))
    return np.concatenate(rows)
