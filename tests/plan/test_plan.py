"""The plan: what follows from its fields, what is refused, calibration, and the simulation without an epsilon."""

from dataclasses import FrozenInstanceError, replace

import pytest

from sfumato.accounting import epsilon_pld, epsilon_rdp
from sfumato.base import BadInput, FixedSizeDraw, GaussianStep, PoissonDraw, Refused, Relation
from sfumato.plan import Conjectured, Example, Plan
from sfumato.sampling import FixedSize, FullBatch, Poisson

N, B = 10_000, 100


def make(**changes):
    fields = {
        "unit": Example(clip_norm=0.5),
        "sampler": Poisson(num_records=N, expected_batch_size=B),
        "steps": 50,
        "noise_multiplier": 2.0,
    }
    return Plan(**(fields | changes))


def test_what_follows_from_the_fields():
    plan = make()
    assert plan.delta == 1 / (10 * N)
    assert plan.relation is Relation.ZERO_OUT
    assert (plan.presence, plan.swap, plan.noise_std) == (0.5, 1.0, 1.0)
    assert (plan.divisor, plan.sampling_prob) == (100.0, 0.01)
    assert plan.step_event == GaussianStep(
        draw=PoissonDraw(sampling_prob=0.01), relation=Relation.ZERO_OUT, std=1.0, presence=0.5, swap=1.0
    )


def test_noise_is_std_over_presence_for_every_sampler():
    """Also where the accountant is given std / swap."""
    plan = make(sampler=FixedSize(num_records=N, batch_size=B))
    assert plan.noise_std == 2.0 * plan.presence
    assert plan.step_event.std == plan.noise_std
    assert plan.relation is Relation.REPLACE_ONE


def test_epsilon_is_that_of_the_event():
    plan = make()
    composition = [(plan.step_event, 50)]
    assert plan.epsilon() == plan.epsilon_pld() == epsilon_pld(composition, plan.delta)
    assert plan.epsilon(accountant="rdp") == plan.epsilon_rdp() == epsilon_rdp(composition, plan.delta)
    assert plan.epsilon(0) == 0.0
    assert plan.epsilon(10) < plan.epsilon() < plan.epsilon(80)  # executed steps may exceed the planned ones


def test_where_an_accountant_has_no_charge():
    fixed = make(sampler=FixedSize(num_records=N, batch_size=B))
    assert fixed.epsilon_pld() is None
    assert fixed.epsilon() == fixed.epsilon_rdp()
    with pytest.raises(Refused, match="fixed-size"):
        fixed.epsilon(accountant="pld")
    replaced = make(relation=Relation.REPLACE_ONE)
    assert replaced.epsilon_rdp() is None
    assert replaced.epsilon() == replaced.epsilon_pld() > make().epsilon()


def test_hidden_number_of_records():
    sampler = Poisson(sampling_prob=0.01, expected_batch_size=B)
    with pytest.raises(BadInput, match="delta has to be given"):
        make(sampler=sampler)
    plan = make(sampler=sampler, delta=1e-6)
    assert plan.relation is Relation.ADD_REMOVE
    assert plan.epsilon() == make(delta=1e-6).epsilon()  # numerically the same
    with pytest.raises(BadInput, match="expected_batch_size"):
        make(sampler=Poisson(sampling_prob=0.01), delta=1e-6)


@pytest.mark.parametrize(
    "sampler",
    [
        Poisson(num_records=N, expected_batch_size=B),
        Poisson(num_records=N, expected_batch_size=B, cap=200),
        FixedSize(num_records=N, batch_size=B),
        FullBatch(num_records=N),
    ],
)
def test_a_sampler_that_is_set_by_n_cannot_hide_n(sampler):
    with pytest.raises(Refused, match="zero_out"):
        make(sampler=sampler, relation=Relation.ADD_REMOVE)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"steps": 0}, "steps"),
        ({"steps": 1.5}, "steps"),
        ({"steps": "50"}, "steps"),
        ({"delta": 0.0}, "delta"),
        ({"delta": 1.0}, "delta"),
        ({"delta": "1e-6"}, "delta"),
        ({"noise_multiplier": -0.1}, "noise_multiplier"),
        ({"noise_multiplier": float("nan")}, "noise_multiplier"),
        ({"relation": "substitute"}, "substitute"),
        ({"unit": 1.0}, "unit"),
        ({"sampler": "poisson"}, "sampler"),
    ],
)
def test_impossible_plans_name_the_field(changes, named):
    with pytest.raises(BadInput, match=named):
        make(**changes)


def test_a_plan_is_frozen_hashable_and_compared_by_value():
    plan = make()
    with pytest.raises(FrozenInstanceError):
        plan.steps = 3
    assert plan == make()
    assert hash(plan) == hash(make())
    assert plan != make(steps=51)


def test_a_plan_without_noise_yet():
    plan = make(noise_multiplier=None)
    for use in (lambda: plan.noise_std, lambda: plan.epsilon(), lambda: plan.summary(), lambda: plan.twin(2)):
        with pytest.raises(BadInput, match="no noise yet"):
            use()


def test_zero_noise_trains_and_carries_no_epsilon():
    plan = make(noise_multiplier=0)
    assert plan.noise_std == 0.0
    with pytest.raises(Refused, match="without noise"):
        plan.epsilon()
    assert plan.summary()["epsilon_pld"] is None
    assert plan.claim(5).stamps == ("NOT PRIVATE: no noise was added",)
    assert plan.signal_to_noise(10) == float("inf")


def test_calibrated_noise():
    plan = make(noise_multiplier=None).calibrated(epsilon=1.0)
    assert plan.epsilon() <= 1.0 < replace(plan, noise_multiplier=plan.noise_multiplier * 0.998).epsilon()
    assert plan == replace(make(), noise_multiplier=plan.noise_multiplier)


def test_calibrated_steps_and_batch():
    plan = make().calibrated(epsilon=0.5, solve="steps")
    assert plan.epsilon() <= 0.5 < plan.epsilon(plan.steps + 3)
    assert plan.noise_multiplier == 2.0
    plan = make().calibrated(epsilon=0.5, solve="batch_size", accountant="rdp")
    assert plan.epsilon_rdp() <= 0.5 < plan.with_batch_size(plan.divisor + 2).epsilon_rdp()
    hidden = make(sampler=Poisson(sampling_prob=0.01, expected_batch_size=B), delta=1e-6)
    with pytest.raises(BadInput, match="num_records"):
        hidden.calibrated(epsilon=0.5, solve="batch_size")
    with pytest.raises(BadInput, match="solve"):
        make().calibrated(epsilon=0.5, solve="delta")


def test_calibration_uses_the_accountant_that_is_proved():
    plan = make(sampler=FixedSize(num_records=N, batch_size=B), noise_multiplier=None)
    assert plan.default_accountant == "rdp"
    calibrated = replace(plan, noise_multiplier=8.0).calibrated(epsilon=2.0, solve="steps")
    assert calibrated.epsilon_rdp() <= 2.0 < calibrated.epsilon_rdp(calibrated.steps + 1)
    with pytest.raises(Refused, match="rdp"):
        plan.calibrated(epsilon=2.0, accountant="pld")


def test_other_sizes():
    assert make().with_steps(7).steps == 7
    assert make().with_batch_size(250).sampler == Poisson(num_records=N, expected_batch_size=250)
    fixed = make(sampler=FixedSize(num_records=N, batch_size=B)).with_batch_size(20.0)
    assert fixed.step_event.draw == FixedSizeDraw(num_records=N, batch_size=20)
    hidden = make(sampler=Poisson(sampling_prob=0.01, expected_batch_size=B), delta=1e-6).with_batch_size(200)
    assert (hidden.sampling_prob, hidden.divisor) == (0.02, 200)
    with pytest.raises(BadInput, match="full batch"):
        make(sampler=FullBatch(num_records=N)).with_batch_size(5)
    with pytest.raises(BadInput, match="batch_size"):
        make(sampler=FixedSize(num_records=N, batch_size=B)).with_batch_size(2.5)


def _every_epsilon(plan):
    return (
        lambda: plan.epsilon(),
        lambda: plan.epsilon(3),
        lambda: plan.epsilon(accountant="rdp"),
        lambda: plan.epsilon_pld(),
        lambda: plan.epsilon_rdp(3),
        lambda: plan.step_event,
        lambda: plan.calibrated(epsilon=8),
        lambda: plan.calibrated(epsilon=8, solve="steps"),
    )


def test_twin_keeps_steps_and_noise_of_the_mean():
    plan = make()
    twin = plan.twin(8)
    assert twin.is_simulation
    assert twin.steps == plan.steps
    assert twin.divisor == plan.divisor / 8
    assert twin.noise_std / twin.divisor == pytest.approx(plan.noise_std / plan.divisor, rel=1e-12)
    assert twin.sampling_prob == pytest.approx(plan.sampling_prob / 8, rel=1e-12)
    assert twin.delta == plan.delta
    capped = make(sampler=Poisson(num_records=N, expected_batch_size=B, cap=201)).twin(4)
    assert capped.sampler.cap == 51
    hidden = make(sampler=Poisson(sampling_prob=0.01, expected_batch_size=B), delta=1e-6).twin(4)
    assert (hidden.sampling_prob, hidden.divisor) == (0.0025, 25.0)


@pytest.mark.parametrize("k", [0.5, 0, -1, float("inf"), "8", True])
def test_impossible_twins(k):
    with pytest.raises(BadInput, match="smaller"):
        make().twin(k)


def test_a_simulation_has_no_epsilon_anywhere():
    twin = make().twin(8)
    for use in (*_every_epsilon(twin), *_every_epsilon(twin.twin(2)), *_every_epsilon(replace(twin, steps=3))):
        with pytest.raises(Refused, match="simulation"):
            use()
    assert twin.summary()["epsilon_pld"] is None
    assert twin.summary()["epsilon_rdp"] is None
    assert Plan.from_json(twin.to_json()).is_simulation


def test_a_conjecture_has_no_epsilon_anywhere():
    plan = make(unit=Conjectured(rule="keep the largest half", presence=0.5, swap=0.7))
    assert plan.noise_std == 1.0  # it trains: noise is drawn for the claimed distance
    for use in _every_epsilon(plan):
        with pytest.raises(Refused, match="NOT PROVED"):
            use()
    assert plan.summary()["epsilon_rdp"] is None


def test_summary_has_the_keys_of_the_command():
    keys = {"noise_multiplier", "noise_std", "presence", "swap", "sampling_prob", "steps", "delta", "relation", "unit"}
    keys |= {"epsilon_pld", "epsilon_rdp"}
    summary = make().summary()
    assert keys <= set(summary)
    assert summary["noise_multiplier"] == summary["noise_std"] / summary["presence"]
    assert summary["relation"] == "zero_out"


def test_signal_to_noise():
    """C over std / B x sqrt(d): 0.5 / (1 / 100 x 10)."""
    assert make().signal_to_noise(100) == pytest.approx(5.0)
    with pytest.raises(BadInput, match="num_parameters"):
        make().signal_to_noise(0)
