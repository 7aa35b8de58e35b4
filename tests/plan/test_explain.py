"""Figures for the planner and facts for the card."""

import json

import pytest
from scipy.stats import norm

from sfumato.base import BadInput, Refused
from sfumato.plan import Conjectured, Example, Plan, card_facts, describe_sampling, figures, num_parameters
from sfumato.plan.explain import epochs, max_true_positive_rate, noise_per_coordinate, not_covered, tan_eta
from sfumato.sampling import FixedSize, FullBatch, Poisson

SECRET_N = 98_765
PLAN = Plan(
    unit=Example(clip_norm=0.5),
    sampler=Poisson(num_records=10_000, expected_batch_size=100),
    steps=50,
    noise_multiplier=2.0,
)
HIDDEN = Plan(
    unit=Example(clip_norm=0.5),
    sampler=Poisson(sampling_prob=100 / SECRET_N, expected_batch_size=100),
    steps=50,
    delta=1e-7,
    noise_multiplier=2.0,
)


def test_figures():
    found = figures(PLAN, 10_000)
    assert found["epochs"] == epochs(PLAN) == 0.5
    assert found["noise_per_coordinate"] == noise_per_coordinate(PLAN) == 0.01
    assert found["signal_to_noise"] == pytest.approx(0.5 / (0.01 * 100))
    assert found["tan_eta"] == tan_eta(PLAN) == pytest.approx(0.01 * 5 / 2)
    assert 0.01 < found["max_true_positive_rate"] < 0.05
    json.dumps(found, allow_nan=False)


def test_attack_rate_is_the_closed_form_at_full_participation():
    """q = 1: 50 Gaussians of multiplier 20."""
    plan = Plan(
        unit=Example(clip_norm=3.0),
        sampler=Poisson(num_records=100, expected_batch_size=100),
        steps=50,
        noise_multiplier=20.0,
    )
    exact = norm.cdf(norm.ppf(0.01) + 50**0.5 / 20.0)
    assert max_true_positive_rate(plan) == pytest.approx(exact, rel=1e-5)
    assert max_true_positive_rate(plan, 0) == 0.01


def test_no_rate_where_there_is_no_distribution_and_none_without_a_proof():
    fixed = Plan(
        unit=Example(clip_norm=1.0), sampler=FixedSize(num_records=50, batch_size=5), steps=5, noise_multiplier=8.0
    )
    assert max_true_positive_rate(fixed) is None
    with pytest.raises(Refused, match="simulation"):
        max_true_positive_rate(PLAN.twin(2))
    assert figures(PLAN.twin(2), 100)["max_true_positive_rate"] is None


def test_card_facts_of_a_proved_run():
    facts = card_facts(PLAN, 60)
    assert facts["epsilon"] == facts["epsilon_pld"] == PLAN.epsilon(60)
    assert (facts["steps_executed"], facts["steps_planned"], facts["accountant"]) == (60, 50, "pld")
    assert facts["noise_multiplier"] == facts["noise_std"] / facts["presence"]
    assert facts["stamps"] == []
    assert facts["num_records"] == 10_000
    assert facts["max_true_positive_rate"] > max_true_positive_rate(PLAN)
    json.dumps(facts, allow_nan=False)


@pytest.mark.parametrize(
    "plan",
    [
        PLAN.twin(4),
        Plan(
            unit=Conjectured(rule="mine", presence=1.0, swap=1.5),
            sampler=FullBatch(num_records=7),
            steps=5,
            noise_multiplier=1.0,
        ),
    ],
)
def test_card_facts_under_a_stamp(plan):
    facts = card_facts(plan, 5)
    assert facts["epsilon"] is facts["epsilon_pld"] is facts["epsilon_rdp"] is facts["max_true_positive_rate"] is None
    assert facts["stamps"][0].startswith("NOT PROVED: ")
    json.dumps(facts, allow_nan=False)


def test_a_hidden_number_of_records_is_printed_nowhere():
    """Neither N nor a formula from which it can be read; the declared probability itself is public."""
    text = json.dumps([card_facts(HIDDEN, 50), figures(HIDDEN, 100), HIDDEN.summary(), HIDDEN.to_json()])
    text += " ".join([describe_sampling(HIDDEN), HIDDEN.claim(50).sentence, *HIDDEN.warnings])
    assert str(SECRET_N) not in text
    assert f"{SECRET_N:,}" not in text
    assert 'num_records": null' in text
    assert any("nowhere printed" in sentence for sentence in not_covered(HIDDEN))


def test_what_epsilon_does_not_cover():
    text = " ".join(not_covered(PLAN))
    for word in ("Groups", "Tuning", "vocabulary", "Evaluation", "Floating point", "10,000, is public"):
        assert word in text


def test_sampling_in_words():
    assert describe_sampling(PLAN) == "Poisson: each record independently with probability 0.01, anew each step"
    assert "subset of 200" in describe_sampling(
        Plan(
            unit=Example(clip_norm=1.0),
            sampler=Poisson(num_records=10_000, expected_batch_size=100, cap=200),
            steps=5,
        )
    )
    fixed = Plan(unit=Example(clip_norm=1.0), sampler=FixedSize(num_records=10_000, batch_size=2_000), steps=5)
    assert describe_sampling(fixed).startswith("2,000 of 10,000 records")
    full = Plan(unit=Example(clip_norm=1.0), sampler=FullBatch(num_records=10_000), steps=5)
    assert describe_sampling(full) == "all 10,000 records in every step"


def test_sizes():
    assert num_parameters("base") == 189_800_000
    with pytest.raises(BadInput, match="micro, nano"):
        num_parameters("huge")
