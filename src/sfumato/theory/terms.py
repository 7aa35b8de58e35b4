"""What a linear run's error is made of: optimisation, privacy, sampling and statistical terms, predicted.

All terms are parts of E ||sin Theta(G1, U1)||_F^2, to first order around the minimiser G1 = sqrt(D/rho) U1^T,
G2 = sqrt(D/rho) U2^T, D = diag(s). Let row k of G1 have the part p_k beside the signal, d1 - r numbers; then
tan^2 Theta_k = |p_k|^2 rho / s_k. The gradient of p_k is s_k p_k (S leads nowhere beside U1, and rho G2 G2^T = D), so
one step of rate eta, clip factor f and noise s per coordinate of the mean over groups is

    p_k <- (1 - eta f s_k) p_k + eta (f e_k + s N(0, I)),   e_k the error of the draw's cross-covariance.

The same holds all along the solutions A G1, A^-T G2: with B = A^-T sqrt(D/rho) the rate becomes rho B B^T, and the
angle's variance, (A sqrt(D/rho))^-1 (rho B B^T)^-1 (A sqrt(D/rho))^-T, is that of A = I. So the random walk that noise
makes of A changes no term (for small eta): a balanced start is convenient, not needed.

Shapes: E learning rates, r directions.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy import stats

from sfumato.base import BadInput
from sfumato.mechanisms import clip_factor
from sfumato.theory.setting import LinearClip

Array = np.ndarray
LEARNING_RATES: tuple[float, ...] = tuple(float(f"{rate:.3g}") for rate in np.geomspace(0.000125, 0.512, 25))
_LARGEST_RATE = 0.5  # of eta f s_1: from 1 on the length of G1^T G2 swings; the expansion is good well below
_QUANTILES = 15


@dataclass(frozen=True, kw_only=True)
class Terms:
    """Predicted parts of ||sin Theta(G1, U1)||_F^2 after the last step; they add up to `total`.

    Attributes:
        optimisation: what is left of the start's angles.
        privacy: the noise that was added.
        sampling: that a step sees a draw and not all records.
        statistical: that n records are not the population; no training removes it.
        clip_factor: mean factor in the last step: 1 where nothing is clipped.
        valid: whether eta f s_1 stayed below 1/2; else the terms are not to be believed.
    """

    optimisation: float
    privacy: float
    sampling: float
    statistical: float
    clip_factor: float
    valid: bool

    @property
    def total(self) -> float:
        """The sum of the four terms."""
        return self.optimisation + self.privacy + self.sampling + self.statistical

    @property
    def sin_theta(self) -> float:
        """The predicted root mean square of ||sin Theta(G1, U1)||_F."""
        return float(np.sqrt(self.total))


def privacy_floor(run: LinearClip, factor: float = 1.0) -> float:
    """Return (eta rho s^2 / (2 f)) (d1 - r) sum_k 1 / s_k^2, which the privacy term tends to [PAPERS section 3].

    The recursion of this file's head has the stationary variance eta^2 s^2 / (1 - (1 - eta f s_k)^2) in each of d1 - r
    coordinates, eta s^2 / (2 f s_k) for small eta; times rho / s_k it is an angle. With s = sigma 2c / m it is
    quadratic in sigma and c and falls with the square of the number of groups; where everything is clipped, f ~ c, and
    it is linear in c.
    """
    data = run.data
    angles = (data.d1 - data.rank) * np.sum(1.0 / data.s**2)
    return float(run.learning_rate * run.rho * run.noise_std**2 / (2.0 * factor) * angles)


def sampling_floor(run: LinearClip) -> float:
    """Return (eta / 2) (d1 - r) (1 - q) E[1/(N-1)] / m sum_k noise^2 (w_k + noise^2) / s_k: nothing clipped.

    The draw's error is e_k = sqrt(s_k/rho) (S_draw - S_n) v_k beside U1, v_k the column of U2. A record contributes xi
    (z~_k + xi~ v_k) to it, of variance noise^2 (w_k + noise^2) in each coordinate, over N - 1 in a group of N, over m
    groups; the part 1 - q of it is there because S_n, not the population, is what the draws scatter around. Then as
    for `privacy_floor`, with this in the place of s^2.
    """
    data, groups = run.data, run.unit.num_groups
    inverse = np.mean(_inverse_sizes(run)) / groups * (1.0 - run.plan.sampling_prob)
    return float(run.learning_rate / 2.0 * inverse * np.sum(_beside(run) / data.s))


def statistical_error(run: LinearClip) -> float:
    """Return (d1 - r) noise^2 / (n - 1) sum_k (w_k + noise^2) / s_k^2: how far U1 of n records is from U1.

    To first order in E = S_n - S (Wedin 1972, Davis and Kahan 1970, with their inequality an equality), the left
    singular subspace of S + E is turned by U1_perp U1_perp^T E U2 D^-1: from (S + E) v = u s beside U1. Column k of
    U1_perp^T E U2 is the mean of n products xi (z~_k + xi~ v_k), of variance noise^2 (w_k + noise^2) in each of d1 - r
    coordinates. It needs ||E|| well below the smallest s_k.
    """
    return float(np.sum(_statistical(run)))


def predict(run: LinearClip) -> Terms:
    """Return the terms after `plan.steps` steps at the run's learning rate; see `predict_each`."""
    return predict_each(run, (run.learning_rate,))[0]


def predict_each(run: LinearClip, learning_rates: Sequence[float]) -> list[Terms]:
    """Return the terms after `plan.steps` steps for each learning rate, from public numbers alone.

    The recursion of this file's head is carried step by step, with the mean clip factor f of each step taken by the
    plan's own rule at gradients of norm^2 |mean|^2 + A chi / (N - 1): |mean|^2 the gradient that the angles at hand
    cause, N - 1 and chi the quantiles of group sizes and of the length of a draw's error, A its mean square at N = 2.
    While nothing is clipped this is geometric: optimisation tan^2(start_angle) (1 - eta s_k)^2T, privacy and sampling
    floor (1 - (1 - eta s_k)^2T), statistical (1 - (1 - eta s_k)^T)^2 of the full one.
    """
    rates = np.asarray(learning_rates, np.float64)
    if not (rates > 0).all():
        raise BadInput(f"learning rates must be positive, got {list(learning_rates)}.")
    state = _Angles.start(run, len(rates))
    clipping = _Clipping.of(run)
    valid = np.ones(len(rates), bool)
    factor = np.ones(len(rates))
    with np.errstate(over="ignore", invalid="ignore"):  # a rate that diverges is marked, not warned of
        for _ in range(run.plan.steps):
            factor, scatter = clipping(state.gradient_square(run))
            valid &= rates * factor * run.data.s[0] <= _LARGEST_RATE
            state = state.stepped(run, rates, factor, scatter)
        parts = state.parts(run)
    return [
        Terms(
            **{name: float(part[i]) for name, part in parts.items()}, clip_factor=float(factor[i]), valid=bool(valid[i])
        )
        for i in range(len(rates))
    ]


def with_best_learning_rate(run: LinearClip, learning_rates: Sequence[float] = LEARNING_RATES) -> LinearClip:
    """Return the run at the learning rate of least predicted error: a choice from public numbers, that costs nothing.

    Raises:
        BadInput: the prediction holds for none of them.
    """
    found = [
        (terms.total, rate) for rate, terms in zip(learning_rates, predict_each(run, learning_rates)) if terms.valid
    ]
    if not found:
        raise BadInput("none of the learning rates is small enough for the prediction to hold: give smaller ones.")
    return replace(run, learning_rate=min(found)[1])


# ---------------------------------------------------------------- the recursion


@dataclass(frozen=True, kw_only=True, eq=False)
class _Angles:
    """tan Theta_k of the start's rest; tan^2 Theta_k of noise and of draws; how far S_n is forgotten. All (E, r)."""

    rest: Array
    privacy: Array
    sampling: Array
    ahead: Array

    @classmethod
    def start(cls, run: LinearClip, rates: int) -> "_Angles":
        zero = np.zeros((rates, run.data.rank))
        return cls(rest=zero + np.tan(run.start_angle), privacy=zero, sampling=zero, ahead=zero + 1.0)

    def gradient_square(self, run: LinearClip) -> Array:
        """Return the square norm of the mean gradient of both layers, (E,): s_k p_k in row k."""
        data = run.data
        both = 1.0 + (data.d2 - data.rank) / (data.d1 - data.rank)
        sine_square = 2.0 * self.rest**2 / (1.0 + self.rest**2) + both * (self.privacy + self.sampling)
        return (sine_square * data.s**3 / run.rho).sum(1)

    def stepped(self, run: LinearClip, rates: Array, factor: Array, scatter: Array) -> "_Angles":
        data, eta = run.data, rates[:, None]
        keep = 1.0 - eta * factor[:, None] * data.s
        noise = eta**2 * run.rho * run.noise_std**2 * (data.d1 - data.rank) / data.s
        draws = eta**2 * scatter[:, None] * _beside(run)
        return _Angles(
            rest=self.rest * keep,
            privacy=self.privacy * keep**2 + noise,
            sampling=self.sampling * keep**2 + draws,
            ahead=self.ahead * keep,
        )

    def parts(self, run: LinearClip) -> dict[str, Array]:
        """Return each term, (E,); sin^2 = tan^2 / (1 + tan^2) in each direction, shared out among its terms."""
        tangents = {
            "optimisation": self.rest**2,
            "privacy": self.privacy,
            "sampling": self.sampling,
            "statistical": _statistical(run) * (1.0 - self.ahead) ** 2,
        }
        cosine_square = 1.0 / (1.0 + sum(tangents.values()))
        return {name: (part * cosine_square).sum(1) for name, part in tangents.items()}


class _Clipping:
    """From |mean gradient|^2 (E,) to the mean factor (E,) and the variance E[f^2 chi / (N-1)] (1-q) / m (E,)."""

    def __init__(self, run: LinearClip, scatter: Array, square: float) -> None:
        self._factor, self._scatter, self._square = clip_factor(run.unit), scatter, square
        self._share = (1.0 - run.plan.sampling_prob) / run.unit.num_groups

    @classmethod
    def of(cls, run: LinearClip) -> "_Clipping":
        variances = _variances(run)
        freedom = variances.sum() ** 2 / (variances**2).sum()  # the chi-square of equal mean and variance
        lengths = stats.chi2.ppf(_midpoints(), freedom)
        scatter = _inverse_sizes(run)[:, None] * lengths / lengths.mean()
        return cls(run, scatter.ravel(), float(variances.sum()))

    def __call__(self, mean_square: Array) -> tuple[Array, Array]:
        norms = np.sqrt(mean_square[:, None] + self._square * self._scatter)
        # An inverse size of 0 stands for a group of fewer than two records: no loss, so nothing enters.
        factors = self._factor(torch.from_numpy(norms)).numpy() * (self._scatter > 0)
        return factors.mean(1), (factors**2 * self._scatter).mean(1) * self._share


def _variances(run: LinearClip) -> Array:
    """Return the variances of the draw's error of the gradient at N = 2, one for each coordinate of both layers.

    Row k of a layer has s_k/rho times the variance of a product of Gaussians, E a^2 E b^2 + (E a b)^2: noise^2 (w_k +
    noise^2) beside the signal, (w_j + noise^2)(w_k + noise^2) along direction j, and s_k^2 more where j = k.
    """
    data = run.data
    observed = data.latent_variance + data.noise**2
    along = np.outer(observed, observed) + np.diag(data.s**2)
    sides = [np.repeat(data.noise**2 * observed[:, None], d - data.rank, axis=1) for d in (data.d1, data.d2)]
    return np.concatenate([(block * data.s[:, None] / run.rho).ravel() for block in (along, *sides, along)])


def _inverse_sizes(run: LinearClip) -> Array:
    """Return 1 / (N-1) at quantiles of the group size N, which is binomial(n, q/m); 0 where N < 2."""
    sizes = stats.binom.ppf(_midpoints(), run.num_records, run.plan.sampling_prob / run.unit.num_groups)
    return np.where(sizes >= 2, 1.0 / np.maximum(sizes - 1, 1), 0.0)


def _midpoints() -> Array:
    return (np.arange(_QUANTILES) + 0.5) / _QUANTILES


def _beside(run: LinearClip) -> Array:
    """Return (d1 - r) noise^2 (w_k + noise^2), (r,): the square of one record's xi (z~_k + xi~ v_k)."""
    data = run.data
    return (data.d1 - data.rank) * data.noise**2 * (data.latent_variance + data.noise**2)


def _statistical(run: LinearClip) -> Array:
    return _beside(run) / (run.num_records - 1) / run.data.s**2
