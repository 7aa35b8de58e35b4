"""The study of visual questions in small: its cells, what is kept, and what is shown."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from tests.once import only_whole

from sfumato.cli import main
from sfumato.recipes import vqa_start, vqa_study, vqa_table
from sfumato.recipes.run import Run
from sfumato.recipes.vqa_start import EASY, SCENES, Stage
from sfumato.recipes.vqa_study import ALONE, SCRATCH, START, Cell


def test_cells_are_those_of_the_table() -> None:
    found = vqa_study.cells()
    assert len(found) == 1 + 3 * 4
    assert {(cell.data, cell.method) for cell in found} == {
        (EASY, ALONE), (EASY, START), (EASY, SCRATCH), (SCENES, SCRATCH),
    }  # fmt: skip
    assert len(vqa_study.cells(seeds=3)) == 1 + 3 * 12
    assert len({cell.name for cell in vqa_study.cells(seeds=2)}) == 1 + 2 * 12


def test_private_runs_and_their_twins_differ_in_privacy_alone(tmp_path: Path) -> None:
    given = (vqa_study.FULL, tmp_path / "words.txt", tmp_path / "start", tmp_path / "run")
    for method in (START, SCRATCH):
        twin, private = (
            vqa_study.run_of(Cell(data=EASY, method=method, epsilon=epsilon), *given) for epsilon in (None, 3.0)
        )
        assert (twin.private, private.private) == (False, True)
        assert private.privacy.epsilon == 3.0
        for part in ("data", "model", "asking", "training", "adapter"):
            assert getattr(twin, part) == getattr(private, part)


def test_the_start_goes_on_from_stage_to_stage(tmp_path: Path) -> None:
    runs = list(vqa_start.runs(vqa_start.FULL, tmp_path / "words.txt", tmp_path / "s"))
    assert [run.model.init for run in runs] == [None, *(str(run.out) for run in runs[:-1])]
    assert all(not run.private and run.data.spec.startswith(SCENES) for run in runs)
    assert [run.data.kinds for run in runs] == [stage.kinds for stage in vqa_start.FULL.stages]
    cell = Cell(data=EASY, method=START, epsilon=3.0)
    begun = vqa_study.run_of(cell, vqa_study.FULL, tmp_path / "words.txt", runs[-1].out, tmp_path)
    assert begun.model.init == str(runs[-1].out)


def test_only_the_stages_that_changed_are_trained_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained: list[str] = []
    shown: list[tuple[int, int]] = []

    def twin(run: Run, on_step: Callable[[int, float], None]) -> None:
        trained.append(run.out.name)
        (run.out / "export").mkdir(parents=True, exist_ok=True)
        on_step(run.privacy.steps or 0, 0.0)

    monkeypatch.setattr(vqa_start, "train_twin", twin)
    words, quick = tmp_path / "words.txt", vqa_start.QUICK
    words.write_text("red\n")
    other = replace(quick, stages=(quick.stages[0], replace(quick.stages[1], steps=3)))
    for start in (quick, quick, other):
        last = vqa_start.trained(start, words, tmp_path / "s", lambda done, total: shown.append((done, total)))
        assert last == tmp_path / "s" / "1"
    assert trained == ["0", "1", "1"]
    assert shown == [(2, 4), (4, 4), (5, 5)]
    shutil.rmtree(tmp_path / "s" / "0" / "export")
    vqa_start.trained(other, words, tmp_path / "s", lambda *_: None)
    assert trained == ["0", "1", "1", "0"], "what is gone is made again"


def test_cells_from_the_start_are_made_again_where_it_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Cell] = []

    def figures_of(cell: Cell, *_: object) -> dict[str, object]:
        made.append(cell)
        return {"figures": figures(0.5), "blind": {}}

    monkeypatch.setattr(vqa_study, "_figures", figures_of)
    (tmp_path / "words.txt").write_text("red\n")
    given = {"words": tmp_path / "words.txt", "start": tmp_path, "out": tmp_path}
    started, scratch = (Cell(data=EASY, method=method, epsilon=3.0) for method in (START, SCRATCH))
    begun = vqa_start.QUICK
    longer = replace(vqa_study.QUICK, start=replace(begun, stages=(*begun.stages, Stage(kinds=(), steps=3))))
    for scale in (vqa_study.QUICK, vqa_study.QUICK, longer):
        for cell in (started, scratch):
            vqa_study.make_cell(cell, scale=scale, **given)
    assert made == [started, scratch, started]


def test_one_vocabulary_spells_both_data_sets() -> None:
    words = {word.strip("?") for word in vqa_start.vocabulary()}
    assert {"teal", "rectangle", "contain", "diamond", "yes"} <= words


def figures(accuracy: float) -> dict[str, float]:
    return {"accuracy": accuracy, "low": accuracy - 0.1, "high": accuracy + 0.1, "color": accuracy}


def test_rows_give_methods_over_seeds_and_what_needs_no_picture() -> None:
    blind = {"majority answer": figures(0.3)}
    found = [
        {"data": EASY, "method": START, "epsilon": 8.0, "figures": figures(value), "blind": blind}
        for value in (0.8, 0.9)
    ]
    blind_row, row = vqa_table.rows(found, EASY)
    assert (blind_row["method"], blind_row["accuracy"], blind_row["color"]) == ("majority answer", "30.0", "30.0")
    assert (row["method"], row["epsilon"], row["accuracy"]) == (START, "8", "85.0 +- 7.1")


@only_whole
def test_study_in_small(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["study", "vqa", "--quick", "--out", str(tmp_path)]
    assert main(command) == 0
    out = tmp_path / "vqa-quick"
    rows = json.loads((out / "rows.json").read_text())
    methods = {(row["data"], row["method"]) for row in rows}
    assert {(EASY, "question only"), (SCENES, "majority answer"), (EASY, ALONE), (SCENES, SCRATCH)} <= methods
    kept = {path.name: path.stat().st_mtime_ns for path in (out / "cells").iterdir()}
    assert len(kept) == 1 + 3 * 2
    assert {path.name for path in out.glob("*.svg")} == {"easy-vqa.svg", "shape-questions.svg"}
    assert "visual" not in capsys.readouterr().err
    assert main(command) == 0
    assert {path.name: path.stat().st_mtime_ns for path in (out / "cells").iterdir()} == kept, "kept, not repeated"
