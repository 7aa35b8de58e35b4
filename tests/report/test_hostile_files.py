"""A page of a run whose files hold anything at all: a page, or a sentence that names the file."""

import json
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.once import some

from sfumato import cli
from sfumato.report.numbers import can_be_drawn
from sfumato.report.plots import Chart, Series, svg

WHOLE = {
    "deep list": '{"a": ' + "[" * 5000,
    "deep and closed": "[" * 5000 + "]" * 5000,
    "deep object": '{"a": ' * 900 + "1" + "}" * 900,
    "bytes": b"\xff\xfe\x00\x81",
    "zeros": bytes(4096),
    "empty": "",
    "list": "[1]",
    "text": '"x"',
    "null": "null",
    "number": "9" * 5000,
    "no number": "NaN",
    "half a character": '{"step": 1, "a": "\\ud800"}',
    "list of lists": "[[[]]]",
    "list of objects": '[{"image_png_base64": 7, "step": 1}]',
    "object": "{}",
}
LEAVES: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    math.nan,
    math.inf,
    1e308,
    10**299,
    int("9" * 4000),
    "x",
    "\ud800",
    [],
    [[]],
    {},
    {"a": {"b": None}},
)
FILES = ("run.json", "export/card.json", "export/metrics.json", "export/samples.json", "export/attention.json")
LOGS = ("export/progress.jsonl", "export/course.jsonl")


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """The frame's handler may still hold the stderr of an earlier test."""
    monkeypatch.setattr(logging, "raiseExceptions", False)


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Charts are not drawn, which takes a while, but for their numbers."""

    def svg(chart: Chart, series: Sequence[Series], key: str) -> str:
        for line in series:
            assert all(map(can_be_drawn, (*line.x, *line.y)))
            assert len(line.x) == len(line.y)
        return ""

    monkeypatch.setattr("sfumato.report.html.svg", svg)


def test_the_largest_numbers_can_be_drawn() -> None:
    ends = [-1e100, -1.0, 0.0, 1e100]
    line = Series(name="x", x=ends, y=ends)
    assert "<svg" in svg(Chart(title="t", x_label="x", y_label="y", description="d"), [line], key="k")


def told(run: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    status = cli.main(["report", str(run), "--open", "no"])
    return status, capsys.readouterr().err


def check(run: Path, name: str, what: object, capsys: pytest.CaptureFixture[str]) -> None:
    status, error = told(run, capsys)
    assert "unexpected" not in error, (name, what, error)
    assert status in (0, 2), (name, what, error)
    if status:
        (last,) = [line for line in error.splitlines() if line.startswith("sfumato: ")]
        assert Path(name).name in last or "the privacy card" in last, (name, what, last)
        assert len(last) < 700, last
    else:
        assert (run / "export/report.html").read_text(encoding="utf-8").rstrip().endswith("</html>")


@pytest.mark.every(3)
@pytest.mark.parametrize("name", [*FILES, *LOGS, "export/checksums.json"])
@pytest.mark.parametrize("what", WHOLE)
def test_a_file_with_other_contents(run: Path, name: str, what: str, capsys: pytest.CaptureFixture[str]) -> None:
    content = WHOLE[what]
    (run / name).write_bytes(content.encode() if isinstance(content, str) else content)
    check(run, name, what, capsys)


def leaves(tree: Any) -> Iterator[Callable[[Any], None]]:
    """Yield, for each value inside `tree`, what puts another in its place."""
    for key in list(tree) if isinstance(tree, dict) else range(len(tree)):
        yield lambda value, key=key: tree.__setitem__(key, value)
        if isinstance(tree[key], dict | list):
            yield from leaves(tree[key])


@pytest.mark.slow
@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("name", FILES)
def test_a_value_of_another_kind_in_each_place(run: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = run / name
    whole = path.read_text(encoding="utf-8")
    for place in range(len(list(leaves(json.loads(whole))))):
        for value in some([*LEAVES, *LEAVES][place % 3 :][: len(LEAVES)], 3):
            tree = json.loads(whole)
            list(leaves(tree))[place](value)
            path.write_text(json.dumps(tree), encoding="utf-8")
            check(run, name, (place, str(value)[:30]), capsys)


@pytest.mark.every(2)
@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("name", LOGS)
def test_a_value_of_another_kind_in_a_line(run: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    usual = {"step": 2, "epsilon": 0.5, "metric": "loss", "value": 1.0, "unit": "nats", "features": "this run"}
    for key in usual:
        for value in LEAVES:
            lines = [usual, {**usual, "step": 3, key: value}, {**usual, "step": 4}]
            (run / name).write_text("\n".join(map(json.dumps, lines)) + "\n", encoding="utf-8")
            check(run, name, (key, str(value)[:30]), capsys)
