"""Run the linear dual encoder under its plan and measure how far its layers are from the signal's directions.

float64; R repeats at once; a function of the setting and a key.
"""

from dataclasses import dataclass

import numpy as np

from sfumato.base import BadInput, seeds
from sfumato.theory.setting import LinearClip
from sfumato.theory.spiked import sin_theta
from sfumato.theory.update import Layers, SumFn, from_population, from_records

Array = np.ndarray


@dataclass(frozen=True, kw_only=True, eq=False)
class Course:
    """What a simulation saw, for K measured steps and R repeats.

    Attributes:
        steps: how many steps were done at each measurement, (K,).
        sin_theta: ||sin Theta(G1, U1)||_F, (K, R).
        sin_theta_other: ||sin Theta(G2, U2)||_F, (K, R).
        clip_factor: mean factor over the groups of the step, (K, R); an empty group counts as zero.
    """

    steps: Array
    sin_theta: Array
    sin_theta_other: Array
    clip_factor: Array

    @property
    def final(self) -> float:
        """Root mean square over the repeats of ||sin Theta(G1, U1)||_F after the last step."""
        return float(np.sqrt(np.mean(self.sin_theta[-1] ** 2)))

    @property
    def final_error(self) -> float:
        """Standard error of `final` (of the mean square, carried to its root); NaN for one repeat."""
        squares = self.sin_theta[-1] ** 2
        if len(squares) < 2:
            return float("nan")
        return float(np.std(squares, ddof=1) / np.sqrt(len(squares)) / max(2.0 * self.final, 1e-300))


def simulate(run: LinearClip, key: bytes, *, repeats: int, every: int = 1, population: bool = False) -> Course:
    """Return the course of `repeats` independent runs: own data sets, draws and noise, one pair of bases U1, U2.

    Args:
        run: data, plan, learning rate.
        key: 32 bytes; everything random is derived from it.
        repeats: R >= 1.
        every: measure after every so many steps, and after the last one.
        population: take the gradient of infinitely many records instead of draws: privacy and optimisation alone.

    Raises:
        BadInput: repeats or every is below 1, or the run left the finite numbers (its learning rate is too large).
    """
    if repeats < 1 or every < 1:
        raise BadInput(f"repeats and every must be at least 1, got {repeats} and {every}.")
    u1, u2, beside_1, beside_2 = run.data.directions(seeds.derive(key, "directions"))
    g1, g2 = (
        np.broadcast_to(one, (repeats, *one.shape)).copy()
        for one in (_start(run, u1, beside_1), _start(run, u2, beside_2))
    )
    if population:
        sums = from_population(run, run.data.cross_covariance(u1, u2))
    else:
        shape = (repeats, run.num_records)
        sums = from_records(
            run, run.data.records(seeds.derive(key, "records"), u1, u2, shape), seeds.derive(key, "draws")
        )
    return _descend(run, (g1, g2), sums, (u1, u2), key, every)


def _descend(run: LinearClip, layers: Layers, sums: SumFn, bases: Layers, key: bytes, every: int) -> Course:
    rng = seeds.generator(seeds.derive(key, "noise"))
    g1, g2 = layers
    seen = []
    for step in range(run.plan.steps):
        found = sums(step, g1, g2)
        g1, g2 = (_updated(run, g, total, rng) for g, total in zip((g1, g2), found.layers))
        if (step + 1) % every == 0 or step + 1 == run.plan.steps:
            if not (np.isfinite(g1).all() and np.isfinite(g2).all()):
                raise BadInput(f"learning_rate {run.learning_rate:g} is too large: the weights are no longer finite.")
            seen.append((step + 1, sin_theta(g1, bases[0]), sin_theta(g2, bases[1]), found.factor))
    steps, one, other, factors = (np.array(column) for column in zip(*seen))
    return Course(steps=steps, sin_theta=one, sin_theta_other=other, clip_factor=factors)


def _updated(run: LinearClip, layer: Array, total: Array, rng: np.random.Generator) -> Array:
    """Return layer - eta (sum + noise_std z) / divisor, both of the plan: noise on the sum, then a public constant."""
    noisy = total + run.plan.noise_std * rng.standard_normal(layer.shape)
    return layer - run.learning_rate * noisy / run.plan.divisor


def _start(run: LinearClip, u: Array, beside: Array) -> Array:
    """Return sqrt(D / rho) (cos a U + sin a W)^T, (r, d): both layers so are balanced, G1 G1^T = G2 G2^T = D / rho."""
    turned = np.cos(run.start_angle) * u + np.sin(run.start_angle) * beside
    return np.sqrt(run.data.s / run.rho)[:, None] * turned.T
