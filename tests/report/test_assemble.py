from typing import Any

import pytest

from sfumato.report import card
from sfumato.report.assemble import facts_of_run

DECLARED: dict[str, Any] = {
    "owner_column": None,
    "vocabulary": "public templates",
    "normalisation": "constants",
    "initialisation": "random",
    "tuning": "none on private data",
    "evaluation": "public test pictures",
}


@pytest.fixture
def measured() -> dict[str, Any]:
    """As `sfumato.train.card_facts` returns them, with the head of the ledger."""
    return {
        "epsilon_pld": 3.0,
        "epsilon_rdp": 3.2,
        "delta": 1e-6,
        "not_proved": None,
        "plan": {"unit": {"name": "Example", "clip_norm": 1.0, "clip": "flat"}},
        "unit": "Example",
        "relation": "zero_out",
        "sampler": "Poisson",
        "sampling_prob": 0.02,
        "num_records": 60_000,
        "divisor": 1200.0,
        "presence": 1.0,
        "swap": 2.0,
        "noise_multiplier": 1.5,
        "noise_std": 1.5,
        "record": "one row",
        "steps_planned": 400,
        "steps_charged": 410,
        "attempts": [{"number": 0, "steps": 10, "noise_multiplier": 1.5}, {"number": 1, "steps": 400}],
        "public_seed": False,
        "looks": [],
        "left_out": ["tuning: ..."],
        "versions": {"sfumato": "0.1.0"},
        "ledger_head": "ab" * 32,
    }


def test_a_run_becomes_a_complete_card(measured: dict[str, Any]) -> None:
    built = card.build(facts_of_run(measured, **DECLARED))
    assert (built["epsilon"], built["accountant"], built["stamps"]) == (3.0, "pld", [])
    assert built["mechanism"].startswith("the gradient of each example is clipped to L2 norm 1 (flat clipping)")
    page = card.markdown(built)
    assert "| attempts | 2 (steps: 10; noise multiplier: 1.5 / steps: 400) |" in page
    assert "| sampling | Poisson sampling |" in page


def test_rdp_stands_in_where_there_is_no_pld(measured: dict[str, Any]) -> None:
    facts = facts_of_run({**measured, "epsilon_pld": None}, **DECLARED)
    assert (facts["epsilon"], facts["accountant"]) == (3.2, "rdp")


def test_what_is_not_proved_has_no_epsilon(measured: dict[str, Any]) -> None:
    unproved = dict.fromkeys(("epsilon_pld", "epsilon_rdp", "delta"))
    facts = facts_of_run({**measured, **unproved, "not_proved": "NOT PROVED: own rule."}, **DECLARED)
    built = card.build(facts)
    assert built["stamps"] == ["NOT PROVED: own rule"]
    assert "| delta | none |" in card.markdown(built)


def test_public_seed_and_debug_figures_are_stamped(measured: dict[str, Any]) -> None:
    looks = [{"what": "debug revealed"}, {"what": "TAN simulation", "steps": 200}]
    built = card.build(facts_of_run({**measured, "public_seed": True, "looks": looks}, **DECLARED))
    assert [stamp.split(":")[0] for stamp in built["stamps"]] == ["NOT PRIVATE", "NOT PRIVATE"]
    assert "TAN simulation" in card.markdown(built)


def test_further_facts_win(measured: dict[str, Any]) -> None:
    facts = facts_of_run(measured, **DECLARED, more={"record": "one patient", "max_true_positive_rate": 0.2})
    assert facts["record"] == "one patient"
    assert card.recognised(card.build(facts)) == 0.2
