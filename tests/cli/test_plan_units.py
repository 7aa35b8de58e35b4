"""`sfumato plan` for groups and pairs, and the comparison of units."""

import json

import pytest

from sfumato.base import BadInput
from sfumato.cli import main
from sfumato.cli.plan import PlanCommand, compared, plans_of
from sfumato.plan import Example, Group, InfoNCE, Pair

SMALL = ("--records", "60000", "--expected-batch-size", "1024", "--steps", "200", "--delta", "1e-6")


def said(capsys: pytest.CaptureFixture[str], *flags: str) -> str:
    assert main(["plan", *flags]) == 0
    return " ".join(capsys.readouterr().out.split())


def one(recipe: str, **given) -> PlanCommand:
    fields = {"records": 60_000, "expected_batch_size": 1024, "steps": 200, "delta": 1e-6, "epsilon": 8.0}
    return PlanCommand(recipe=recipe, **{**fields, **given})  # type: ignore[arg-type]


def fixed(recipe: str, **given) -> PlanCommand:
    """The same at a given noise: without a calibration, which takes seconds."""
    return one(recipe, epsilon=None, noise_multiplier=1.0, **given)


def test_each_recipe_has_its_unit():
    assert plans_of(fixed("dp-clip"))[0].unit == Group(clip_norm=1.0, num_groups=1)
    assert plans_of(fixed("dp-gcl"))[0].unit == Group(clip_norm=1.0, num_groups=64)
    assert plans_of(fixed("dp-gcl", num_groups=10))[0].unit == Group(clip_norm=1.0, num_groups=10)
    pair = plans_of(fixed("logit-dp", cap=1400, temperature=0.5))[0]
    assert pair.unit == Pair(clip_norm=1.0, loss=InfoNCE(temperature=0.5), largest_draw=1400)
    assert pair.presence == pytest.approx(InfoNCE(temperature=0.5).joining(1400))
    assert plans_of(fixed("logit-dp", loss="spread-out"))[0].presence == 6.0
    assert plans_of(fixed("dp-vlm"))[0].unit == plans_of(fixed("dp-cap"))[0].unit == Example(clip_norm=1.0)


def test_a_model_of_a_folder_says_how_many_parameters_train(capsys):
    flags = ("dp-vlm", *SMALL, "--noise-multiplier", "1")
    assert main(["plan", *flags]) == 2
    assert "--num-parameters" in capsys.readouterr().err
    assert "600,000" in said(capsys, *flags, "--num-parameters", "600000")
    assert main(["plan", *flags, "--num-parameters", "600000", "--benchmark"]) == 2
    assert "sfumato doctor" in capsys.readouterr().err


def test_all_meet_their_epsilon_and_groups_have_more_signal():
    plans = dict(compared(one("dp-gcl", cap=1400, temperature=0.5)))
    assert list(plans) == ["example", "whole batch", "groups of 64", "groups of 16", "groups of 4", "pairs"]
    assert all(7.9 < plan.epsilon() <= 8.0 for plan in plans.values())
    signals = [
        plans[name].signal_to_noise(100_000) for name in ("whole batch", "groups of 64", "groups of 16", "example")
    ]
    assert signals == sorted(signals)
    assert plans["whole batch"].noise_std / plans["whole batch"].divisor > 1, "it does not shrink with the batch"


def test_a_vacuous_temperature_is_said(capsys):
    text = said(capsys, "logit-dp", *SMALL, "--cap", "1400", "--temperature", "0.07", "--epsilon", "8")
    assert "the bound is vacuous" in text
    assert "e^(2/temperature) = 2.56e+12" in text
    quiet = said(capsys, "logit-dp", *SMALL, "--cap", "1400", "--temperature", "1", "--epsilon", "8")
    assert "vacuous" not in quiet


def test_the_temperature_that_is_advised_is_not_vacuous():
    for batch in (64, 1024, 16384):
        command = fixed("logit-dp", expected_batch_size=batch, cap=2 * batch, temperature=0.1)
        caution = plans_of(command)[0].unit.caution(batch)
        assert caution is not None
        advised = float(caution.split("a temperature of ")[1].split(" ")[0])
        better = plans_of(fixed("logit-dp", expected_batch_size=batch, cap=2 * batch, temperature=1.05 * advised))[0]
        assert better.unit.caution(batch) is None


def test_comparison_as_a_table_and_as_json(capsys):
    text = said(capsys, "dp-gcl", *SMALL, "--cap", "1400", "--epsilon", "8", "--compare")
    for name in ("example", "whole batch", "groups of 16", "pairs", "noise / signal"):
        assert name in text
    assert main(["plan", "dp-gcl", *SMALL, "--noise-multiplier", "1", "--compare", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["presence"] for row in rows[:3]] == [1.0, 2.0, 2.0]
    assert rows[-1]["caution"]


def test_comparison_needs_something_to_compare_at():
    with pytest.raises(BadInput, match="--compare needs --epsilon"):
        compared(one("dp-gcl", epsilon=None))
