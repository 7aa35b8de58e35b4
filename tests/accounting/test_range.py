"""Far out: every epsilon is an upper bound, close where it can be, over many decades of noise, steps, q and delta."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sfumato.accounting import calibrate_noise_multiplier, calibrate_steps, epsilon_pld, epsilon_rdp
from sfumato.accounting.pair import gaussian_epsilon
from sfumato.base import FixedSizeDraw, GaussianStep, PoissonDraw, Refused, Relation

QUICK = 1e-3
ALMOST_ONE = 1.0 - 1e-13
DELTAS = (1e-3, 1e-6, 1e-9, 1e-12, 1e-15)


def step(prob, multiplier, relation=Relation.ZERO_OUT):
    return GaussianStep(draw=PoissonDraw(sampling_prob=prob), relation=relation, std=multiplier, presence=1.0, swap=2.0)


def or_infinite(accountant, composition, delta, *more):
    try:
        return accountant(composition, delta, *more)
    except Refused:
        return math.inf


@pytest.mark.parametrize("delta", DELTAS)
@pytest.mark.parametrize("steps", [1, 1000, 10**7])
@pytest.mark.parametrize("target", [1e-6, 1e-3, 1.0, 30.0, 1000.0])
def test_all_records_in_every_step_is_the_closed_form(target, steps, delta):
    """At q = 1 the least noise is found that meets the target, and the next number of five digits does not."""
    found = calibrate_noise_multiplier(step(1.0, 1.0), steps, epsilon=target, delta=delta)
    distance = math.sqrt(steps) / found
    assert gaussian_epsilon(distance, delta) <= target
    assert gaussian_epsilon(distance * (1 + 3e-4), delta) > target


@pytest.mark.parametrize(
    ("multiplier", "steps"), [(0.02, 1), (0.05, 2), (1.0, 10), (30.0, 1000), (1e3, 100), (1e5, 10**4), (1e5, 10**6)]
)
def test_numerical_compositions_lie_just_above_the_closed_form(multiplier, steps):
    for delta in (1e-3, 1e-6, 1e-8):
        exact = gaussian_epsilon(math.sqrt(steps) / multiplier, delta)
        found = epsilon_pld([(step(ALMOST_ONE, multiplier), steps)], delta)
        assert exact * (1 - 1e-9) <= found <= exact * (1.001 if steps < 10**6 else 1.003)  # rounding is charged


def test_the_same_under_replace_one():
    for multiplier, steps in ((1e4, 500), (20.0, 100)):
        exact = gaussian_epsilon(2.0 * math.sqrt(steps) / multiplier, 1e-7)
        found = epsilon_pld([(step(ALMOST_ONE, multiplier, Relation.REPLACE_ONE), steps)], 1e-7)
        assert exact * (1 - 1e-9) <= found <= exact * 1.001


@pytest.mark.parametrize("prob", [1e-7, 1e-3, 0.1])
@pytest.mark.parametrize("multiplier", [0.02, 0.3, 3.0, 1e3, 1e5])
@pytest.mark.parametrize("steps", [1, 10**4])
def test_rdp_is_never_below_pld(prob, multiplier, steps):
    composition = [(step(prob, multiplier), steps)]
    for delta in DELTAS:
        by_rdp, by_pld = (or_infinite(each, composition, delta) for each in (epsilon_rdp, epsilon_pld))
        if by_pld < math.inf:  # PLD refuses what double precision does not resolve, and noise that is next to none
            assert by_pld <= by_rdp * (1 + 1e-3)
        else:
            assert delta < steps * 1e-15 or multiplier < 0.1


@pytest.mark.parametrize(("target", "noise"), [(1.0, 1.7584), (0.01, 111.92), (0.001, 872.7), (1e-5, 29227.0)])
def test_small_epsilons_cost_no_more_than_they_must(target, noise):
    """N 60,000, batch 512, 2,000 steps: within a thousandth of what a Gaussian of the same total needs, where that is
    what a sum of small losses comes to; .001 took 7,185 on a grid of 1e-4, and 1e-5 was out of reach.
    """
    prob, delta = 512 / 60_000, 1 / 600_000
    found = calibrate_noise_multiplier(step(prob, 1.0), 2000, epsilon=target, delta=delta)
    assert found == pytest.approx(noise, rel=2e-4)
    if target < 0.1:
        assert gaussian_epsilon(prob * math.sqrt(2000) / (found * 0.998), delta) > target


def test_steps_at_a_small_epsilon():
    found = calibrate_steps(step(0.001, 50.0), epsilon=1e-3, delta=1e-6)
    assert epsilon_pld([(step(0.001, 50.0), found)], 1e-6) <= 1e-3 < epsilon_pld([(step(0.001, 50.0), found + 9)], 1e-6)


@settings(max_examples=12, deadline=None)
@given(
    prob=st.floats(-7.0, -0.1).map(lambda power: 10.0**power),
    multiplier=st.floats(-1.3, 5.0).map(lambda power: 10.0**power),
    steps=st.floats(0.0, 5.0).map(lambda power: round(10.0**power)),
    delta=st.sampled_from([1e-3, 1e-6, 1e-9]),
)
def test_epsilon_falls_with_noise_and_grows_with_steps_and_sampling(prob, multiplier, steps, delta):
    def at(q, sigma, count):
        return or_infinite(epsilon_pld, [(step(q, sigma), count)], delta, QUICK)

    here = at(prob, multiplier, steps)
    slack = 1 + 5e-3  # what the search's grid may add
    assert at(prob, 1.5 * multiplier, steps) <= here * slack
    assert at(min(1.5 * prob, 1.0), multiplier, steps) * slack >= here
    assert at(prob, multiplier, math.ceil(1.5 * steps)) * slack >= here
    assert at(prob, multiplier, steps) >= epsilon_pld([(step(prob, multiplier), steps)], delta) / slack


@pytest.mark.parametrize("multiplier", [1e8, 1e30, 1e300])
def test_noise_beyond_all_bounds_still_has_an_upper_one(multiplier):
    for prob in (1e-300, 1e-7, 0.5, 1.0):
        found = epsilon_pld([(step(prob, multiplier), 100)], 1e-12)
        assert 0.0 <= found < 1e-6
        assert epsilon_rdp([(step(prob, multiplier), 100)], 1e-12) >= found


@pytest.mark.parametrize("multiplier", [1e-3, 1e-30, 1e-300])
def test_noise_below_all_bounds_is_refused_by_name(multiplier):
    for prob in (1e-7, 0.5, 1.0):
        with pytest.raises(Refused, match="raise it"):
            epsilon_pld([(step(prob, multiplier), 10**6)], 1e-6)


def test_rounding_never_makes_rdp_too_small():
    """dp_accounting reads a sum that rounding made negative as no loss at all, and answers 0."""
    for multiplier, prob, steps in ((1e5, 1e-4, 10**7), (3e4, 1e-6, 10**7), (1e6, 0.01, 10**5)):
        composition = [(step(prob, multiplier), steps)]
        assert epsilon_rdp(composition, 1e-8) >= epsilon_pld(composition, 1e-8) > 0.0


def test_fixed_size_at_a_small_epsilon_names_what_works():
    """RDP ends at order 1024: it has no epsilon below log(1 / delta) / 1023, whatever the noise."""
    fixed = GaussianStep(
        draw=FixedSizeDraw(num_records=1000, batch_size=10), relation=Relation.ZERO_OUT, std=1.0, presence=1.0, swap=2.0
    )
    with pytest.raises(Refused, match="Poisson"):
        calibrate_noise_multiplier(fixed, 10**6, epsilon=1e-4, delta=1e-6)
