"""Every cell of the table: a golden value for those that are supported, a refusal that helps for all others."""

import itertools
from dataclasses import replace

import dp_accounting
import pytest
from dp_accounting import NeighboringRelation as NeighborRel
from dp_accounting import pld, rdp
from scipy.stats import binom

from sfumato.accounting import epsilon_pld, epsilon_rdp, supported
from sfumato.accounting.conventions import cap_overflow, check_supported, pld_terms
from sfumato.base import (
    CappedPoissonDraw,
    FixedSizeDraw,
    FullBatchDraw,
    GaussianStep,
    PoissonDraw,
    Refused,
    Relation,
)

STEPS, DELTA = 300, 1e-6
WIDTH = 1e-3  # the coarse discretization: these tests are about what is given, not about the last digit
DRAWS = {
    "poisson": PoissonDraw(sampling_prob=0.02),
    "capped": CappedPoissonDraw(sampling_prob=0.02, num_records=10_000, cap=300),
    "fixed": FixedSizeDraw(num_records=10_000, batch_size=200),
    "full": FullBatchDraw(num_records=10_000),
}
STD = {"poisson": 2.0, "capped": 2.0, "fixed": 4.0, "full": 80.0}
PRESENCE, SWAP = 2.0, 3.0
"""Neither 1 nor in the ratio of the example unit, so that a mixed-up distance shows."""
GOLDEN = {
    ("poisson", "add_remove", "pld"): 2.58848888,
    ("poisson", "add_remove", "rdp"): 2.98247365,
    ("poisson", "zero_out", "pld"): 2.58848888,
    ("poisson", "zero_out", "rdp"): 2.98247365,
    ("poisson", "replace_one", "pld"): 3.6342921,
    ("capped", "zero_out", "pld"): 2.58848902,
    ("capped", "zero_out", "rdp"): 2.98333342,
    ("capped", "replace_one", "pld"): 3.63429216,
    ("fixed", "zero_out", "rdp"): 3.20101288,
    ("fixed", "replace_one", "rdp"): 3.20101288,
    ("full", "replace_one", "pld"): 3.00922238,
    ("full", "replace_one", "rdp"): 3.2244853,
}
ALL = list(itertools.product(DRAWS, Relation, ("pld", "rdp")))


def make_step(draw, relation, std=None, presence=PRESENCE, swap=SWAP):
    return GaussianStep(draw=DRAWS[draw], relation=relation, std=std or STD[draw], presence=presence, swap=swap)


def value(draw, relation, accountant, **changes):
    composition = [(make_step(draw, relation, **changes), STEPS)]
    return epsilon_pld(composition, DELTA, WIDTH) if accountant == "pld" else epsilon_rdp(composition, DELTA)


@pytest.mark.parametrize("cell", list(GOLDEN))
def test_golden(cell):
    draw, relation, accountant = cell
    assert value(draw, Relation(relation), accountant) == pytest.approx(GOLDEN[cell], rel=1e-6)


def test_the_table_is_the_design():
    """Twelve cells, and no other."""
    cells = {(d, str(r), a) for d, r, a in ALL if supported(make_step(d, r), a)}
    assert cells == set(GOLDEN)
    assert len(cells) == 12


@pytest.mark.parametrize("cell", [(d, r, a) for d, r, a in ALL if (d, str(r), a) not in GOLDEN])
def test_other_cells_are_refused_by_name(cell):
    draw, relation, accountant = cell
    name = {"poisson": "Poisson", "capped": "cap", "fixed": "fixed-size", "full": "full batch"}[draw]
    with pytest.raises(Refused, match=rf"{name}.*{relation}.*: use ") as caught:
        value(draw, relation, accountant)
    # What the message proposes is supported.
    message = str(caught.value)
    proposed = next((r for r in Relation if f"use relation '{r}'" in message), relation)
    assert any(supported(make_step(draw, proposed), a) for a in ("pld", "rdp") if f"'{a}'" in message)


def test_unknown_accountant():
    with pytest.raises(Refused, match="prv"):
        check_supported(make_step("poisson", Relation.ZERO_OUT), "prv")


def _pld(event, relation, delta=DELTA, steps=STEPS):
    accountant = pld.PLDAccountant(relation, WIDTH)
    accountant.compose(event, steps)
    return accountant.get_epsilon(delta)


def _rdp(event, relation, delta=DELTA, steps=STEPS):
    accountant = rdp.RdpAccountant(neighboring_relation=relation)
    accountant.compose(event, steps)
    return accountant.get_epsilon(delta)


def _poisson(multiplier):
    return dp_accounting.PoissonSampledDpEvent(0.02, dp_accounting.GaussianDpEvent(multiplier))


@pytest.mark.parametrize("relation", [Relation.ADD_REMOVE, Relation.ZERO_OUT])
def test_poisson_is_given_std_over_presence(relation):
    expected = _pld(_poisson(2.0 / PRESENCE), NeighborRel.ADD_OR_REMOVE_ONE)
    assert value("poisson", relation, "pld") == pytest.approx(expected, rel=1e-6)
    expected = _rdp(_poisson(2.0 / PRESENCE), NeighborRel.ADD_OR_REMOVE_ONE)
    assert value("poisson", relation, "rdp") == pytest.approx(expected, rel=1e-9)


def test_poisson_replace_one_is_given_std_over_presence_too():
    expected = _pld(_poisson(2.0 / PRESENCE), NeighborRel.REPLACE_ONE)
    assert value("poisson", Relation.REPLACE_ONE, "pld") == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("relation", [Relation.REPLACE_ONE, Relation.ZERO_OUT])
def test_fixed_size_is_given_std_over_swap(relation):
    event = dp_accounting.SampledWithoutReplacementDpEvent(10_000, 200, dp_accounting.GaussianDpEvent(4.0 / SWAP))
    expected = _rdp(event, NeighborRel.REPLACE_ONE)
    assert value("fixed", relation, "rdp") == pytest.approx(expected, rel=1e-9)


def test_fixed_size_zero_out_never_below_presence():
    """A unit whose records are exchanged more cheaply than they are taken out is charged for taking them out."""
    cheap = value("fixed", Relation.ZERO_OUT, "rdp", presence=5.0, swap=3.0)
    assert cheap == value("fixed", Relation.ZERO_OUT, "rdp", presence=5.0, swap=5.0)


def test_full_batch_conventions():
    """One mechanism, two units of measurement: 2 std / swap for PLD, std / swap for RDP."""
    event = dp_accounting.GaussianDpEvent(2 * 80.0 / SWAP)
    assert value("full", Relation.REPLACE_ONE, "pld") == pytest.approx(_pld(event, NeighborRel.REPLACE_ONE), rel=1e-6)
    event = dp_accounting.GaussianDpEvent(80.0 / SWAP)
    assert value("full", Relation.REPLACE_ONE, "rdp") == pytest.approx(_rdp(event, NeighborRel.REPLACE_ONE), rel=1e-9)


def test_one_gaussian_read_under_both_conventions():
    """The trap: "multiplier 5", handed over unconverted, reads 1.77 in the one accountant and 0.90 in the other."""
    event = dp_accounting.GaussianDpEvent(5.0)
    trap = {"pld": _pld(event, NeighborRel.REPLACE_ONE, steps=1), "rdp": _rdp(event, NeighborRel.REPLACE_ONE, steps=1)}
    assert {name: round(reading, 2) for name, reading in trap.items()} == {"pld": 1.77, "rdp": 0.9}
    # std 5 where an exchange moves the sum by 2: both accountants speak of multiplier 2.5 over the swap.
    step = GaussianStep(draw=DRAWS["full"], relation=Relation.REPLACE_ONE, std=5.0, presence=1.0, swap=2.0)
    assert epsilon_pld([(step, 1)], DELTA) == pytest.approx(1.76565, abs=1e-4)
    assert 1.7656 < epsilon_rdp([(step, 1)], DELTA) < 1.95


def test_cap_is_charged_to_delta():
    """P(Bin(N-1, q) >= cap) a step, at the delta that is left."""
    overflow = cap_overflow(DRAWS["capped"])
    assert overflow == pytest.approx(binom.sf(299, 9_999, 0.02), rel=1e-12)
    assert 0 < STEPS * overflow < DELTA / 10
    expected = _rdp(_poisson(1.0), NeighborRel.ADD_OR_REMOVE_ONE, DELTA - STEPS * overflow)
    assert value("capped", Relation.ZERO_OUT, "rdp") == pytest.approx(expected, rel=1e-9)
    expected = _pld(_poisson(1.0), NeighborRel.ADD_OR_REMOVE_ONE, DELTA - STEPS * overflow)
    assert value("capped", Relation.ZERO_OUT, "pld", swap=5.0) == pytest.approx(expected, rel=1e-6)
    assert pld_terms(make_step("capped", Relation.ZERO_OUT, swap=5.0)).truncation is None


@pytest.mark.parametrize("relation", [Relation.ZERO_OUT, Relation.REPLACE_ONE])
def test_truncated_event_where_the_distances_allow_it(relation):
    neighbours = {Relation.ZERO_OUT: NeighborRel.REPLACE_SPECIAL, Relation.REPLACE_ONE: NeighborRel.REPLACE_ONE}
    event = dp_accounting.TruncatedSubsampledGaussianDpEvent(10_000, 0.02, 300, 1.0)
    expected = _pld(event, neighbours[relation])
    assert value("capped", relation, "pld") == pytest.approx(expected, rel=1e-6)
    # Exactly twice the presence counts as allowed, whatever the last bit of the two products.
    assert pld_terms(make_step("capped", relation, presence=0.1 * 3, swap=0.2 * 3 + 1e-16)).truncation == (10_000, 300)


def test_a_cap_that_no_draw_reaches_is_charged_to_delta_at_no_cost():
    draw = CappedPoissonDraw(sampling_prob=0.02, num_records=10_000, cap=350)
    step = GaussianStep(draw=draw, relation=Relation.ZERO_OUT, std=1.0, presence=1.0, swap=2.0)
    terms = pld_terms(step)
    assert terms.truncation is None
    assert 0.0 < terms.delta < 1e-17
    plain = replace(step, draw=PoissonDraw(sampling_prob=0.02))
    one, other = (epsilon_pld([(each, STEPS)], DELTA, WIDTH) for each in (step, plain))
    assert one == pytest.approx(other, rel=1e-9)
    assert one >= other
    lower = pld_terms(replace(step, draw=replace(draw, cap=320)))
    assert lower.truncation == (10_000, 320), "where it can be reached it is charged in full"


def test_truncation_lies_between_the_plain_draw_and_the_charge_to_delta():
    plain = value("poisson", Relation.ZERO_OUT, "pld")
    truncated = value("capped", Relation.ZERO_OUT, "pld")
    charged = value("capped", Relation.ZERO_OUT, "pld", swap=5.0)
    assert plain <= truncated * (1 + 1e-6)
    assert truncated <= charged * (1 + 1e-6)


def test_a_tight_cap_is_expensive():
    """A cap 1.4 deviations above the mean: epsilon 20 instead of 5.1 (q = .005, 10^4 steps, sigma = .8)."""
    draw = CappedPoissonDraw(sampling_prob=0.005, num_records=1_000_000, cap=5099)
    step = GaussianStep(draw=draw, relation=Relation.ZERO_OUT, std=0.8, presence=1.0, swap=2.0)
    assert epsilon_pld([(step, 10_000)], 1e-6, 1e-3) == pytest.approx(20.154, abs=2e-3)
    with pytest.raises(Refused, match="raise the cap"):
        epsilon_rdp([(step, 10_000)], 1e-6)


def test_a_cap_that_cannot_be_reached_costs_nothing():
    draw = CappedPoissonDraw(sampling_prob=0.02, num_records=10_000, cap=10_000)
    step = GaussianStep(draw=draw, relation=Relation.ZERO_OUT, std=2.0, presence=PRESENCE, swap=SWAP)
    assert epsilon_pld([(step, STEPS)], DELTA, WIDTH) == value("poisson", Relation.ZERO_OUT, "pld")
