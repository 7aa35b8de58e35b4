"""Private questions by the command, and a start from a former run."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from tests.data.visual import build_vqa2
from tests.once import only_whole
from tests.recipes.asked import (
    PUBLIC_TEXT,
    SCRATCH,
    SECRET_WORD,
    TINY,
    build_table,
    card_of,
    of_table,
    scenes,
    small,
    words,
)

from sfumato import models
from sfumato.base import BadInput
from sfumato.cli import main
from sfumato.recipes import dp_vqa
from sfumato.recipes.execute import train_run
from sfumato.recipes.make import make


@pytest.fixture(scope="module")
def vqa2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vqa2")
    build_vqa2(folder, num_images=10)
    build_vqa2(folder, split="val", num_images=4, first_image=50, seed=1)
    (folder / "sentences.txt").write_text(PUBLIC_TEXT)
    return folder


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_table(tmp_path_factory.mktemp("table"))


@pytest.fixture(scope="module")
def from_scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = scenes(tmp_path_factory.mktemp("scratch") / "run")
    train_run(run, made=replace(make(run), held_out=None))
    return run.out


def test_vqa2_by_the_command(vqa2: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    command = ["train", "dp-vqa", "--data", f"vqa2:{vqa2}", *words({**TINY, **SCRATCH}), "--out", str(run)]
    assert main(command) == 2
    assert "questions and answers are private" in capsys.readouterr().err
    assert not run.exists()
    assert main([*command, "--public-text", str(vqa2 / "sentences.txt")]) == 0
    card = card_of(run)
    assert card["public"]["num_records"] == 10
    assert card["record"] == "one picture with all its questions; a draw takes one of its questions"
    assert "sentences.txt" in card["public"]["vocabulary"]
    assert not (run / "export" / "course.jsonl").exists(), "no curve on private pictures"
    assert main(["evaluate", str(run), "--suite", "vqa"]) == 0
    assert json.loads((run / "export" / "metrics.json").read_text())["suites"] == {}
    found = json.loads((run / "private" / "metrics.json").read_text())["suites"]["vqa"]
    assert "accuracy" in found["free"]
    assert "skipped" in found["ranked"], "a list of the private answers would tell of them"


def test_a_table_with_owners_by_the_command(table: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    told = {**of_table(table), **TINY, **SCRATCH, "--public-text": table / "sentences.txt", "--views": 3}
    assert main(["train", "dp-vqa", *words(told), "--out", str(run)]) == 0
    card = card_of(run)
    assert card["public"]["num_records"] == 9, "owners are the records: 12, of which three are held out"
    assert "'person'" in card["record"]
    assert "over 3 of its rows" in card["unit"] or "3 of its rows" in json.dumps(card)
    exported = b"".join(path.read_bytes() for path in (run / "export").rglob("*") if path.is_file())
    assert SECRET_WORD.encode() not in exported
    assert b"owner 3" not in exported
    assert main(["evaluate", str(run), "--suite", "vqa"]) == 0
    kinds = json.loads((run / "private" / "metrics.json").read_text())["suites"]["vqa"]["free"]
    assert '"color"' in json.dumps(kinds)
    assert '"is"' in json.dumps(kinds)


def test_pictures_of_both_splits_are_refused_before_anything_is_spent(vqa2: Path, tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    build_vqa2(shared, num_images=3)
    val = build_vqa2(shared, split="val", num_images=3)
    shutil.rmtree(val.images)
    val.images.symlink_to(shared / "train2014")
    for path in sorted((shared / "train2014").iterdir()):
        (path.parent / path.name.replace("train", "val")).symlink_to(path)
    run = replace(scenes(tmp_path / "run"), data=replace(scenes().data, spec=f"vqa2:{shared}", scenes="mixed"))
    with pytest.raises(BadInput, match="share 3 "):
        make(run)


# ---------------------------------------------------------------- a start from a former run


def test_a_synthetic_start_composes_the_cards(from_scratch: Path, table: Path, tmp_path: Path) -> None:
    told = {**of_table(table), **TINY, "--model": from_scratch}
    assert main(["train", "dp-vqa", *words(told), "--out", str(tmp_path / "run")]) == 0
    card, former = card_of(tmp_path / "run"), card_of(from_scratch)
    assert f"epsilon {former['epsilon']:.4g}" in card["left_out"]["start"]
    assert "add up" in card["left_out"]["start"]
    assert "vocabulary" in card["public"]
    assert card["public"]["vocabulary"] == "that of the checkpoint that training starts from"
    start, end = (models.load_vlm(run, max_question=12, max_answer=3) for run in (from_scratch, tmp_path / "run"))
    assert start.digest == end.digest, "the words are those of the start"
    moved = [(p - q).abs().max() for p, q in zip(start.model.parameters(), end.model.parameters(), strict=True)]
    assert 0 < max(moved) < 0.1, "it begins at the former run's weights"


@only_whole
def test_a_start_without_a_card_is_told(from_scratch: Path, tmp_path: Path) -> None:
    twin = Path(shutil.copytree(from_scratch, tmp_path / "twin"))
    (twin / "export" / "card.json").unlink()
    run = small(dp_vqa("shape-questions:40", tmp_path / "run", str(twin / "export")))
    train_run(replace(run, model=replace(run.model, image_size=16)))
    assert "NOT PRIVATE" in card_of(tmp_path / "run")["left_out"]["start"]


def test_a_vocabulary_beside_a_start_is_refused(from_scratch: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["train", "dp-vqa", "--data", "shape-questions:40", "--model", str(from_scratch)]
    assert main([*command, "--public-text", "x.txt"]) == 2
    assert "leave out --vocabulary and --public-text" in capsys.readouterr().err
