"""The comparison of methods: cells, tuning, what is kept, and the study in small."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sfumato.cli import main
from sfumato.plan import Example, Group, Pair
from sfumato.recipes import compare, compare_table
from sfumato.recipes.compare import Cell


def test_every_method_is_tried_as_often_and_never_on_what_is_reported() -> None:
    tuning = compare.trials(4)
    assert {method: sum(cell.method == method for cell in tuning) for method in compare.METHODS} == dict.fromkeys(
        compare.METHODS, 4
    )
    assert not {cell.data for cell in tuning} & set(compare.DATA)
    names = [cell.name for cell in (*tuning, *compare.cells())]
    assert len(set(names)) == len(names)
    private = [cell for cell in compare.cells() if cell.epsilon is not None]
    assert len(private) == 2 * 3 * 4 * 3, "data sets, epsilons, methods, seeds"


def test_the_runs_of_the_cells() -> None:
    def run(method: str, epsilon: float | None = 3.0, data: str = "fashion-mnist") -> Any:
        cell = Cell(data=data, method=method, epsilon=epsilon, seed=2)
        return compare.run_of(
            cell, {"learning_rate": 0.1, "temperature": 0.7, "group_size": 5.0}, compare.FULL, Path("x")
        )

    def unit(made: Any) -> Any:  # without calibration, which takes seconds
        return replace(made.privacy, epsilon=None, noise_multiplier=1.0).plan(60_000, made.loss).unit

    units = {method: unit(run(method)) for method in compare.METHODS[1:]}
    assert [type(unit) for unit in units.values()] == [Group, Group, Pair, Example]
    assert (units["dp-clip"].num_groups, units["dp-gcl"].num_groups) == (1, 205)
    assert units["logit-dp"].loss.temperature == 0.7
    for method in compare.METHODS:
        made = run(method, None if method == "non-private" else 3.0)
        assert made.private == (method != "non-private")
        assert (made.training.learning_rate, made.model.seed) == (0.1, 2)
        assert made.privacy.steps == compare.FULL.steps
    assert run("dp-gcl", data="emoji").model.init == "lit"
    assert run("dp-cap", data="emoji").model.init is None


def found(method: str, trial: int, score: float) -> dict[str, Any]:
    return {"method": method, "trial": trial, "figures": {"zeroshot": score}}


def test_the_best_trial_is_the_first_of_the_highest() -> None:
    tried = [found("a", 0, 0.1), found("a", 1, 0.5), found("a", 2, 0.5), found("b", 0, 0.2)]
    assert compare.best_trials(tried) == {"a": 1, "b": 0}


def test_a_kept_cell_is_read_and_made_again_where_its_settings_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Any] = []

    def figures(cell: Any, run: Any, scale: Any) -> dict[str, float]:
        calls.append((cell, scale))
        return {"zeroshot": 0.5}

    monkeypatch.setattr(compare, "_figures", figures)
    cell = Cell(data="emoji", method="dp-gcl", epsilon=1.0)
    one = compare.make_cell(cell, {"learning_rate": 0.1}, compare.QUICK, tmp_path)
    assert compare.make_cell(cell, {"learning_rate": 0.1}, compare.QUICK, tmp_path) == one
    assert len(calls) == 1
    compare.make_cell(cell, {"learning_rate": 0.2}, compare.QUICK, tmp_path)
    compare.make_cell(cell, {"learning_rate": 0.2}, replace(compare.QUICK, limit=61), tmp_path)
    assert len(calls) == 3
    assert [path.name for path in tmp_path.iterdir()] == ["emoji_dp-gcl_eps1_seed0.json"]


def test_rows_give_mean_and_spread_and_what_is_not_defined() -> None:
    figures = dict.fromkeys(compare_table.FIGURES)
    cells = [
        {"data": "d", "method": "m", "epsilon": 3.0, "figures": {**figures, "knn": value}} for value in (0.5, 0.6, 0.7)
    ]
    (row,) = compare_table.rows(cells)
    assert (row["kNN"], row["probe"]) == ("60.0 +- 10.0", "n/a")


def test_study_in_small(tmp_path: Path) -> None:
    command = ["study", "contrastive", "--quick", "--out", str(tmp_path)]
    assert main(command) == 0
    out = tmp_path / "contrastive-quick"
    cells = json.loads((out / "rows.json").read_text())
    assert {cell["method"] for cell in cells} == {*compare.METHODS, compare.BASELINE}
    for cell in cells:
        has = {name for name, value in cell["figures"].items() if value is not None}
        assert {"knn", "probe", "zeroshot"} <= has
        assert ("t2i_r10" in has) == (cell["method"] != "dp-cap"), "a captioner has no retrieval"
    assert len(list((out / "cells").iterdir())) == len(cells) + 5
    assert {path.name for path in out.glob("*.svg")} == {"emoji-zeroshot.svg", "emoji-probe.svg", "emoji-t2i_r10.svg"}
    before = {path.name: path.stat().st_mtime_ns for path in (out / "cells").iterdir()}
    assert main(command) == 0
    assert {path.name: path.stat().st_mtime_ns for path in (out / "cells").iterdir()} == before, "kept, not repeated"
