"""Epsilon over a grid of batch sizes and noise multipliers."""

import pytest

from sfumato.base import Refused
from sfumato.plan import Example, Plan, epsilon_grid
from sfumato.sampling import FixedSize, Poisson

PLAN = Plan(unit=Example(clip_norm=1.0), sampler=Poisson(num_records=10_000, expected_batch_size=100), steps=50)


def test_rows():
    rows = epsilon_grid(PLAN, [50, 200], [1.5, 3.0])
    assert [(row["batch_size"], row["noise_multiplier"]) for row in rows] == [
        (50, 1.5),
        (50, 3.0),
        (200, 1.5),
        (200, 3.0),
    ]
    by_point = {(row["batch_size"], row["noise_multiplier"]): row["epsilon_pld"] for row in rows}
    assert by_point[50, 3.0] < by_point[50, 1.5] < by_point[200, 1.5]
    for row in rows:
        assert row["epsilon_rdp"] > row["epsilon_pld"]
        assert row["noise_per_coordinate"] == row["noise_multiplier"] / row["batch_size"]
    assert rows[2]["epochs"] == 1.0


def test_cells_without_an_epsilon():
    fixed = Plan(unit=Example(clip_norm=1.0), sampler=FixedSize(num_records=10_000, batch_size=100), steps=5)
    (row,) = epsilon_grid(fixed, [100], [8.0])
    assert row["epsilon_pld"] is None
    assert row["epsilon_rdp"] > 0
    (row,) = epsilon_grid(PLAN, [5000], [0.0])
    assert row["epsilon_pld"] is row["epsilon_rdp"] is None


def test_not_for_simulations():
    with pytest.raises(Refused, match="simulation"):
        epsilon_grid(Plan(unit=PLAN.unit, sampler=PLAN.sampler, steps=5, noise_multiplier=1.0).twin(2), [50], [1.0])
