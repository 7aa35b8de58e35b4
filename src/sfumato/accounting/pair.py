"""The worst pair of a sampled Gaussian in closed form: its hockey-stick divergence, to nearly full relative precision.

One coordinate suffices: noise N(0, 1), a record that moves the sum by h = 1 / noise multiplier, and with sampling
probability q, P against Q:

* "remove" (the record was in): (1 - q) N(0, 1) + q N(-h, 1) against N(0, 1);
* "add" (it was not): N(0, 1) against (1 - q) N(0, 1) + q N(h, 1);
* "replace" (it was another one): (1 - q) N(0, 1) + q N(-h, 1) against (1 - q) N(0, 1) + q N(h, 1).

The loss log P(z) / Q(z) falls in z, so the divergence at epsilon is P(z < c) - e^epsilon Q(z < c), where the loss at c
is epsilon. dp_accounting subtracts these two numbers. Where losses are small both are near 1, what is left is wrong by
1e-16, and by 1e-8 once it is divided by a grid of 1e-8. Here their equal parts are taken out first:

    (P - Q)(z < c) - (e^epsilon - 1) Q(z < c),    P - Q = q (Phi(c + h) - Phi(c)) and the like,

and for epsilon < 0 this is (1 - e^epsilon) + (P - Q)(z < c) - (1 - e^epsilon) Q(z > c), of which the first is known.

The divergence is the largest such value over all c: an error in c counts in second order only.
"""

import math
from typing import Literal

import numpy as np
from scipy.optimize import brentq
from scipy.special import log_ndtr, ndtr

Direction = Literal["remove", "add", "replace"]

_TAIL = 10.2  # deviations of the noise beyond which a loss counts as infinite: less than 1e-24 of it
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(12)
_SHORT = 0.5  # a step that 12 nodes integrate to the last digit; over longer ones nothing cancels


def range_of_losses(multiplier: float, prob: float, direction: Direction) -> tuple[float, float]:
    """Return the least and the largest privacy loss between the two tails of the noise."""
    h = 1.0 / multiplier
    least, largest = (_TAIL, -_TAIL - h) if direction != "add" else (_TAIL + h, -_TAIL)
    return _loss(least, h, prob, direction), _loss(largest, h, prob, direction)


def deviation(multiplier: float, prob: float, direction: Direction) -> float:
    """Return the standard deviation of the loss where it is small: q sqrt(e^(h^2) - 1), twice that for an exchange."""
    found = prob * math.sqrt(math.expm1(min(multiplier**-2.0, 700.0)))
    return 2.0 * found if direction == "replace" else found


def divergence(epsilons: np.ndarray, multiplier: float, prob: float, direction: Direction) -> np.ndarray:
    """Return the hockey-stick divergence of P from Q at each epsilon, less max(0, 1 - e^epsilon): float64 (n,), >= 0.

    What is left out is the divergence of two pairs without any loss. Below zero nearly all of it would be just that.
    """
    h = 1.0 / multiplier
    cut = _cut(epsilons, h, prob, direction)
    side = np.where(epsilons < 0.0, -1.0, 1.0)  # the tail of Q that the loss pays for
    log_q = log_ndtr(side * cut)
    if direction == "remove":
        gained = _mass(cut, h)
    else:
        log_q = np.logaddexp(_log_rest(prob) + log_q, math.log(prob) + log_ndtr(side * (cut - h)))
        gained = _mass(cut - h, h)
        if direction == "replace":
            gained = gained + _mass(cut, h)
    paid = np.exp(np.maximum(epsilons, 0.0) + log_q) * -np.expm1(-np.abs(epsilons))
    return np.maximum(prob * gained - paid, 0.0)


def gaussian_epsilon(distance: float, delta: float) -> float:
    """Return epsilon, rounded up, of Gaussians `distance` deviations apart (Balle and Wang, ICML 2018, Theorem 8)."""

    def excess(epsilon: float) -> float:
        return float(divergence(np.array([epsilon]), 1.0 / distance, 1.0, "remove")[0]) - delta

    if excess(0.0) <= 0.0:
        return 0.0
    most = distance * (distance / 2.0 + math.sqrt(2.0 * math.log(1.0 / delta)))  # P(loss > most) <= delta
    found = float(brentq(excess, 0.0, most, xtol=1e-12 * most, rtol=1e-12))  # pyright: ignore[reportArgumentType]
    return found + 1e-11 * most  # more than the search and the rounding of the divergence come to


def _loss(z: float, h: float, prob: float, direction: Direction) -> float:
    joined = _mixed(-h * z - h * h / 2.0, prob) if direction != "add" else 0.0
    left = _mixed(h * z - h * h / 2.0, prob) if direction != "remove" else 0.0
    return joined - left


def _cut(epsilons: np.ndarray, h: float, prob: float, direction: Direction) -> np.ndarray:
    """Return the point c at which the loss is epsilon; infinite where no point has so small or so large a loss."""
    if direction == "remove":
        return -_unmixed(epsilons, prob) / h - h / 2.0
    if direction == "add":
        return _unmixed(-epsilons, prob) / h + h / 2.0
    if prob == 1.0:
        return -epsilons / (2.0 * h)
    # P / Q = e^epsilon is sinh(h c + epsilon / 2) = -(1 - q) / q e^(h^2 / 2) sinh(epsilon / 2)
    half = np.abs(epsilons) / 2.0
    with np.errstate(divide="ignore"):
        log_sinh = half + np.log(-np.expm1(-2.0 * half)) - math.log(2.0)
    log_right = h * h / 2.0 + _log_rest(prob) - math.log(prob) + log_sinh
    right = np.arcsinh(np.exp(np.minimum(log_right, 300.0))) + np.maximum(log_right - 300.0, 0.0)
    return (-np.sign(epsilons) * right - epsilons / 2.0) / h


def _mixed(loss: float, prob: float) -> float:
    """Return log(1 - q + q e^loss)."""
    if prob == 1.0:
        return loss
    if loss > 1.0:
        return float(np.logaddexp(_log_rest(prob), math.log(prob) + loss))
    return math.log1p(prob * math.expm1(loss))


def _unmixed(losses: np.ndarray, prob: float) -> np.ndarray:
    """Return the inverse of `_mixed`, -infinity at and below log(1 - q)."""
    if prob == 1.0:
        return losses
    with np.errstate(divide="ignore"):
        small = np.log1p(np.maximum(np.expm1(np.minimum(losses, 1.0)) / prob, -1.0))
    large = losses - math.log(prob) + np.log1p(-(1.0 - prob) * np.exp(-np.maximum(losses, 1.0)))
    return np.where(losses > 1.0, large, small)


def _log_rest(prob: float) -> float:
    return math.log1p(-prob) if prob < 1.0 else -math.inf


def _mass(start: np.ndarray, h: float) -> np.ndarray:
    """Return Phi(start + h) - Phi(start) without subtracting equal numbers."""
    if h <= _SHORT:
        total = np.zeros_like(start)
        for node, weight in zip(_NODES, _WEIGHTS, strict=True):
            total += weight * np.exp(-0.5 * np.square(start + h * (node + 1.0) / 2.0))
        return total * (h / 2.0 / math.sqrt(2.0 * math.pi))
    flipped = start > -h / 2.0  # the upper tail, where Phi is near 1, is taken from the other side
    low, high = np.where(flipped, -start - h, start), np.where(flipped, -start, start + h)
    return ndtr(high) - ndtr(low)
