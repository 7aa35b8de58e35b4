from copy import deepcopy
from typing import Any

import pytest

from sfumato.base import BadInput
from sfumato.report.facts import LEFT_OUT, MANDATORY, PUBLIC, check

Facts = dict[str, Any]


@pytest.mark.parametrize("name", MANDATORY)
def test_a_missing_fact_is_named(facts: Facts, name: str) -> None:
    del facts[name]
    with pytest.raises(BadInput, match=f"lacks the fact '{name}'"):
        check(facts)


@pytest.mark.parametrize(("part", "name"), [("public", n) for n in PUBLIC] + [("left_out", n) for n in LEFT_OUT])
def test_a_missing_inner_fact_is_named(facts: Facts, part: str, name: str) -> None:
    del facts[part][name]
    with pytest.raises(BadInput, match=f"lacks the fact '{part}.{name}'"):
        check(facts)


def test_input_is_left_alone(facts: Facts) -> None:
    before = deepcopy(facts)
    check(facts)
    assert facts == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epsilon": None}, "no epsilon and no stamp"),
        ({"stamps": ["NOT PROVED: own rule"]}, "may not state an epsilon"),
        ({"stamps": ["fine"]}, "a stamp reads"),
        ({"relation": "add_remove"}, "would publish it"),
        ({"relation": "friends"}, "unknown relation 'friends'"),
        ({"noise_multiplier": 3.0}, "contradicts itself"),
        ({"epsilon": float("inf")}, "'epsilon' must be a finite number"),
        ({"epsilon": float("nan")}, "'epsilon' must be a finite number"),
        ({"epsilon": -1.0}, "'epsilon' must be a finite number"),
        ({"delta": 1.5}, "'delta'"),
        ({"presence": None}, "'presence'"),
        ({"attempts": 0}, "'attempts'"),
        ({"versions": {"torch": object()}}, "not plain JSON"),
    ],
)
def test_contradictions_are_refused(facts: Facts, changes: Facts, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        check({**facts, **changes})


def test_hidden_number_of_records_goes_with_add_remove(facts: Facts) -> None:
    facts["relation"] = "add_remove"
    facts["public"]["num_records"] = None
    assert check(facts)["stamps"] == []


def test_known_seed_is_stamped(facts: Facts) -> None:
    facts["public"]["seed"] = "given on the command line"
    assert check(facts)["stamps"] == ["NOT PRIVATE: public seed"]


def test_no_noise_is_stamped(facts: Facts) -> None:
    stamps = check({**facts, "noise_std": 0.0, "noise_multiplier": 0.0, "epsilon": None})["stamps"]
    assert stamps == ["NOT PRIVATE: no noise was added"]


def test_conjectured_rule_needs_no_distances(facts: Facts) -> None:
    unknown = dict.fromkeys(("presence", "swap", "noise_multiplier", "epsilon"))
    checked = check({**facts, **unknown, "stamps": ["NOT PROVED: own clip factor"]})
    assert checked["presence"] is None


def test_large_delta_is_warned_of_once(facts: Facts) -> None:
    once = check({**facts, "delta": 1e-4})
    assert len(once["warnings"]) == 1
    assert "1/N" in once["warnings"][0]
    assert check(once)["warnings"] == once["warnings"]


def test_limits_of_every_run_are_added(facts: Facts) -> None:
    left_out = check(facts)["left_out"]
    assert {"floating_point", "side_channels", "tuning"} <= set(left_out)
    assert "several_rows" not in left_out
    assert "several rows" in check({**facts, "owner_column": None})["left_out"]["several_rows"]
