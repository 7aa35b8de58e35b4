"""Recipes as values, the twin, the studies and the demonstration in small."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sfumato import models
from sfumato.base import BadInput
from sfumato.cli import main
from sfumato.cli.train import TrainCommand, run_of
from sfumato.recipes import Run, dp_cap
from sfumato.recipes.captioner import make_captioner
from sfumato.recipes.config import read_config, write_config
from sfumato.recipes.course import Course, course_of
from sfumato.recipes.execute import train_run, train_twin
from sfumato.recipes.made import Made
from sfumato.recipes.make import make
from sfumato.recipes.sets import sets_of


def small(out: Path) -> Run:
    run = dp_cap("shapes:600", out)
    privacy = replace(run.privacy, epsilon=None, noise_multiplier=1.0, expected_batch_size=24, steps=3)
    return replace(run, privacy=privacy, training=replace(run.training, micro_batch_size=16, warmup_steps=1))


def test_run_survives_json(tmp_path: Path) -> None:
    for spec in ("shapes", "fashion-mnist", "somewhere/pictures", "hf:owner/name"):
        run = dp_cap(spec)
        write_config(replace(run, out=tmp_path))
        assert read_config(tmp_path) == replace(run, out=tmp_path)


def test_run_of_another_version_is_named(tmp_path: Path) -> None:
    write_config(dp_cap("shapes", tmp_path))
    values = json.loads((tmp_path / "run.json").read_text())
    values["model"]["colour"] = 1
    (tmp_path / "run.json").write_text(json.dumps(values))
    with pytest.raises(BadInput, match="colour"):
        read_config(tmp_path)


def test_flags_replace_what_the_recipe_says() -> None:
    run = run_of(TrainCommand(recipe="dp-cap", data="shapes", steps=7, learning_rate=0.5, noise_multiplier=2.0, seed=1))
    assert (run.privacy.steps, run.privacy.epsilon, run.privacy.noise_multiplier) == (7, None, 2.0)
    assert run.training.learning_rate == 0.5
    assert run.data.seed == 0, "the seed of the run is not the seed of the data"


def test_epsilon_and_noise_contradict_each_other() -> None:
    with pytest.raises(BadInput, match="--epsilon"):
        run_of(TrainCommand(recipe="dp-cap", data="shapes", epsilon=1.0, noise_multiplier=2.0))


def test_train_writes_only_released_things_into_export(tmp_path: Path) -> None:
    epsilon = train_run(small(tmp_path / "run"))
    card = json.loads((tmp_path / "run" / "export" / "card.json").read_text())
    assert card["epsilon"] == pytest.approx(epsilon)
    assert not [stamp for stamp in card["stamps"] if "NOT" in stamp]
    lines = [json.loads(line) for line in (tmp_path / "run" / "export" / "progress.jsonl").read_text().splitlines()]
    assert {key for line in lines for key in line} <= {"step", "epsilon", "total", "time"}


def test_the_course_is_measured_on_public_held_out_pictures(tmp_path: Path) -> None:
    run = small(tmp_path / "run")
    seen: list[Any] = []
    train_run(run, on_progress=seen.append, seed=3)
    lines = [json.loads(line) for line in (tmp_path / "run" / "export" / "course.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [progress.step for progress in seen]
    assert [line["value"] for line in lines] == [progress.measured for progress in seen]

    loaded = models.load_export(tmp_path / "run" / "export")
    made = make(run)
    final = replace_model(course_of(made, tmp_path / "again"), loaded.model)
    assert final.measure(0) == pytest.approx(lines[-1]["value"], rel=1e-5)
    assert sum(len(batch["labels"]) for batch in final.batches) == 512


def test_measuring_the_course_changes_nothing(tmp_path: Path) -> None:
    """With dropout: a measurement that drew from the generators or left the mode changed would show in the weights."""
    measured, blind = (with_dropout(small(tmp_path / name)) for name in ("measured", "blind"))
    train_run(measured, seed=3)
    train_run(blind, seed=3, made=without_test(make(blind)))
    exports = [tmp_path / name / "export" for name in ("measured", "blind")]
    assert [(export / "course.jsonl").exists() for export in exports] == [True, False]
    assert (exports[0] / "model.safetensors").read_bytes() == (exports[1] / "model.safetensors").read_bytes()


def with_dropout(run: Run) -> Run:
    return replace(run, model=replace(run.model, dropout=0.1))


def replace_model(course: Course | None, model: Any) -> Course:
    assert course is not None
    return replace(course, model=model)


def without_test(made: Made) -> Made:
    return replace(made, held_out=None)


def test_no_course_on_private_pictures(tmp_path: Path) -> None:
    run = small(tmp_path / "run")
    sets = sets_of(run.data, run.model.image_size)
    assert sets.test is not None
    private = replace(sets, test=replace(sets.test, public=False))
    assert make_captioner(run, sets).held_out is not None
    assert make_captioner(run, private).held_out is None
    assert course_of(make_captioner(run, private), tmp_path) is None


def test_public_seed_is_stamped_and_reproduces(tmp_path: Path) -> None:
    weights = []
    for name in ("one", "two"):
        train_run(small(tmp_path / name), seed=5)
        weights.append((tmp_path / name / "export" / "model.safetensors").read_bytes())
        card = json.loads((tmp_path / name / "export" / "card.json").read_text())
        assert any("NOT PRIVATE" in stamp for stamp in card["stamps"])
    assert weights[0] == weights[1]


def test_twin_carries_no_card(tmp_path: Path) -> None:
    train_twin(replace(small(tmp_path / "twin"), private=False))
    export = tmp_path / "twin" / "export"
    assert (export / "NOT_PRIVATE.md").is_file()
    assert not (export / "card.json").exists()
    assert (export / "model.safetensors").is_file()


@pytest.mark.parametrize("name", ["accounting-grid", "batch-scaling"])
def test_studies_run_in_small(tmp_path: Path, name: str) -> None:
    assert main(["study", name, "--quick", "--out", str(tmp_path)]) == 0
    rows = json.loads((tmp_path / f"{name}-quick" / "rows.json").read_text())
    assert len(rows) >= 4
    assert (tmp_path / f"{name}-quick" / "plot.svg").is_file()


def test_grid_has_the_papers_row() -> None:
    from sfumato.recipes.study import accounting_grid

    (row,) = accounting_grid(233_804_767, [1_310_720], [0.728], 5708, 1 / 233_804_767)
    assert round(row["epsilon_rdp"], 2) == 8.05
    assert round(row["epsilon_pld"], 2) == 7.34


def test_what_the_card_cannot_state_costs_no_step(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A cap of one: the cross-check of epsilon has no delta left, which showed only when all steps were spent."""
    command = ["dp-cap", "--data", "shapes:60", "--expected-batch-size", "16", "--steps", "3", "--size", "pico"]
    assert (
        main(
            [
                "train",
                *command,
                "--cap",
                "1",
                "--delta",
                "1e-4",
                "--noise-multiplier",
                "1",
                "--out",
                str(tmp_path / "run"),
            ]
        )
        != 0
    )
    assert "raise the cap" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_card_that_lacks_a_fact_costs_no_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = small(tmp_path / "run")
    made = make(run)
    with pytest.raises(BadInput, match="vocabulary"):
        train_run(run, made=replace(made, public={}))
    assert not (tmp_path / "run").exists()
