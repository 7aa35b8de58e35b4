"""The privacy term's slopes as in `test_slopes`, over Poisson draws of records and in several groups.

The term is the difference to the same runs, records and draws without noise. Nothing is clipped.
"""

from dataclasses import replace

import pytest
from tests.theory.cases import at_rest, linear, slope, with_noise

from sfumato.theory import privacy_floor

TOLERANCE = 0.05
FULL = linear(noise_std=0.05, clip_norm=30.0, learning_rate=0.06, num_groups=4, batch_size=100, num_records=1000)
FULL = replace(FULL, data=replace(FULL.data, noise=0.1))  # else the difference drowns in what draws alone cause
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
    repeats = 48 if axis == "d" else 16  # narrow views have few coordinates to average over
    runs = [run_at(value) for value in values]
    noisy = [at_rest(run, repeats, population=False) for run in runs]
    clean = [at_rest(with_noise(run, noise_multiplier=0.0), repeats, population=False) for run in runs]
    privacy = [one - other for one, other in zip(noisy, clean)]
    expected = slope(values, [privacy_floor(run) for run in runs])
    assert slope(values, privacy) == pytest.approx(expected, rel=TOLERANCE)
