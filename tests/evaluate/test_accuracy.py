import numpy as np
import pytest
from scipy.stats import binomtest

from sfumato.base import BadInput
from sfumato.evaluate.accuracy import Accuracy, counted, per_class, wilson


@pytest.mark.parametrize(("num_correct", "n"), [(0, 1), (0, 37), (5, 5), (1, 3), (423, 500), (8842, 10_000)])
def test_wilson_is_scipys(num_correct, n):
    reference = binomtest(num_correct, n).proportion_ci(0.95, method="wilson")
    assert wilson(num_correct, n) == pytest.approx((reference.low, reference.high), abs=1e-12)


def test_wilson_covers_the_truth():
    rng = np.random.default_rng(0)
    intervals = [wilson(int(draw), 60) for draw in rng.binomial(60, 0.85, 2000)]
    assert 0.93 < np.mean([low <= 0.85 <= high for low, high in intervals]) < 0.97


@pytest.mark.parametrize(("num_correct", "n"), [(-1, 3), (4, 3), (0, 0)])
def test_impossible_counts_are_refused(num_correct, n):
    with pytest.raises(BadInput):
        wilson(num_correct, n)
    with pytest.raises(BadInput):
        Accuracy(num_correct=num_correct, n=n)


def test_counted_and_per_class():
    correct = np.array([True, False, True, True])
    assert counted(correct, chance=0.5).to_json() == {
        "accuracy": 0.75,
        "low": wilson(3, 4)[0],
        "high": wilson(3, 4)[1],
        "n": 4,
        "chance": 0.5,
    }
    labels = np.array([2, 2, 0, 2])
    assert per_class(correct, labels) == {"0": 1.0, "2": pytest.approx(2 / 3)}
    assert per_class(correct, labels, ["bag", "boot", "coat"]) == {"bag": 1.0, "coat": pytest.approx(2 / 3)}
