"""Who reads which setting: every flag is read by some recipe, and help texts show what is read."""

import re

import pytest

from sfumato.base import BadInput
from sfumato.cli import main
from sfumato.cli._flags import SECTIONS, helps
from sfumato.cli.train import TrainCommand, run_of
from sfumato.recipes.capabilities import RECIPES, reads
from sfumato.recipes.privacy import Loss, Privacy
from sfumato.recipes.run import Adapter, Asking, Data, Model, Training

FLAGS = [flag for _, flags in SECTIONS.values() for flag in flags]


def shown(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["train", *arguments, "--help"]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("recipe", RECIPES)
def test_help_shows_the_flags_that_a_recipe_reads_and_no_none(
    recipe: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    text = shown(capsys, recipe)
    found = set(re.findall(r"^. --([a-z][a-z0-9-]*)", text, re.MULTILINE))
    wanted = {flag.name.replace("_", "-") for flag in FLAGS if reads(recipe, flag.name)}
    assert found == wanted | {"non-private", "new-attempt", "reveal", "seed"}
    assert "None" not in text
    assert "privacy options" in text


def test_help_shows_the_values_for_a_data_set(capsys: pytest.CaptureFixture[str]) -> None:
    assert "(default: 2000)" in shown(capsys, "dp-cap")
    assert "(default: 300)" in shown(capsys, "dp-cap", "--data", "fashion-mnist")


def test_help_without_a_recipe_lists_them(capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(capsys)
    assert all(f"  {recipe} " in text for recipe in RECIPES)
    assert main(["train"]) == 2
    assert capsys.readouterr().out.startswith("usage: sfumato train RECIPE")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["dp-cpa", "--data", "shapes"], "Did you mean dp-cap?"),
        (["--data", "shapes"], "needs a recipe first"),
        (["dp-cap", "--data", "shapes", "--rank=4"], "dp-cap of captioner has no setting --rank"),
        (["--data", "shapes", "logit-dp", "--clip", "flat"], "logit-dp of encoder has no setting --clip"),
        (["dp-vlm", "--data", "shapes"], "needs --model FOLDER"),
    ],
)
def test_what_is_no_recipe_or_of_another_is_named(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", *arguments]) == 2
    assert words in capsys.readouterr().err


def test_every_setting_says_what_it_means() -> None:
    for settings in (Data, Model, Adapter, Asking, Loss, Privacy, Training):
        assert set(helps(settings)) == set(settings.__dataclass_fields__), settings


def test_a_flag_that_no_recipe_reads_is_none() -> None:
    assert [flag.name for flag in FLAGS if not any(reads(recipe, flag.name) for recipe in RECIPES)] == []


@pytest.mark.parametrize("recipe", RECIPES)
def test_what_is_not_read_is_refused_from_python_too(recipe: str) -> None:
    values = {"num_groups": 4, "temperature": 0.5, "max_tokens": 9, "prompt": "{question}", "norms": "exact"}
    for name, value in values.items():
        model = "MODEL" if recipe == "dp-vlm" else None
        if not reads(recipe, name):
            with pytest.raises(BadInput, match=f"has no setting --{name.replace('_', '-')}"):
                run_of(TrainCommand(recipe=recipe, data="x", **{"model": model, name: value}))
