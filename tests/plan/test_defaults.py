"""A starting point from the number of records alone."""

import pytest

from sfumato.plan import default_batch_size, default_steps


@pytest.mark.parametrize("num_records", [1, 2, 63, 64, 100, 1_000, 60_000, 10**6, 10**9])
def test_defaults_are_possible(num_records):
    batch = default_batch_size(num_records)
    assert 1 <= batch <= min(num_records, 65_536)
    assert 200 <= default_steps(num_records, batch) <= 10_000


def test_one_in_twenty_four_rounded_down_to_a_power_of_two():
    assert default_batch_size(24 * 4096) == 4096
    assert default_batch_size(24 * 4096 - 1) == 2048
    assert default_steps(24 * 4096, 4096) == 480
