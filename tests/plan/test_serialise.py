"""JSON round trips, and errors that name the key."""

import json

import pytest

from sfumato.base import BadInput, Relation
from sfumato.plan import Conjectured, Example, Plan
from sfumato.sampling import FixedSize, FullBatch, Poisson

PLANS = {
    "poisson": Plan(unit=Example(clip_norm=1.0), sampler=Poisson(num_records=7000, expected_batch_size=300), steps=5),
    "hidden": Plan(
        unit=Example(clip_norm=0.3, clip="automatic", gamma=0.1),
        sampler=Poisson(sampling_prob=0.1, expected_batch_size=33.3),
        steps=5,
        delta=1e-7,
        noise_multiplier=0.1 + 0.2,
    ),
    "capped": Plan(
        unit=Example(clip_norm=1.0),
        sampler=Poisson(num_records=7, expected_batch_size=3, cap=5),
        steps=5,
        relation=Relation.REPLACE_ONE,
    ),
    "fixed": Plan(unit=Example(clip_norm=1.0), sampler=FixedSize(num_records=7, batch_size=3), steps=5),
    "full": Plan(unit=Example(clip_norm=1.0), sampler=FullBatch(num_records=7), steps=5),
    "conjectured": Plan(
        unit=Conjectured(rule="mine", presence=1.0, swap=1.5),
        sampler=FullBatch(num_records=7),
        steps=5,
        noise_multiplier=1.0,
    ),
}
PLANS["twin"] = PLANS["hidden"].twin(3)


@pytest.mark.parametrize("name", PLANS)
def test_round_trip(name):
    plan = PLANS[name]
    text = json.dumps(plan.to_json(), allow_nan=False)
    again = Plan.from_json(json.loads(text))
    assert again == plan
    assert hash(again) == hash(plan)
    assert json.dumps(again.to_json()) == text


def test_a_hidden_number_of_records_is_nowhere():
    assert PLANS["hidden"].to_json()["sampler"]["num_records"] is None


def changed(path, value, name="poisson"):
    """A written plan with one value replaced ("drop" takes the key away)."""
    values = json.loads(json.dumps(PLANS[name].to_json()))
    inner = values
    for key in path[:-1]:
        inner = inner[key]
    if value == "drop":
        del inner[path[-1]]
    else:
        inner[path[-1]] = value
    return values


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        (["epsilon"], 8.0, "unknown keys epsilon"),
        (["steps"], "drop", "lacks keys steps"),
        (["delta"], "drop", "lacks keys delta"),
        (["delta"], None, "delta must not be null"),
        (["relation"], None, "relation must not be null"),
        (["relation"], "bounded", "bounded"),
        (["schema"], 2, "schema 2"),
        (["schema"], "drop", "schema None"),
        (["is_simulation"], "no", "is_simulation"),
        (["is_simulation"], 0, "is_simulation"),
        (["steps"], "5", "steps"),
        (["unit"], None, "unit has unknown kind None"),
        (["unit", "kind"], "trio", "unknown kind 'trio'"),
        (["unit", "clip_norm"], "drop", "unit lacks keys clip_norm"),
        (["unit", "clip_norm"], "1", "clip_norm"),
        (["unit", "noise"], 1, "unit has unknown keys noise"),
        (["sampler", "kind"], "shuffle", "unknown kind 'shuffle'"),
        (["sampler", "cap"], "drop", "sampler lacks keys cap"),
        (["sampler", "num_records"], 8000, "contradicts"),
        (["sampler", "num_records"], "7000", "sampler"),
        (["sampler", "seed"], 1, "sampler has unknown keys seed"),
    ],
)
def test_what_does_not_fit_is_named(path, value, named):
    with pytest.raises(BadInput, match=named):
        Plan.from_json(changed(path, value))


def test_a_plan_is_an_object():
    with pytest.raises(BadInput, match="list"):
        Plan.from_json([1])


def test_units_without_a_json_form_are_named():
    class Local(Example):
        pass

    plan = Plan(unit=Local(clip_norm=1.0), sampler=FullBatch(num_records=7), steps=5)
    with pytest.raises(BadInput, match="Local"):
        plan.to_json()
