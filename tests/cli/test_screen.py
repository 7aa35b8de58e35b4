"""Text from elsewhere reaches the terminal as it stands, or spelled out: never as markup, never as an order to it."""

import ast
import io
import logging
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console
from rich.text import Text

from sfumato import cli
from sfumato.base import BadInput
from sfumato.cli import _screen, _training

HOSTILE = "runs/[final]x [/a] :smile: \x1b[31m\x9b31m\x07\r\nfake line \u202egnp.exe \udce9"
SPELLED = "runs/[final]x [/a] :smile: \\x1b[31m\\x9b31m\\x07\\r\\nfake line \\u202egnp.exe \\udce9"
SOURCE = Path(cli.__file__).parent


def test_a_line_shows_what_it_is_given(capsys: pytest.CaptureFixture[str]) -> None:
    console = _screen.screen()
    _screen.say(console, ("to share: ", "bold"), HOSTILE, (HOSTILE, "red"))
    assert capsys.readouterr().out == f"to share: {SPELLED}{SPELLED}\n"  # one line, however long
    _screen.show(console, Text("first\n\x1b[31msecond"))
    assert capsys.readouterr().out == "first\n\\x1b[31msecond\n"
    _screen.write_line(HOSTILE)
    _screen.write_line(HOSTILE, error=True)
    shown = capsys.readouterr()
    assert shown.out == shown.err == f"{SPELLED}\n"


def test_our_own_styles_reach_a_terminal_and_foreign_codes_do_not() -> None:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, color_system="standard", markup=False, highlight=False)
    _screen.say(console, ("NOT PRIVATE", "bold red"), " \x1b[2J")
    assert stream.getvalue() == "\x1b[1;31mNOT PRIVATE\x1b[0m \\x1b[2J\n"


def test_what_is_being_done_is_no_markup() -> None:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=200)
    with _screen.working(console, "[/a]") as update:
        update("[/b] \x1b[2J: 1 of 2")
    assert "\x1b[2J" not in stream.getvalue()


def test_logged_lines_and_errors_are_spelled(capsys: pytest.CaptureFixture[str]) -> None:
    formatter = _screen.OneLine("%(message)s")
    record = logging.LogRecord("sfumato", logging.INFO, "", 0, "features of %s", (HOSTILE,), None)
    assert formatter.format(record) == f"features of {SPELLED}"
    cli._tell(f"no folder {HOSTILE}", 2)
    assert "\x1b" not in capsys.readouterr().err


def test_an_error_with_markup_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*_: object) -> int:
        raise BadInput("there is no folder runs/[final]x [/a] \x1b[31m.")

    monkeypatch.setattr(cli, "_dispatch", run)
    assert cli.main(["plan"]) == 2
    assert capsys.readouterr().err == "sfumato: there is no folder runs/[final]x [/a] \\x1b[31m.\n"


def test_where_a_run_is_written_is_printed_as_it_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`--out "runs/[final]x"` printed runs/x, and `[/a]` ended the run behind its last step."""
    captioned = SimpleNamespace(name="a[/b]\x1b[31m", num_records=4)
    plan = SimpleNamespace(
        warnings=("read [this]",),
        unit=SimpleNamespace(describe=lambda: "example"),
        noise_multiplier=1.0,
        steps=1,
        batch_size=2,
        delta=1e-6,
    )
    made = SimpleNamespace(
        plan=plan, sets=SimpleNamespace(train=captioned), training=SimpleNamespace(trainable=[]), said="words [x]"
    )
    trains = {"train_run": lambda *args, **settings: 1.0, "train_twin": lambda *args, **settings: None}
    monkeypatch.setitem(sys.modules, "sfumato.recipes.execute", SimpleNamespace(**trains))  # without torch
    monkeypatch.setitem(sys.modules, "sfumato.recipes.make", SimpleNamespace(make=lambda settings: made))
    for private in (True, False):
        settings = SimpleNamespace(out=Path("runs/[final]x[/a]"), private=private)
        assert _training.carry_out(settings) == 0  # pyright: ignore[reportArgumentType]
        shown = capsys.readouterr().err
        assert "runs/[final]x[/a]/export" in shown
        assert "a[/b]\\x1b[31m: 4 records" in shown
        assert "words [x]" in shown
        assert ("warning read [this]" in shown) == private


def test_a_stream_of_few_characters_takes_any_text(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="latin-1"))
    _screen.take_any_text()
    _screen.write_line("möchte か")
    sys.stdout.flush()
    assert raw.getvalue() == "möchte \\u304b\n".encode("latin-1")


def _calls(path: Path) -> list[str]:
    """Names of what a module calls to print, besides what `_screen` offers."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    dotted = [ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return [name for name in dotted if name.endswith((".print", ".status", ".rule", ".log")) or name == "Console"]


def test_nothing_else_prints() -> None:
    found = {path.name: _calls(path) for path in SOURCE.glob("*.py") if path.name != "_screen.py"}
    assert {name: calls for name, calls in found.items() if calls} == {}
    assert _calls(SOURCE / "_screen.py")
    written = [
        (path.name, ast.unparse(node.args[0]))
        for path in SOURCE.glob("*.py")
        if path.name != "_screen.py"
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("sys.stdout.write", "sys.stderr.write")
    ]
    ours = ("json.dumps", "_help()", "_overview()", "_examples(", "text", "f'sfumato {__version__}")
    assert [one for one in written if not one[1].startswith(ours)] == []
