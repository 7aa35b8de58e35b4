"""Epsilon against the closed form, against the figures of the paper, and RDP against PLD."""

import math

import pytest
from scipy.optimize import brentq
from scipy.stats import norm

from sfumato.accounting import epsilon, epsilon_pld, epsilon_rdp
from sfumato.accounting.epsilon import ROUNDING_PER_STEP
from sfumato.base import (
    BadInput,
    CappedPoissonDraw,
    FixedSizeDraw,
    FullBatchDraw,
    GaussianStep,
    PoissonDraw,
    Refused,
    Relation,
)

ALMOST_ONE = 1.0 - 1e-13
"""A sampling probability whose steps are composed numerically as any others, and at which the closed form holds."""


def poisson_step(prob, multiplier, relation=Relation.ZERO_OUT, presence=1.0):
    return GaussianStep(
        draw=PoissonDraw(sampling_prob=prob),
        relation=relation,
        std=multiplier * presence,
        presence=presence,
        swap=2.0 * presence,
    )


def gaussian_epsilon(distance_over_std, delta):
    """The analytic Gaussian mechanism (Balle and Wang, ICML 2018, Theorem 8), solved for epsilon."""
    mu = distance_over_std

    def gap(eps):
        return norm.cdf(mu / 2 - eps / mu) - math.exp(eps + norm.logcdf(-mu / 2 - eps / mu)) - delta

    return brentq(gap, 0.0, 500.0, xtol=1e-12)


@pytest.mark.parametrize(
    ("batch", "num_records", "multiplier", "steps", "rdp", "pld"),
    [
        (1_310_720, 233_804_767, 0.728, 5708, 8.05, 7.34),
        (1_310_720, 233_804_767, 1.18, 2854, 1.99, 1.78),
        (200_000, 233_804_767, 0.513, 5700, 7.98, 6.85),
        (1_310_720, 2_000_000_000, 0.527, 5000, 7.30, 6.30),
    ],
)
def test_the_four_rows_of_the_paper(batch, num_records, multiplier, steps, rdp, pld):
    composition = [(poisson_step(batch / num_records, multiplier), steps)]
    assert round(epsilon_rdp(composition, 1 / num_records), 2) == rdp
    assert round(epsilon_pld(composition, 1 / num_records), 2) == pld


def test_five_tools_agree():
    """q = .005, 10^4 steps, sigma = .8, delta = 1e-6: 5.135, and 7.77 under replace-one."""
    assert epsilon_pld([(poisson_step(0.005, 0.8), 10_000)], 1e-6) == pytest.approx(5.135, abs=5e-4)
    replace = poisson_step(0.005, 0.8, Relation.REPLACE_ONE)
    assert round(epsilon_pld([(replace, 10_000)], 1e-6), 2) == 7.77


@pytest.mark.parametrize("delta", [1e-5, 1e-8, 1e-11])
@pytest.mark.parametrize(("multiplier", "steps"), [(10.0, 100), (30.0, 100), (5.0, 1000), (50.0, 10_000)])
def test_probability_one_is_the_plain_gaussian(multiplier, steps, delta):
    """Never below the closed form, and close above it; the same through the numerical composition of any other q."""
    exact = gaussian_epsilon(math.sqrt(steps) / multiplier, delta)
    found = epsilon_pld([(poisson_step(1.0, multiplier), steps)], delta)
    assert exact <= found <= exact * (1 + 1e-9)
    assert found <= epsilon_rdp([(poisson_step(1.0, multiplier), steps)], delta)
    composed = epsilon_pld([(poisson_step(ALMOST_ONE, multiplier), steps)], delta)
    assert exact <= composed <= exact * (1.0005 if delta > 1e-10 else 1.01)  # rounding is charged


def test_probability_one_under_replace_one_is_a_gaussian_at_twice_the_distance():
    found = epsilon_pld([(poisson_step(1.0, 20.0, Relation.REPLACE_ONE), 100)], 1e-6)
    exact = gaussian_epsilon(2.0 * 10.0 / 20.0, 1e-6)
    assert exact <= found <= exact * 1.0005


def test_full_batch_is_the_closed_form_at_distance_swap():
    step = GaussianStep(
        draw=FullBatchDraw(num_records=7), relation=Relation.REPLACE_ONE, std=45.0, presence=2.0, swap=3.0
    )
    exact = gaussian_epsilon(3.0 / 45.0 * math.sqrt(200), 1e-6)
    assert exact <= epsilon_pld([(step, 200)], 1e-6) <= exact * 1.0005
    assert exact <= epsilon_rdp([(step, 200)], 1e-6) <= exact * 1.15


def test_rounding_is_charged():
    """Uncharged, 10^4 steps at 1e-12 read below the truth; with the charge, what cannot be resolved is refused."""
    step = poisson_step(ALMOST_ONE, 50.0)
    exact = gaussian_epsilon(2.0, 1e-11)
    assert epsilon_pld([(step, 10_000)], 1e-11, 1e-4) >= exact
    with pytest.raises(Refused, match="double precision"):
        epsilon_pld([(step, 10_000)], 10_000 * ROUNDING_PER_STEP)
    assert epsilon_rdp([(step, 10_000)], 1e-12) > gaussian_epsilon(2.0, 1e-12)


@pytest.mark.parametrize("prob", [0.001, 0.02, 0.3])
@pytest.mark.parametrize("multiplier", [0.6, 1.0, 4.0])
@pytest.mark.parametrize("steps", [1, 1000])
def test_rdp_is_never_below_pld(prob, multiplier, steps):
    composition = [(poisson_step(prob, multiplier), steps)]
    for delta in (1e-5, 1e-10):
        assert epsilon_rdp(composition, delta) >= epsilon_pld(composition, delta, 1e-3) * (1 - 1e-3)


def test_only_the_ratio_of_noise_and_distance_matters():
    small, large = poisson_step(0.02, 1.3), poisson_step(0.02, 1.3, presence=7.0)
    assert epsilon_pld([(small, 50)], 1e-6) == pytest.approx(epsilon_pld([(large, 50)], 1e-6), rel=1e-9)


def test_heterogeneous_composition():
    """Gaussians of different noise add up in 1 / variance: again the closed form; in any order, equal steps merged."""
    quiet, loud = poisson_step(1.0, 20.0), poisson_step(1.0, 30.0)
    exact = gaussian_epsilon(math.sqrt(60 / 20.0**2 + 90 / 30.0**2), 1e-6)
    found = epsilon_pld([(quiet, 60), (loud, 90)], 1e-6)
    assert exact <= found <= exact * 1.001
    assert epsilon_pld([(loud, 40), (quiet, 60), (loud, 50)], 1e-6) == pytest.approx(found, rel=1e-6)
    mixed = [(poisson_step(0.02, 1.0), 100), (poisson_step(0.05, 2.0), 100)]
    alone = [epsilon_pld([part], 1e-6, 1e-3) for part in mixed]
    assert max(alone) < epsilon_pld(mixed, 1e-6, 1e-3) < sum(alone)
    assert epsilon_rdp(mixed, 1e-6) > epsilon_pld(mixed, 1e-6, 1e-3)


def test_a_finer_grid_is_lower():
    composition = [(poisson_step(0.02, 1.0), 200)]
    coarse, fine = (epsilon_pld(composition, 1e-6, width) for width in (1e-3, 1e-4))
    assert fine <= coarse <= fine * 1.002


def test_nothing_executed_costs_nothing():
    step = poisson_step(0.02, 1.0)
    assert epsilon_pld([], 1e-6) == epsilon_pld([(step, 0)], 1e-6) == epsilon_rdp([(step, 0)], 1e-6) == 0.0


def test_default_accountant_is_pld_where_every_step_has_one():
    step = poisson_step(0.02, 1.0)
    fixed = GaussianStep(
        draw=FixedSizeDraw(num_records=50, batch_size=1), relation=Relation.ZERO_OUT, std=2.0, presence=1.0, swap=2.0
    )
    assert epsilon([(step, 10)], 1e-6) == epsilon_pld([(step, 10)], 1e-6)
    assert epsilon([(step, 10), (fixed, 10)], 1e-6) == epsilon_rdp([(step, 10), (fixed, 10)], 1e-6)
    with pytest.raises(Refused, match="fixed-size"):
        epsilon([(step, 10), (fixed, 10)], 1e-6, "pld")


def test_relations_do_not_mix():
    mixed = [(poisson_step(0.02, 1.0), 1), (poisson_step(0.02, 1.0, Relation.ADD_REMOVE), 1)]
    for epsilon_fn in (epsilon_pld, epsilon_rdp):
        with pytest.raises(Refused, match="add_remove, zero_out"):
            epsilon_fn(mixed, 1e-6)


@pytest.mark.parametrize("delta", [0.0, 1.0, -1e-6, math.nan])
def test_delta_out_of_range(delta):
    for epsilon_fn in (epsilon_pld, epsilon_rdp):
        with pytest.raises(BadInput, match="delta"):
            epsilon_fn([(poisson_step(0.02, 1.0), 1)], delta)


@pytest.mark.parametrize("count", [-1, 2.5, True])
def test_counts_out_of_range(count):
    with pytest.raises(BadInput, match="number of steps"):
        epsilon_pld([(poisson_step(0.02, 1.0), count)], 1e-6)


def test_too_little_noise_for_any_claim_is_refused_before_it_fills_the_memory():
    with pytest.raises(Refused, match=r"noise multiplier of 0\.01"):
        epsilon_pld([(poisson_step(0.5, 0.01), 100_000)], 1e-6)


def test_large_epsilons_are_still_given():
    found = epsilon_pld([(poisson_step(0.01, 0.3), 1000)], 1e-6, 1e-3)
    assert found == pytest.approx(78.14, abs=0.02)


def test_a_cap_that_eats_delta_is_refused():
    draw = CappedPoissonDraw(sampling_prob=0.5, num_records=100, cap=50)
    step = GaussianStep(draw=draw, relation=Relation.ZERO_OUT, std=2.0, presence=1.0, swap=3.0)
    for epsilon_fn in (epsilon_pld, epsilon_rdp):
        with pytest.raises(Refused, match="raise the cap"):
            epsilon_fn([(step, 10)], 1e-6)
