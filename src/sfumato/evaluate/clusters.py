"""Means of values that come in clusters: questions of one picture are not independent, pictures are."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import stdtrit

from sfumato.base import BadInput
from sfumato.evaluate.accuracy import score_interval


@dataclass(frozen=True, kw_only=True)
class Clustered:
    """A mean over n values of `num_clusters` clusters, with its 95 % interval."""

    mean: float
    low: float
    high: float
    n: int
    num_clusters: int

    def to_json(self, chance: float | None = None) -> dict[str, Any]:
        """Return the numbers as plain JSON values, named as those of an `Accuracy`."""
        named = {"accuracy": self.mean, "low": self.low, "high": self.high, "n": self.n}
        return named | {"num_pictures": self.num_clusters, "chance": chance}


def clustered_share(values: np.ndarray, clusters: np.ndarray) -> Clustered:
    """Return the mean of values in [0, 1] with a Wilson interval at the effective number of values.

    The variance V of the mean is the cluster-robust one, G / (G - 1) * sum over clusters of (sum of its residuals)^2
    / n^2. The effective number is mean (1 - mean) / V, n at most; where the mean is 0 or 1 and V says nothing it is G,
    the number of clusters. The normal quantile is replaced by Student's at G - 1 degrees of freedom. One cluster says
    nothing of others: [0, 1].

    Args:
        values: (N,) in [0, 1].
        clusters: (N,) which cluster each belongs to.

    Raises:
        BadInput: no values, or shapes that differ.

    Source: Korn and Graubard, Survey Methodology 1998, with Wilson's interval for theirs.
    """
    mean, variance, num_clusters = _moments(values, clusters)
    if num_clusters == 1:
        return Clustered(mean=mean, low=0.0, high=1.0, n=len(values), num_clusters=1)
    if mean in (0.0, 1.0):
        effective = float(num_clusters)
    else:
        effective = min(float(len(values)), mean * (1 - mean) / variance if variance > 0 else math.inf)
    low, high = score_interval(mean, effective, _quantile(num_clusters))
    return Clustered(mean=mean, low=low, high=high, n=len(values), num_clusters=num_clusters)


def clustered_difference(first: np.ndarray, second: np.ndarray, clusters: np.ndarray) -> Clustered:
    """Return the mean of first - second, both (N,) in [0, 1] on the same questions, with its interval.

    The difference is a gain less a loss, g = max(first - second, 0) and l = max(second - first, 0), which are shares
    with intervals of their own (`clustered_share`) and a correlation r over clusters. Its low end lies

        sqrt(a^2 + b^2 - 2 r a b) below,    a = mean(g) - low(g),    b = high(l) - mean(l),

    and its high end likewise above. Where many questions differ this is nearly Student's interval of the mean. Where
    none does, so that the variance is 0 and says nothing, the ends are Wilson's for none of G pictures on either side,
    as those of Tango's score interval for pairs are. One cluster says nothing of others: [-1, 1].

    Raises:
        BadInput: as `clustered_share`.

    Source: Zou and Donner 2008 (limits of a difference from those of its parts); Newcombe 1998 and Tango 1998, paired
    shares; all Statistics in Medicine.
    """
    values = np.asarray(first, np.float64) - np.asarray(second, np.float64)
    mean, variance, num_clusters = _moments(values, clusters)
    if num_clusters == 1:
        return Clustered(mean=mean, low=-1.0, high=1.0, n=len(values), num_clusters=1)
    gain, loss = np.maximum(values, 0), np.maximum(-values, 0)
    (_, of_gain, _), (_, of_loss, _) = _moments(gain, clusters), _moments(loss, clusters)
    both = math.sqrt(of_gain * of_loss)
    correlation = max(-1.0, min(1.0, (of_gain + of_loss - variance) / (2 * both))) if both > 0 else 0.0

    def apart(one: float, other: float) -> float:
        return math.sqrt(max(0.0, one * one + other * other - 2 * correlation * one * other))

    up, down = clustered_share(gain, clusters), clustered_share(loss, clusters)
    low = mean - apart(up.mean - up.low, down.high - down.mean)
    high = mean + apart(up.high - up.mean, down.mean - down.low)
    return Clustered(mean=mean, low=max(-1.0, low), high=min(1.0, high), n=len(values), num_clusters=num_clusters)


def _moments(values: np.ndarray, clusters: np.ndarray) -> tuple[float, float, int]:
    """Return mean, variance of the mean (infinite for one cluster) and the number of clusters."""
    values = np.asarray(values, np.float64)
    if values.ndim != 1 or values.shape != np.shape(clusters) or not len(values):
        raise BadInput(f"a mean needs (N,) values and clusters, N >= 1; got {values.shape} and {np.shape(clusters)}.")
    mean = float(values.mean())
    names, place = np.unique(clusters, return_inverse=True)
    if len(names) == 1:
        return mean, math.inf, 1
    residuals = np.bincount(place, weights=values - mean)
    variance = len(names) / (len(names) - 1) * float(residuals @ residuals) / len(values) ** 2
    return mean, variance, len(names)


def _quantile(num_clusters: int) -> float:
    return float(stdtrit(num_clusters - 1, 0.975))
