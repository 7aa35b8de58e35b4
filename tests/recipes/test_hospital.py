"""A hospital's export goes the whole way, by the commands of the README: plan, train, evaluate, export, predict."""

import json
from pathlib import Path

import pytest
from tests.data.hospital import build_hospital

from sfumato.cli import main

PUBLIC_TEXT = "a small bright disc on the left\na large bright disc on the right\nno disc is seen in the picture\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("hospital")
    build_hospital(path, num_patients=24, image_size=32)
    return path


@pytest.fixture(scope="module")
def trained(folder: Path) -> Path:
    assert main(command(folder)) == 0
    return folder


def command(folder: Path, *more: str) -> list[str]:
    (folder / "sentences.txt").write_text(PUBLIC_TEXT)
    flags = {
        "--data": folder / "pictures", "--captions": folder / "reports.csv", "--image-column": "file",
        "--caption-column": "text", "--owner-column": "patient", "--public-text": folder / "sentences.txt",
        "--max-tokens": 24, "--size": "micro", "--image-size": 32, "--channels": 1, "--holdout": 0.25,
        "--epsilon": 8, "--delta": 1e-2, "--expected-batch-size": 6, "--steps": 4, "--micro-batch-size": 4,
        "--out": folder / "run",
    }  # fmt: skip
    words = [str(word) for pair in flags.items() for word in pair]
    return ["train", "dp-cap", *words, "--window", "0", "4095", *more]


def test_whole_way(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, run = trained, trained / "run"
    capsys.readouterr()
    plan = ["plan", "dp-cap", "--records", "18", "--epsilon", "8", "--delta", "1e-2", "--steps", "4"]
    assert main([*plan, "--expected-batch-size", "6", "--json"]) == 0
    planned = json.loads(capsys.readouterr().out)
    card = json.loads((run / "export" / "card.json").read_text())
    assert card["epsilon"] <= 8.0
    assert card["public"]["num_records"] == 18, "patients are the records, not pictures"
    assert card["noise_multiplier"] == pytest.approx(planned["noise_multiplier"], rel=1e-6)
    assert "patient" in card["record"]
    assert main(["evaluate", str(run), "--suite", "caption"]) == 0
    assert "caption" not in json.loads((run / "export" / "metrics.json").read_text())["suites"], "private figures"
    assert "caption" in json.loads((run / "private" / "metrics.json").read_text())["suites"]
    assert not (run / "export" / "samples.json").exists(), "private pictures must not be shown"
    assert main(["export", str(run), "--to", "hf", "--out", str(folder / "handed-on")]) == 0
    assert main(["report", str(run), "--open", "no"]) == 0
    capsys.readouterr()
    assert main(["predict", str(run), str(folder / "pictures" / "P0003"), "--jsonl"]) in (0, 1)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert lines
    assert all((line["caption"] is None) == (line["error"] is not None) for line in lines)


def test_same_command_again_resumes_for_free(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = trained
    before = json.loads((folder / "run" / "export" / "card.json").read_text())
    assert main(command(folder)) == 0
    after = json.loads((folder / "run" / "export" / "card.json").read_text())
    assert (before["epsilon"], before["ledger_head"]) == (after["epsilon"], after["ledger_head"])
    capsys.readouterr()
    assert main(command(folder, "--learning-rate", "0.5")) == 2
    said = capsys.readouterr().err
    assert "learning_rate" in said
    assert "epsilon" in said


def test_private_folder_holds_what_must_not_leave(trained: Path) -> None:
    folder, private = trained, trained / "run" / "private"
    assert (private.stat().st_mode & 0o077) == 0
    exported = b"".join(p.read_bytes() for p in (folder / "run" / "export").rglob("*") if p.is_file())
    assert (private / "seed").read_bytes()[:24] not in exported
    for name in (b"P0003", b"reports.csv"):
        assert name not in exported


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("--caption-column", "txt"), "text"),
        (("--image-column", "picture"), "file"),
        (("--captions", "nowhere.csv"), "nowhere.csv"),
        (("--owner-column", "person"), "person"),
    ],
)
def test_wrong_settings_are_named_before_anything_is_spent(
    folder: Path, capsys: pytest.CaptureFixture[str], change: tuple[str, str], said: str
) -> None:
    words = command(folder, "--out", str(folder / "never"))
    words[words.index(change[0]) + 1] = change[1]
    assert main(words) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1, "one sentence"
    assert not (folder / "never" / "private").exists()


@pytest.mark.parametrize(("flag", "said"), [("--max-tokens", "max-tokens"), ("--public-text", "vocabulary")])
def test_private_text_is_never_looked_at_for_a_setting(
    folder: Path, capsys: pytest.CaptureFixture[str], flag: str, said: str
) -> None:
    words = command(folder, "--out", str(folder / "never"))
    place = words.index(flag)
    assert main(words[:place] + words[place + 2 :]) == 2
    assert said in capsys.readouterr().err


def test_towers_go_the_same_way(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same export under group clipping: patients as records, broken files, private captions and figures."""
    words = command(folder, "--group-size", "3", "--out", str(folder / "towers"))
    words[1] = "dp-gcl"
    assert main(words) == 0
    run = folder / "towers"
    card = json.loads((run / "export" / "card.json").read_text())
    assert card["epsilon"] <= 8.0
    assert card["unit"].startswith("group")
    assert card["public"]["num_records"] == 18
    assert main(["evaluate", str(run)]) == 0
    assert json.loads((run / "export" / "metrics.json").read_text())["suites"] == {}, "private pictures"
    found = json.loads((run / "private" / "metrics.json").read_text())["suites"]
    assert "r1" in found["retrieval"]["image_to_text"]
    assert "skipped" in found["probe"], "there are no classes"
    assert not (run / "export" / "course.jsonl").exists(), "no curve on private pictures"
    capsys.readouterr()
    labels = ["a small bright disc on the left", "no disc is seen in the picture"]
    assert main(["predict", str(run), str(folder / "pictures" / "P0003"), "--labels", *labels, "--jsonl"]) in (0, 1)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {line["caption"] for line in lines} <= {None, *labels}
