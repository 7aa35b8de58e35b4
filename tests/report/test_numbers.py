import math
from statistics import NormalDist

import pytest

from sfumato.base import BadInput
from sfumato.report.numbers import most_recognised


@pytest.mark.parametrize("distance", [0.1, 0.5, 1.0, 2.0, 4.0])
@pytest.mark.parametrize("epsilon", [0.0, 0.5, 1.0, 2.0, 4.0, 8.0])
def test_bound_holds_for_the_best_test_of_a_gaussian(distance: float, epsilon: float) -> None:
    """The Gaussian mechanism's own (epsilon, delta) and its own best test (Dong, Roth, Su 2022) are closed forms."""
    normal = NormalDist()
    below = normal.cdf(-epsilon / distance - distance / 2)
    delta = normal.cdf(distance / 2 - epsilon / distance) - math.exp(epsilon) * below
    best = normal.cdf(normal.inv_cdf(0.01) + distance)
    assert best <= most_recognised(epsilon, max(0.0, delta)) + 1e-12


def test_bound_is_tight_for_randomised_response() -> None:
    """A bit told truly with probability e/(1+e): both sides of the bound meet at the test that believes the bit."""
    epsilon = 1.3
    truth = math.exp(epsilon) / (1 + math.exp(epsilon))
    assert most_recognised(epsilon, 0.0, false_alarms=1 - truth) == pytest.approx(truth)


@pytest.mark.parametrize("wrong", [(-1.0, 0.0), (1.0, 1.0), (math.nan, 0.0)])
def test_no_bound_of_nonsense(wrong: tuple[float, float]) -> None:
    with pytest.raises(BadInput, match="not a privacy statement"):
        most_recognised(*wrong)


def test_bound_survives_huge_epsilon() -> None:
    assert most_recognised(1e6, 1e-9) == 1.0
