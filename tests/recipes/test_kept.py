"""Kept cells of studies: read where their settings hold, made again where they changed."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sfumato.recipes import dp_cap
from sfumato.recipes.kept import carried_out, keep, told, unusual


def test_a_cell_is_kept_until_its_settings_change(tmp_path: Path) -> None:
    made: list[int] = []

    def make() -> dict[str, Any]:
        made.append(1)
        return {"figure": 0.5}

    run = dp_cap("shapes", tmp_path / "x")
    file = tmp_path / "cells" / "one.json"
    one = keep(file, told(run), make)
    assert keep(file, told(run), make) == one
    assert len(made) == 1
    keep(file, told(replace(run, model=replace(run.model, seed=3))), make)
    assert len(made) == 2


def test_a_field_that_is_new_and_at_its_default_changes_nothing(tmp_path: Path) -> None:
    settings = told(dp_cap("shapes", tmp_path / "x"))
    older = {name: value for name, value in settings.items() if name not in ("asking", "adapter")}
    older["model"] = {name: value for name, value in older["model"].items() if name != "train_temperature"}
    assert unusual(older) == unusual(settings)
    other = {**settings, "model": {**settings["model"], "train_temperature": True}}
    assert unusual(older) != unusual(other)


def test_nothing_is_written_where_making_fails(tmp_path: Path) -> None:
    def fail() -> dict[str, Any]:
        raise ValueError

    with pytest.raises(ValueError):  # noqa: PT011
        keep(tmp_path / "one.json", {}, fail)
    assert not list(tmp_path.iterdir())


def test_work_is_handed_back_with_its_cell() -> None:
    assert dict(carried_out([1, 2, 3], lambda piece: {"twice": 2 * piece}, jobs=1)) == {
        1: {"twice": 2},
        2: {"twice": 4},
        3: {"twice": 6},
    }
