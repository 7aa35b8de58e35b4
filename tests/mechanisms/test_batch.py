"""The float64 sum of a logical batch: what is not finite never becomes a clipped sum."""

import pytest
import torch

from sfumato.mechanisms.batch import Sums
from sfumato.plan import Example

UNIT = Example(clip_norm=1.0)


def sums_of(*values: float) -> Sums:
    sums = Sums({"weight": torch.zeros(len(values))})
    sums.add({"weight": torch.tensor(values)})
    return sums


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_sum_that_is_not_finite_is_not_handed_on(bad: float) -> None:
    for values in ((bad, 1.0), (1.0, bad), (bad, -bad), (bad, bad)):
        with pytest.raises(AssertionError, match="not finite"):
            sums_of(*values).clipped(UNIT)


def test_large_sums_are() -> None:
    sums = sums_of(*[3e38] * 1000)
    for _ in range(9):
        sums.add({"weight": torch.full((1000,), 3e38)})
    assert sums.clipped(UNIT).sums["weight"].sum() == pytest.approx(3e42)
