"""Flags that contradict one another, or that would be ignored: refused before anything is loaded."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sfumato import cli
from sfumato.base import BadInput
from sfumato.cli import _training
from sfumato.cli.train import TrainCommand, run_of
from sfumato.data import Columns, image_folder, load
from sfumato.data.roles import check_roles
from sfumato.recipes.classifier import make_classifier
from sfumato.recipes.privacy import Privacy
from sfumato.recipes.sets import Sets

TWO = ["--records", "60000", "--noise-multiplier", "2", "--steps", "10"]


def _run(recipe: str = "dp-cap", **flags: Any) -> Any:
    return run_of(TrainCommand(**{"recipe": recipe, "data": "shapes:1000", "noise_multiplier": 1.0, **flags}))


@pytest.mark.parametrize(
    ("recipe", "flags", "words"),
    [
        ("dp-gcl", {"num_groups": 2, "group_size": 4.0}, "one of --num-groups and --group-size"),
        ("dp-gcl", {"num_groups": 0}, "--num-groups"),
        ("dp-gcl", {"num_groups": 5000}, "--num-groups 5000 exceeds"),
        ("dp-gcl", {"group_size": 5000.0}, "--group-size 5000 exceeds"),
        ("dp-cap", {"expected_batch_size": 1001}, "--expected-batch-size 1001 exceeds the number of records, 1000"),
        ("dp-cap", {"epsilon": 8.0}, "one of --epsilon and --noise-multiplier"),
        ("dp-cap", {"vocabulary": "a", "public_text": "b"}, "one of --vocabulary and --public-text"),
        ("dp-cap", {"sampler": "fixed", "cap": 10}, "--cap belongs to"),
        ("dp-cap", {"warmup_steps": 30, "steps": 20}, "--warmup-steps 30 is longer"),
        ("dp-cap", {"window": (9.0, 3.0)}, "--window"),
        ("dp-vqa", {"num_groups": 3}, "--num-groups"),
    ],
)
def test_training(recipe: str, flags: dict[str, Any], words: str) -> None:
    with pytest.raises(BadInput, match=words):
        _run(recipe, **flags).plan(1000)


def test_a_recipes_own_batch_takes_all_of_a_small_set() -> None:
    assert _run(delta=1e-5).plan(50).batch_size == 50
    assert _run(delta=1e-5, expected_batch_size=50).plan(50).batch_size == 50


def test_a_flag_takes_the_place_of_a_recipes_group_size() -> None:
    run = _run("dp-gcl", num_groups=7)
    assert run.plan(1000).unit.num_groups == 7
    assert _run("dp-clip").plan(1000).unit.num_groups == 1


@pytest.mark.parametrize("records", [1, 2, 99])
def test_a_default_delta_is_not_large(records: int, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(BadInput, match="give --delta"):
        _run().plan(records)
    assert _run(delta=0.01).plan(records).delta == 0.01
    assert _run().plan(100).delta == pytest.approx(1e-3)
    assert cli.main(["plan", "dp-cap", "--records", str(records), "--noise-multiplier", "2"]) == 2
    assert "--delta" in capsys.readouterr().err


def test_a_baseline_claims_nothing_and_needs_no_delta() -> None:
    assert run_of(TrainCommand(recipe="dp-cap", data="shapes:9", non_private=True)).plan(9).noise_multiplier == 0.0


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["dp-cap", *TWO, "--num-groups", "4"], "dp-cap of captioner has no setting --num-groups"),
        (["dp-cap", *TWO, "--temperature", "0.5"], "dp-cap of captioner has no setting --temperature"),
        (["logit-dp", *TWO, "--clip", "automatic"], "--clip"),
        (["dp-cap", *TWO, "--image-size", "64"], "--image-size is a setting of --benchmark"),
        (["dp-gcl", *TWO, "--num-groups", "60000"], "--num-groups 60000 exceeds"),
        (["dp-gcl", *TWO, "--compare", "--num-groups", "4"], "--num-groups"),
    ],
)
def test_planning(flags: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["plan", *flags]) == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("study", "flags", "words"),
    [
        ("accounting-grid", ["--epsilons", "3"], "--epsilons"),
        ("batch-scaling", ["--jobs", "2"], "--jobs"),
        ("vqa", ["--data", "emoji"], "--data"),
        ("batch-and-clip", ["--seeds", "2"], "--seeds"),
        ("vqa", ["--jobs", "-1"], "--jobs"),
    ],
)
def test_a_study_reads_what_it_is_given(
    study: str, flags: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["study", study, *flags, "--out", str(tmp_path / "new")]) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("number", ["0", "99999999999999999999", "9" * 5000])
@pytest.mark.parametrize("kind", ["shapes", "shape-questions"])
def test_a_number_of_scenes_is_one_that_can_be_drawn(kind: str, number: str) -> None:
    with pytest.raises(BadInput, match=r"shape.*:NUM with a whole number from 1 to 100,000,000, got"):
        load(f"{kind}:{number}")


def test_predicting_needs_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["predict", str(tmp_path)]) == 2
    assert "name a picture" in capsys.readouterr().err


@pytest.mark.parametrize("suite", ["", " , "])
def test_an_evaluation_needs_a_suite(suite: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["evaluate", str(tmp_path), "--suite", suite]) == 2
    assert "--suite" in capsys.readouterr().err


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(3):
        Image.fromarray(np.full((8, 8, 3), number, np.uint8)).save(tmp_path / f"{number}.png")
    lines = [f"{number}.png,a text,p{number},red" for number in range(3)]
    (tmp_path / "t.csv").write_text("\n".join(["file,text,person,class", *lines]) + "\n")
    return tmp_path


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        (Columns(caption="file"), "--image-column and --caption-column"),
        (Columns(owner="text"), "--owner-column and --caption-column"),
        (Columns(image="file", label="file"), "--image-column and --label-column"),
        (Columns(question="text", answer="text"), "--question-column and --answer-column"),
    ],
)
def test_one_column_has_one_role(columns: Columns, words: str, folder: Path) -> None:
    with pytest.raises(BadInput, match=words):
        image_folder(folder, folder / "t.csv", columns=columns)


def test_captions_of_one_picture_may_be_one_record_and_labels_captions() -> None:
    check_roles({"image": "file", "owner": "file", "caption": "class", "label": "class"}, "t.csv")


def test_a_classifier_tells_classes_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sfumato.recipes.classifier.open_trained", lambda folder: None)
    run = _run(delta=1e-5)
    train = load("shapes:4")
    for classes in (("red circle",), ("a", "a")):
        other = type(run)(
            recipe="finetune",
            out=tmp_path,
            data=type(run.data)(spec="shapes:4", classes=classes),
            model=type(run.model)(kind="classifier", init="runs/x"),
        )
        with pytest.raises(BadInput, match="--classes"):
            make_classifier(other, Sets(train=train, test=None))


def test_settings_of_python_are_checked_as_flags_are() -> None:
    for wrong in ({"sampler": "other"}, {"num_groups": 3000, "unit": "group"}, {"sampler": "fixed", "cap": 9}):
        with pytest.raises(BadInput, match=r"--sampler|--num-groups|--cap"):
            Privacy(**wrong).plan(10_000)


def test_a_run_of_a_former_version_is_named_where_a_setting_is_out_of_range(tmp_path: Path) -> None:
    from sfumato.recipes.config import CONFIG, read_config, write_config

    run = _run(out=tmp_path)
    write_config(run)
    path = tmp_path / CONFIG
    path.write_text(path.read_text().replace('"steps": ', '"steps": -'))
    with pytest.raises(BadInput, match=r"run\.json is not a run of this version .*--steps"):
        read_config(tmp_path)


def test_nothing_is_trained_by_a_refused_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_training, "carry_out", lambda *_, **__: pytest.fail("it trained"))
    assert cli.main(["train", "dp-cap", "--data", "shapes:10", "--dropout", "1"]) == 2
