"""What ends a command from outside is one sentence that says how to go on."""

import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from types import SimpleNamespace

import pytest

from sfumato import cli


def sent(number: int):
    def run(command: object) -> int:
        os.kill(os.getpid(), number)
        signal.sigtimedwait([], 5)  # a signal that raises ends this at once
        return 0

    return run


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch):
    @dataclass(frozen=True)
    class Flags:
        """A command without flags."""

    def use(run) -> None:
        monkeypatch.setattr(cli, "_load", lambda name: SimpleNamespace(run=run, EXAMPLES=""))
        monkeypatch.setattr(cli, "_parse", lambda *_: Flags())

    return use


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", "dp-cap"], "Nothing is lost: the same command resumes"),
        (["finetune", "runs/x"], "Nothing is lost: the same command resumes"),
        (["train", "dp-cap", "--non-private"], "does not resume"),
        (["study", "vqa"], "goes on with the rest"),
        (["evaluate", "runs/x"], "What was written stays"),
    ],
)
@pytest.mark.parametrize(("name", "status"), [("SIGTERM", 143), ("SIGHUP", 129), ("SIGINT", 130)])
def test_a_signal_is_a_sentence(command, capsys, arguments, words, name, status) -> None:
    number = getattr(signal, name)
    before = signal.getsignal(number)
    command(sent(number))
    assert cli.main(arguments) == status
    shown = capsys.readouterr().err
    assert shown.count("\n") == 1
    assert f"Interrupted ({name})" in shown
    assert words in shown
    assert signal.getsignal(number) is before


def test_a_signal_that_is_ignored_stays_so(command) -> None:
    """Under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        command(lambda _: (os.kill(os.getpid(), signal.SIGHUP), 0)[1])
        assert cli.main(["plan"]) == 0
    finally:
        signal.signal(signal.SIGHUP, before)


_WITH_WORKERS = """
import sys, time
from dataclasses import dataclass
from types import SimpleNamespace
from torch.utils.data import DataLoader
from sfumato import cli

class Slow:
    def __len__(self): return 10**6
    def __getitem__(self, index):
        time.sleep(0.01)
        return index

@dataclass(frozen=True)
class Flags: pass

def run(command):
    rows = iter(DataLoader(Slow(), num_workers=2))
    for number, _ in enumerate(rows):
        if number == 3:
            print("ready", flush=True)
    return 0

cli._load = lambda name: SimpleNamespace(run=run, EXAMPLES="")
cli._parse = lambda *_: Flags()
sys.exit(cli.main(["train"]))
"""


@pytest.mark.every(2)
@pytest.mark.parametrize(("name", "status"), [("SIGTERM", 143), ("SIGINT", 130)])
def test_a_signal_to_a_run_and_its_workers_is_a_sentence(name: str, status: int) -> None:
    """As a terminal, a container or a queue sends it: to all processes at once."""
    for _ in range(3):
        with subprocess.Popen(
            [sys.executable, "-c", _WITH_WORKERS],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            os.killpg(process.pid, getattr(signal, name))
            _, error = process.communicate(timeout=60)
        assert process.returncode == status, error
        told = [line for line in error.splitlines() if "sfumato: " in line]
        assert told == [told[0]]
        assert f"Interrupted ({name})" in told[0]
        assert "Exception ignored" not in error
        assert name == "SIGINT" or error.count("\n") == 1, "a worker may tell of Ctrl-C by itself"
