"""SIGTERM and SIGHUP end a command as Ctrl-C does: with one sentence that says how to go on."""

import gc
import signal
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

_NAMES = ("SIGTERM", "SIGHUP")
_TRAINING = ("train", "finetune")


class Ended(KeyboardInterrupt):
    """A signal that asks the process to end; `number` is the signal's."""

    def __init__(self, number: int) -> None:
        self.number = number
        super().__init__()


_CHILDREN = signal.SIGCHLD
_before: list[Any] = []  # what handled the end of a child, once a signal has come


@contextmanager
def as_interrupts() -> Iterator[None]:
    """Let both signals raise `Ended` inside the `with`, unless they are ignored (under nohup) or handled already."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    known = [getattr(signal, name) for name in _NAMES if hasattr(signal, name)]
    changed = [number for number in known if signal.getsignal(number) is signal.SIG_DFL]
    for number in changed:
        signal.signal(number, _end)
    try:
        yield
    finally:
        for number in changed:
            signal.signal(number, signal.SIG_DFL)


def explained(error: KeyboardInterrupt, arguments: Sequence[str]) -> tuple[str, int]:
    """Return the sentence for a command that was interrupted, and its exit status: 128 and the signal's number."""
    number = error.number if isinstance(error, Ended) else signal.SIGINT
    return f"Interrupted ({signal.Signals(number).name}). {_how(arguments)}", 128 + number


def let_go(error: BaseException) -> None:
    """Take down what an interrupted command had open, its workers with it, which the same signal may have ended.

    That one of them was killed is no news then: torch's handler would raise it anywhere, in a finaliser even.
    """
    _deaf_to_children()
    traceback.clear_frames(error.__traceback__)
    gc.collect()
    if threading.current_thread() is threading.main_thread():
        signal.signal(_CHILDREN, _before.pop())


def _deaf_to_children() -> None:
    if not _before and threading.current_thread() is threading.main_thread():
        _before.append(signal.signal(_CHILDREN, signal.SIG_DFL) or signal.SIG_DFL)


def _how(arguments: Sequence[str]) -> str:
    command = arguments[0] if arguments else ""
    if command in _TRAINING and any(argument.startswith("--non-private") for argument in arguments):
        return "A run without privacy does not resume: the same command begins it again."
    if command in _TRAINING:
        return "Nothing is lost: the same command resumes, and steps that are charged already cost nothing again."
    if command == "study":
        return "What is finished is kept: the same command goes on with the rest."
    return "What was written stays; the same command begins again."


def _end(number: int, frame: FrameType | None) -> None:
    _deaf_to_children()
    raise Ended(number)
