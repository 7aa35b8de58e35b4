"""The privacy term's slopes in eta, sigma, c, d and m on a log-log fit, within 5 % of those of the formula.

Quick: the gradient of infinitely many records, where privacy is the only term. Fuller: Poisson draws of n records, the
term being the difference to the same runs without noise. Nothing is clipped: c is far above the gradients.
"""

from dataclasses import replace

import numpy as np
import pytest
from tests.theory.cases import KEY, linear

from sfumato.theory import LinearClip, privacy_floor, simulate

TOLERANCE = 0.05


def slope(x: list[float], y: list[float]) -> float:
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def at_rest(run: LinearClip, repeats: int, population: bool) -> float:
    """The mean square sin Theta at rest: after 3 / (eta s_r) steps all but e^-6 of the floor is there."""
    forgotten = round(3.0 / (run.learning_rate * run.data.singular_values[-1]))
    run = replace(run, start_angle=0.0, plan=run.plan.with_steps(2 * forgotten))
    course = simulate(run, KEY, repeats=repeats, every=max(1, forgotten // 20), population=population)
    return float(np.mean(course.sin_theta[course.steps > forgotten] ** 2))


def with_noise(run: LinearClip, **change: float) -> LinearClip:
    """Return the run with `noise_multiplier` or `clip_norm` changed: sigma and c, the other one stays."""
    if "clip_norm" in change:
        return replace(run, plan=replace(run.plan, unit=replace(run.unit, clip_norm=change["clip_norm"])))
    return replace(run, plan=replace(run.plan, noise_multiplier=change["noise_multiplier"]))


BASE = linear(noise_std=0.04, clip_norm=10.0, learning_rate=0.02)
AXES = {
    "eta": ((0.005, 0.01, 0.02, 0.04), lambda value: replace(BASE, learning_rate=value), 1.0),
    "sigma": ((0.0005, 0.001, 0.002, 0.004), lambda value: with_noise(BASE, noise_multiplier=value), 2.0),
    "c": ((5.0, 10.0, 20.0, 40.0), lambda value: with_noise(BASE, clip_norm=value), 2.0),
    "d - r": ((10, 20, 40, 80), lambda value: replace(BASE, data=replace(BASE.data, d1=3 + value)), 1.0),
}


@pytest.mark.parametrize("axis", AXES)
def test_slopes_of_the_privacy_term_alone(axis: str) -> None:
    values, run_at, expected = AXES[axis]
    runs = [run_at(value) for value in values]
    predicted = [privacy_floor(run) for run in runs]
    assert slope(values, predicted) == pytest.approx(expected, rel=1e-9)
    simulated = [at_rest(run, 32, population=True) for run in runs]
    assert slope(values, simulated) == pytest.approx(expected, rel=TOLERANCE)
    assert simulated == pytest.approx(predicted, rel=0.06), "the level too, not only the slope"


FULL = linear(noise_std=0.05, clip_norm=30.0, learning_rate=0.06, num_groups=4, batch_size=100, num_records=1000)
FULLER = {
    "eta": ((0.015, 0.03, 0.06), lambda value: replace(FULL, learning_rate=value)),
    "sigma": ((0.25, 0.5, 1.0), lambda value: with_noise(FULL, noise_multiplier=value * 0.01)),
    "c": ((20.0, 40.0, 80.0), lambda value: with_noise(FULL, clip_norm=value)),
    "d": ((20, 40, 80), lambda value: replace(FULL, data=replace(FULL.data, d1=value))),
    "m": (
        (2, 4, 8),
        lambda value: replace(FULL, plan=replace(FULL.plan, unit=replace(FULL.unit, num_groups=value))),
    ),
}


@pytest.mark.parametrize("axis", FULLER)
def test_slopes_over_draws_of_records(axis: str) -> None:
    values, run_at = FULLER[axis]
    runs = [run_at(value) for value in values]
    privacy = [at_rest(run, 16, False) - at_rest(with_noise(run, noise_multiplier=0.0), 16, False) for run in runs]
    expected = slope(values, [privacy_floor(run) for run in runs])
    assert slope(values, privacy) == pytest.approx(expected, rel=TOLERANCE)
