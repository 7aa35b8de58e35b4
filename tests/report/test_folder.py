import json
from pathlib import Path

import pytest

from sfumato.base import BadInput
from sfumato.report.folder import read_run
from sfumato.report.metrics import chapters


def test_everything_is_read(run: Path) -> None:
    files = read_run(run)
    assert files.name == "x"
    assert files.card is not None
    assert files.progress[0] == (0, 0.0)
    assert len(files.metrics) == 3
    assert files.samples[0].generated == "a red square"
    assert files.attention[0].overlay is not None


@pytest.mark.parametrize("name", ["card.json", "progress.jsonl", "metrics.json", "samples.json", "attention.json"])
def test_a_missing_file_is_left_out(run: Path, name: str) -> None:
    (run / "export" / name).unlink()
    read_run(run)


@pytest.mark.parametrize("name", ["card.json", "metrics.json", "samples.json", "attention.json"])
def test_a_broken_file_is_named(run: Path, name: str) -> None:
    (run / "export" / name).write_text("{")
    with pytest.raises(BadInput, match=name.replace(".", r"\.")):
        read_run(run)


@pytest.mark.parametrize("image", ["PHNjcmlwdD4=", '"><script>', "", None, 3])
def test_what_is_no_png_is_named(run: Path, image: object) -> None:
    (run / "export" / "samples.json").write_text(json.dumps([{"image_png_base64": image}]))
    with pytest.raises(BadInput, match=r"samples\.json, entry 1"):
        read_run(run)


def test_progress_keeps_the_last_of_a_replayed_step_and_drops_a_torn_line(run: Path) -> None:
    text = '{"step": 1, "epsilon": 1.0}\n{"step": 1, "epsilon": 1.5}\n{"step": 2, "epsilon": null}\n{"st'
    (run / "export" / "progress.jsonl").write_text(text)
    assert read_run(run).progress == [(1, 1.5)]


def test_the_course_of_a_run_becomes_a_chart(run: Path) -> None:
    named = {"metric": "held-out loss", "unit": "nats per token"}
    values = [(10, 3.0), (20, 2.5), (10, 2.9), (30, 2.0)]  # step 10 was measured again after a restart
    text = "\n".join(json.dumps({**named, "step": step, "value": value}) for step, value in values)
    (run / "export" / "course.jsonl").write_text(text + '\n{"torn')
    (chapter,) = [chapter for chapter in chapters(read_run(run).metrics) if chapter.title == "held-out loss"]
    assert [(line.x, line.y) for line in chapter.series] == [([10, 20, 30], [2.9, 2.5, 2.0])]
    assert [(line.value, line.share) for line in chapter.lines] == [("2.000 nats per token", None)], "no bar for a loss"


def test_progress_broken_in_the_middle_is_named(run: Path) -> None:
    (run / "export" / "progress.jsonl").write_text('{"st\n{"step": 1, "epsilon": 1.0}\n')
    with pytest.raises(BadInput, match="line 1"):
        read_run(run)


def test_no_run_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"neither run\.json nor export/"):
        read_run(tmp_path)
    with pytest.raises(BadInput, match="is not a folder"):
        read_run(tmp_path / "none")
