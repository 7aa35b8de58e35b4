"""What may be said of an executed number of steps."""

import pytest

from sfumato.base import BadInput, Relation
from sfumato.plan import Conjectured, Example, Plan
from sfumato.sampling import FixedSize, Poisson

PLAN = Plan(
    unit=Example(clip_norm=1.0),
    sampler=Poisson(num_records=10_000, expected_batch_size=100),
    steps=50,
    noise_multiplier=2.0,
)


def test_executed_as_planned():
    claim = PLAN.claim(50)
    assert (claim.steps_executed, claim.steps_charged) == (50, 50)
    assert claim.epsilon == claim.epsilon_pld == PLAN.epsilon()
    assert claim.epsilon_rdp == PLAN.epsilon_rdp()
    assert claim.accountant == "pld"
    assert claim.stamps == ()


def test_steps_done_again_are_charged_again():
    claim = PLAN.claim(73)
    assert claim.steps_charged == 73
    assert claim.epsilon == PLAN.epsilon(73) > PLAN.epsilon()


def test_an_early_stop_costs_the_plan_unless_it_was_public():
    """Stopping where a validation score looks good is one of the plan's outcomes."""
    claim = PLAN.claim(20)
    assert (claim.steps_executed, claim.steps_charged) == (20, 50)
    assert claim.epsilon == PLAN.epsilon()
    assert "50 charged steps (20 executed)" in claim.sentence
    public = PLAN.claim(20, stop_was_public=True)
    assert public.steps_charged == 20
    assert public.epsilon == PLAN.epsilon(20) < claim.epsilon


def test_the_accountant_that_is_proved():
    plan = Plan(
        unit=Example(clip_norm=1.0),
        sampler=FixedSize(num_records=1000, batch_size=10),
        steps=5,
        noise_multiplier=8.0,
    )
    claim = plan.claim(5)
    assert (claim.accountant, claim.epsilon_pld) == ("rdp", None)
    assert claim.epsilon == plan.epsilon_rdp()
    assert claim.relation is Relation.REPLACE_ONE


def test_nothing_is_claimed_under_a_stamp():
    conjectured = Plan(
        unit=Conjectured(rule="mine", presence=1.0, swap=1.5), sampler=PLAN.sampler, steps=5, noise_multiplier=1.0
    )
    for plan, word in ((PLAN.twin(4), "simulation"), (conjectured, "mine")):
        claim = plan.claim(5)
        assert claim.epsilon is claim.epsilon_pld is claim.epsilon_rdp is claim.accountant is None
        assert claim.stamps[0].startswith("NOT PROVED: ")
        assert word in claim.stamps[0]
        assert claim.sentence.endswith("No epsilon is claimed.")


def test_the_sentence_never_rounds_down():
    claim = PLAN.claim(50)
    printed = float(claim.sentence[1:].split(",")[0])
    assert claim.epsilon <= printed <= claim.epsilon + 0.01
    assert f"{PLAN.delta:.3g}" in claim.sentence


@pytest.mark.parametrize("steps", [-1, 2.5, "3"])
def test_impossible_steps(steps):
    with pytest.raises(BadInput, match="steps"):
        PLAN.claim(steps)
