"""The best membership test: the closed form of the Gaussian, simulation of a subsampled one, and monotonicity."""

import math

import numpy as np
import pytest
from scipy.stats import norm

from sfumato.accounting import epsilon_pld, max_true_positive_rate
from sfumato.base import BadInput, FixedSizeDraw, GaussianStep, PoissonDraw, Refused, Relation


def _step(prob, multiplier, relation=Relation.ZERO_OUT):
    return GaussianStep(draw=PoissonDraw(sampling_prob=prob), relation=relation, std=multiplier, presence=1.0, swap=2.0)


@pytest.mark.parametrize("rate", [0.001, 0.01, 0.3])
@pytest.mark.parametrize("multiplier", [1000.0, 30.0, 10.0, 3.0])
def test_gaussian_closed_form(multiplier, rate):
    """At q = 1 the best test compares two normals: Phi(Phi^-1(rate) + sqrt(T) / sigma)."""
    exact = norm.cdf(norm.ppf(rate) + 10.0 / multiplier)
    found = max_true_positive_rate([(_step(1.0, multiplier), 100)], rate)
    assert exact - 1e-9 <= found <= exact * 1.0005


def test_one_subsampled_step_by_hand():
    """(1-q) N(0, s^2) + q N(1, s^2) against N(0, s^2): reject above the 99th percentile."""
    prob, multiplier, rate = 0.2, 0.5, 0.01
    threshold = norm.isf(rate) * multiplier
    exact = (1 - prob) * rate + prob * norm.sf((threshold - 1.0) / multiplier)
    found = max_true_positive_rate([(_step(prob, multiplier), 1)], rate, discretization=1e-3)
    assert exact - 1e-9 <= found <= exact * 1.001


def test_the_question_is_asked_about_presence():
    """ "It was in" is not "it was out": the mirrored question has another answer, and a larger one here."""
    prob, multiplier, rate = 0.2, 0.5, 0.01
    grid = np.linspace(-6.0, 6.0, 200_001)
    absent = norm.pdf(grid, 0, multiplier)
    present = (1 - prob) * absent + prob * norm.pdf(grid, 1, multiplier)
    order = np.argsort(present / absent)
    width = grid[1] - grid[0]
    mirrored = np.interp(rate, np.cumsum(present[order]) * width, np.cumsum(absent[order]) * width)
    assert max_true_positive_rate([(_step(prob, multiplier), 1)], rate, discretization=1e-3) > mirrored * 1.5


def test_below_what_epsilon_alone_allows():
    composition, delta = [(_step(0.02, 1.0), 200)], 1e-6
    eps = epsilon_pld(composition, delta)
    found = max_true_positive_rate(composition)
    assert 0.01 < found < min(delta + math.exp(eps) * 0.01, 1 - math.exp(-eps) * (1 - delta - 0.01))


def test_more_steps_tell_more_and_none_tell_nothing():
    rates = [max_true_positive_rate([(_step(0.02, 1.0), count)], discretization=1e-3) for count in (0, 10, 100, 1000)]
    assert rates[0] == 0.01
    assert rates == sorted(rates)


def test_hopeless_and_perfect_privacy():
    assert max_true_positive_rate([(_step(1.0, 0.5), 100)], discretization=1e-3) == pytest.approx(1.0, abs=1e-9)
    assert max_true_positive_rate([(_step(0.001, 50.0), 1)]) == pytest.approx(0.01, abs=1e-5)


@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_rates_out_of_range(rate):
    with pytest.raises(BadInput, match="false_positive_rate"):
        max_true_positive_rate([(_step(0.1, 1.0), 1)], rate)


def test_no_distribution_no_rate():
    fixed = GaussianStep(
        draw=FixedSizeDraw(num_records=50, batch_size=5), relation=Relation.REPLACE_ONE, std=2.0, presence=1.0, swap=2.0
    )
    with pytest.raises(Refused, match="fixed-size"):
        max_true_positive_rate([(fixed, 3)])
