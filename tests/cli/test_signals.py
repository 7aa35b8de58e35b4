"""What ends a command from outside is one sentence that says how to go on."""

import os
import signal
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
