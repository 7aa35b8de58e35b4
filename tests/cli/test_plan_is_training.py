"""What `sfumato plan` prices is what `sfumato train` runs: for every recipe and every flag that both have."""

from dataclasses import fields
from typing import Any

import pytest

from sfumato.base import BadInput
from sfumato.cli._flags import LossFlags, PrivacyFlags, UnitFlags
from sfumato.cli.plan import PlanCommand, plans_of
from sfumato.cli.train import TrainCommand, run_of
from sfumato.plan import Plan

RECIPES = ("dp-cap", "dp-clip", "dp-gcl", "logit-dp", "dp-vqa", "dp-vlm")
N = 20_000
BASE = {"noise_multiplier": 1.5}  # calibration takes seconds
VALUES: dict[str, list[dict[str, Any]]] = {
    "epsilon": [{"epsilon": 3.0, "noise_multiplier": None, "steps": 20, "sampler": "fixed"}],
    "delta": [{"delta": 1e-7}],
    "noise_multiplier": [{"noise_multiplier": 2.5}],
    "expected_batch_size": [{"expected_batch_size": 128}, {"expected_batch_size": N + 1}],
    "steps": [{"steps": 77}],
    "clip_norm": [{"clip_norm": 0.3}, {"clip_norm": -1.0}],
    "clip": [{"clip": "automatic"}],
    "num_groups": [{"num_groups": 4}, {"num_groups": 4, "unit": "group"}, {"num_groups": 10**6}],
    "group_size": [{"group_size": 32.0}, {"group_size": 32.0, "unit": "group"}],
    "views": [{"views": 2}],
    "norms": [{"norms": "bound"}],
    "sampler": [{"sampler": "fixed"}],
    "cap": [{"cap": 5000}, {"cap": 5000, "sampler": "fixed"}],
    "unit": [{"unit": "example"}, {"unit": "group"}, {"unit": "batch"}],
    "contrast": [{"contrast": "captions"}, {"contrast": "views"}],
    "loss": [{"loss": "sigmoid"}, {"loss": "spread-out"}],
    "temperature": [{"temperature": 0.7}, {"temperature": 0.7, "loss": "spread-out"}],
    "bias": [{"bias": -1.0}, {"bias": -1.0, "loss": "sigmoid"}],
    "symmetric": [{"symmetric": False}],
    "train_temperature": [{"train_temperature": True}],
}
OF_THE_MODEL = ("contrast", "train_temperature")


def planned(recipe: str, data: str, flags: dict[str, Any]) -> Plan | str:
    """The plan that is priced, or why there is none."""
    try:
        (plan,) = plans_of(PlanCommand(recipe=recipe, data=data, records=N, **flags))  # type: ignore[arg-type]
    except BadInput as error:
        return str(error)
    return plan


def trained(recipe: str, data: str, flags: dict[str, Any]) -> Plan | str:
    """The plan that a run follows, or why there is none."""
    model = "MODEL" if recipe == "dp-vlm" else None
    try:
        return run_of(TrainCommand(recipe=recipe, data=data, model=model, **flags)).plan(N)  # type: ignore[arg-type]
    except BadInput as error:
        return str(error)


def test_every_flag_that_both_have_is_tried() -> None:
    assert set(VALUES) == {f.name for flags in (PrivacyFlags, UnitFlags, LossFlags) for f in fields(flags)}


@pytest.mark.parametrize("data", ["", "fashion-mnist", "shapes:300", "easy-vqa"])
@pytest.mark.parametrize("recipe", RECIPES)
def test_without_flags(recipe: str, data: str) -> None:
    plan = planned(recipe, data, BASE)
    assert isinstance(plan, Plan)
    assert plan == trained(recipe, data, BASE)


@pytest.mark.parametrize("name", VALUES)
@pytest.mark.parametrize("recipe", RECIPES)
def test_with_a_flag(recipe: str, name: str) -> None:
    for flags in VALUES[name]:
        given = {**BASE, **flags}
        assert planned(recipe, "", given) == trained(recipe, "", given), flags


def test_a_flag_that_is_read_changes_the_plan_of_some_recipe() -> None:
    for name, values in VALUES.items():
        plans = [planned(recipe, "", {**BASE, **flags}) for recipe in RECIPES for flags in values]
        usual = [planned(recipe, "", BASE) for recipe in RECIPES]
        assert any(isinstance(plan, Plan) and plan not in usual for plan in plans) or name in OF_THE_MODEL, name
