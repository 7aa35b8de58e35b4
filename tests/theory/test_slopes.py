"""The privacy term's slopes in eta, sigma, c and d on a log-log fit, within 5 % of those of the formula.

The gradient of infinitely many records, where privacy is the only term (`test_slopes_fuller` draws records). Nothing is
clipped: c is far above the gradients.
"""

from dataclasses import replace

import pytest
from tests.theory.cases import at_rest, linear, slope, with_noise

from sfumato.theory import privacy_floor

TOLERANCE = 0.05
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
