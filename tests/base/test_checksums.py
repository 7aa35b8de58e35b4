"""Checksums: what was changed after it was written is named by its file."""

import json
import os
from pathlib import Path

import pytest

from sfumato.base import checksums
from sfumato.base.checksums import DamagedFile


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    export = tmp_path / "export"
    (export / "text").mkdir(parents=True)
    (export / "model.safetensors").write_bytes(bytes(range(256)) * 100)
    (export / "text" / "vocab.txt").write_text("a\nb\n")
    model = checksums.of_folder(export)
    (export / "card.json").write_text(json.dumps({"files": {name: e["sha256"] for name, e in model.items()}}))
    (export / "progress.jsonl").write_text('{"step": 1}\n{"step": 2}\n')
    (export / "metrics.json").write_text("{}")
    others = {name: entry for name, entry in checksums.of_folder(export).items() if name not in model}
    checksums.write(export, model=model, files=others)
    return export


def flip(path: Path, place: int) -> None:
    raw = bytearray(path.read_bytes())
    raw[place] ^= 1
    path.write_bytes(raw)


def test_what_was_written_passes(folder: Path) -> None:
    assert checksums.check(folder)
    assert not checksums.check(folder.parent), "no checksums there: unchecked"


@pytest.mark.parametrize("name", ["model.safetensors", "text/vocab.txt", "card.json", "metrics.json", "progress.jsonl"])
@pytest.mark.parametrize("place", [0, -1])
def test_a_flipped_bit_is_named(folder: Path, name: str, place: int) -> None:
    flip(folder / name, place)
    with pytest.raises(DamagedFile, match=name):
        checksums.check(folder)


@pytest.mark.parametrize("damage", ["zeros", "short", "long", "missing", "empty"])
def test_damaged_weights_are_named(folder: Path, damage: str) -> None:
    path = folder / "model.safetensors"
    raw = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(
            {"zeros": bytes(16_384) + raw[16_384:], "short": raw[:-1], "long": raw + b"\0", "empty": b""}[damage]
        )
    with pytest.raises(DamagedFile, match=r"model\.safetensors"):
        checksums.check(folder)


def test_a_log_may_grow_and_lose_its_end(folder: Path) -> None:
    path = folder / "progress.jsonl"
    with path.open("a") as file:
        file.write('{"step": 3}\n')
    assert checksums.check(folder)
    os.truncate(path, 15)
    assert checksums.check(folder)


def test_figures_may_be_missing_and_are_named(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert checksums.check(folder)
    assert caplog.text == ""
    for name in ("metrics.json", "card.json"):
        (folder / name).unlink()
    assert checksums.check(folder)
    assert "lists what is missing: card.json, metrics.json." in caplog.text


def test_weights_and_card_belong_together(folder: Path) -> None:
    """New weights with checksums of their own beside the former card."""
    flip(folder / "model.safetensors", 7)
    content = json.loads((folder / checksums.NAME).read_text())
    content["model"]["model.safetensors"] = checksums.of_file(folder / "model.safetensors")
    (folder / checksums.NAME).write_text(json.dumps(content))
    with pytest.raises(DamagedFile, match=r"model\.safetensors.*card"):
        checksums.check(folder)


def test_the_card_alone_is_enough_for_the_model(folder: Path) -> None:
    (folder / checksums.NAME).unlink()
    assert not checksums.check(folder), "the card itself and the figures are unchecked"
    flip(folder / "model.safetensors", 7)
    with pytest.raises(DamagedFile, match=r"model\.safetensors"):
        checksums.check(folder)


@pytest.mark.parametrize("text", ["", "{", '{"model": 3, "files": {}}', '{"model": {"a": {}}, "files": {}}', "\0" * 90])
def test_damaged_checksums_are_named(folder: Path, text: str) -> None:
    (folder / checksums.NAME).write_text(text)
    with pytest.raises(DamagedFile, match=r"checksums\.json"):
        checksums.check(folder)


def test_a_file_of_that_name_of_somebody_else_is_not_ours(tmp_path: Path) -> None:
    (tmp_path / checksums.NAME).write_text('{"weights.bin": "abc"}')
    assert not checksums.check(tmp_path)


def test_what_is_written_anew_is_listed_anew(folder: Path) -> None:
    with checksums.replacing(folder, "metrics.json"):
        (folder / "metrics.json").write_text('{"new": 1}')
        assert checksums.check(folder), "killed here there is no false alarm"
    assert checksums.check(folder)
    flip(folder / "metrics.json", 2)
    with pytest.raises(DamagedFile, match="metrics"):
        checksums.check(folder)


def test_without_checksums_none_are_made(tmp_path: Path) -> None:
    with checksums.replacing(tmp_path, "metrics.json"):
        (tmp_path / "metrics.json").write_text("{}")
    assert [file.name for file in tmp_path.iterdir()] == ["metrics.json"]
