"""The frame of the command line: what it prints, what it returns, and what it keeps to itself."""

import errno
import io
import os
import subprocess
import sys
import time
import types
from dataclasses import dataclass
from pathlib import Path

import pytest

import sfumato
from sfumato import cli
from sfumato.base import BadInput, Refused
from sfumato.base.text import visible
from sfumato.cli._screen import let_go_of_stdout

SECRET = "patient 4711"


@dataclass(frozen=True, kw_only=True)
class PlanCommand:
    """Stand-in for a command."""

    steps: int = 1
    """How many."""


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch):
    """Put a stand-in for `sfumato plan` in place; returns a function that sets what it does."""
    module = types.ModuleType("sfumato.cli.plan")
    module.__dict__.update(
        PlanCommand=PlanCommand, EXAMPLES="sfumato plan --steps 3", run=lambda command: command.steps
    )
    monkeypatch.setitem(sys.modules, "sfumato.cli.plan", module)

    def does(run) -> None:
        module.__dict__["run"] = run

    return does


def raising(error: BaseException):
    def run(command: object) -> int:
        raise error

    return run


def test_help_lists_every_command_with_examples(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    shown = capsys.readouterr().out
    for name, line in cli.COMMANDS.items():
        assert f"  {name}" in shown
        assert line in shown
    assert "examples:\n  sfumato plan" in shown
    assert all(len(line) <= 100 for line in shown.splitlines())


def test_nothing_asked_shows_help_and_is_wrong_use(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 2
    assert "commands:" in capsys.readouterr().out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"sfumato {sfumato.__version__}\n"


def test_a_mistyped_command_is_put_right(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["trian"]) == 2
    assert "Did you mean train?" in capsys.readouterr().err


def test_a_command_gets_its_flags_and_gives_the_status(command) -> None:
    assert cli.main(["plan", "--steps", "5"]) == 5
    assert cli.main(["plan"]) == 1


def test_help_of_a_command_ends_with_examples(command, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["plan", "--help"]) == 0
    shown = capsys.readouterr().out
    assert "How many." in shown
    assert shown.endswith("\nexamples:\n  sfumato plan --steps 3\n")


def test_a_wrong_flag_is_wrong_use_without_examples(command, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["plan", "--stepz", "5"]) == 2
    assert "examples:" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (BadInput("steps must be\n   >= 1, got 0."), 2, "steps must be >= 1, got 0."),
        (Refused("no proof."), 2, "no proof."),
        (FileNotFoundError(2, "No such file or directory", "pictures/x.csv"), 2, "pictures/x.csv: No such file"),
        (PermissionError(13, "Permission denied", "runs/x"), 2, "runs/x: Permission denied."),
        (ModuleNotFoundError("no", name="sklearn.svm"), 2, "pip install 'sfumato[eval]'"),
        (ModuleNotFoundError("no", name="elsewhere"), 2, "the Python package 'elsewhere', which is not installed."),
        (ModuleNotFoundError("no", name="sfumato.theory"), 2, "sfumato.theory is not part of this installation"),
        (KeyboardInterrupt(), 130, "Interrupted"),
        (RuntimeError(SECRET), 1, "unexpected RuntimeError"),
        (KeyError(SECRET), 1, "unexpected KeyError"),
        (OSError(SECRET), 1, "unexpected OSError"),
    ],
)
def test_an_error_is_one_sentence(
    command, capsys: pytest.CaptureFixture[str], error: BaseException, status: int, words: str
) -> None:
    command(raising(error))
    assert cli.main(["plan"]) == status
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("sfumato: ")
    assert shown.err.count("\n") == 1
    assert words in shown.err
    assert SECRET not in shown.err


def test_an_unexpected_error_says_where_the_traceback_is(command, capsys: pytest.CaptureFixture[str]) -> None:
    command(raising(RuntimeError(SECRET)))
    cli.main(["plan"])
    assert "SFUMATO_DEBUG=1" in capsys.readouterr().err


def test_debug_shows_the_traceback(
    command, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SFUMATO_DEBUG", "1")
    command(raising(RuntimeError(SECRET)))
    assert cli.main(["plan"]) == 1
    shown = capsys.readouterr().err
    assert "Traceback" in shown
    assert SECRET in shown


def test_a_command_that_is_not_installed_is_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(cli.COMMANDS, "absent", "not there")
    assert cli.main(["absent"]) == 2
    assert "command 'absent' is not part of this installation" in capsys.readouterr().err


def test_every_listed_command_that_is_here_keeps_the_contract() -> None:
    here = {path.stem for path in Path(cli.__file__).parent.glob("*.py")}
    for name in here & set(cli.COMMANDS):
        module = cli._load(name)
        assert module is not None
        assert getattr(module, f"{name.capitalize()}Command").__dataclass_params__.frozen
        assert callable(module.run)
        assert module.EXAMPLES.strip().startswith("sfumato ")


def test_module_and_script_are_the_same_command() -> None:
    done = subprocess.run([sys.executable, "-m", "sfumato", "--version"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, f"sfumato {sfumato.__version__}\n")


def test_a_closed_pipe_is_no_error() -> None:
    code = (
        "import sys, os; from sfumato import cli; read, write = os.pipe(); os.close(read);"
        "os.dup2(write, 1); sys.stdout.reconfigure(write_through=True); sys.exit(cli.main(['--help']))"
    )
    done = subprocess.run([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def run_with_stdout(prepared: str, arguments: list[str]) -> subprocess.CompletedProcess[str]:
    code = f"import sys, os; from sfumato import cli; {prepared}; sys.exit(cli.main({arguments!r}))"
    return subprocess.run([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True, check=False)


@pytest.mark.parametrize("arguments", [["--help"], ["plan", "--help"], ["plan", "--records", "2000"]], ids=" ".join)
def test_whoever_reads_no_further_is_no_error(arguments: list[str]) -> None:
    """Whether what is written is buffered until the end or shown through the tables' own console."""
    done = run_with_stdout("read, write = os.pipe(); os.close(read); os.dup2(write, 1)", arguments)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("arguments", [["--help"], ["plan", "--help"], ["plan", "--records", "2000"]], ids=" ".join)
def test_a_full_disk_behind_stdout_is_named(arguments: list[str]) -> None:
    done = run_with_stdout("os.dup2(os.open('/dev/full', os.O_WRONLY), 1)", arguments)
    assert done.returncode == 2
    assert done.stderr == (
        "sfumato: The standard output: No space left on device. Make room, and run the same command again.\n"
    )


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize("arguments", ["--version", "plan --help", "plan --records 2000"])
def test_a_stream_that_the_caller_closed_is_no_error(arguments: str, closed: str) -> None:
    """Nor does a file that is opened later come to stand where the stream was, to be written into."""
    done = subprocess.run(
        ["sh", "-c", f'"{sys.executable}" -m sfumato {arguments} {closed}'], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert bool(done.stdout) == (" >&-" not in f" {closed}")


def test_a_closed_standard_error_gets_nothing_on_standard_output() -> None:
    code = (
        "import sys; from sfumato import cli; from sfumato.cli import _screen;"
        "cli._dispatch = lambda arguments: _screen.say(_screen.screen(error=True), 'progress') or 0;"
        "sys.exit(cli.main(['plan']))"
    )
    command = ["sh", "-c", f'"{sys.executable}" -c "{code}" 2>&-']
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_a_stream_without_a_number_can_be_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    for stream in (None, io.StringIO()):
        monkeypatch.setattr(sys, "stdout", stream)
        let_go_of_stdout()


EMPTY = {
    "train dp-cap --data shapes:60 --out": "--out",
    "train dp-cap --data": "--data",
    "train dp-cap --captions= --data shapes:60": "--captions",
    "train dp-cap --data shapes:60 --init": "--init",
    "finetune --data shapes:60 --run-of": "--run-of",
    "report": "an argument",
    "evaluate": "an argument",
    "export runs/x --out": "--out",
    "predict runs/x": "an argument",
    "doctor": "an argument",
    "demo --out": "--out",
}


@pytest.mark.parametrize("words", EMPTY)
@pytest.mark.parametrize("empty", ["", "  "])
def test_a_name_of_nothing_is_refused(
    words: str, empty: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`--out "$OUT"` of a variable that is not set trained into the current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli, "_load", raising(RuntimeError("the command was begun")))
    arguments = words.split() if "=" in words else [*words.split(), empty]
    assert cli.main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"sfumato: {EMPTY[words]}")
    assert "is empty" in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("columns", ["0", "1", "2", "3", "39", "-5", "x"])
@pytest.mark.parametrize("name", ["plan", "train"])
def test_help_is_laid_out_however_narrow_the_terminal_says_it_is(
    columns: str, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    begun = time.monotonic()
    assert cli.main([name, "--help"]) == 0
    assert time.monotonic() - begun < 20
    assert "--epsilon" in capsys.readouterr().out
    assert os.environ["COLUMNS"] == columns


@pytest.mark.parametrize("columns", ["1", "3"])
def test_tables_are_laid_out_too(
    columns: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    assert cli.main(["plan", "--records", "2000"]) == 0
    assert "epsilon" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments", [["--x\x1b[31m"], ["--epsilon", "\x1b[31m"], ["\x1b]0;x\x07"], ["--steps=\x9b1\u202e"]], ids=repr
)
def test_the_parser_repeats_no_argument_that_a_terminal_obeys(
    arguments: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["plan", *arguments]) == 2
    shown = "".join(capfd.readouterr())
    assert visible(shown, keep="\n") == shown
    assert "\\x1b" in shown or "\\x9b" in shown


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EISDIR, errno.EROFS, errno.EACCES, errno.ENOTDIR])
def test_an_error_of_the_system_says_the_way_out(number: int, command, capsys: pytest.CaptureFixture[str]) -> None:
    command(raising(OSError(number, os.strerror(number), "runs/x/export/report.html")))
    assert cli.main(["plan"]) == 2
    _, _, way_out = capsys.readouterr().err.partition(f"runs/x/export/report.html: {os.strerror(number)}. ")
    assert len(way_out) > 10


_BLOCKED = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "torchvision", "transformers"):
            raise ModuleNotFoundError(name, name=name)
sys.meta_path.insert(0, Blocked())
from sfumato.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("arguments", [["plan", "dp-cap", "--records", "2000", "--epsilon", "8"], ["plan", "--help"]])
def test_planning_works_without_torch(arguments: list[str]) -> None:
    done = subprocess.run([sys.executable, "-c", _BLOCKED, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
