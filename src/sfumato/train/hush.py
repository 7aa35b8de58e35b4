"""While private rows are read or computed, what a model or a data set says is not seen: it may quote a record."""

import logging
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from typing import Any


class _Hush:
    """What is silenced in the process while any thread wants it so, and put back when the last one is through.

    Streams, filters of warnings and the level of logging belong to the process: threads that each put back what they
    found would leave the process silent where their times overlap.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()  # a signal may come while it is held
        self._undo: ExitStack | None = None
        self.threads: list[int] = []

    def begin(self) -> None:
        with self._lock:
            if self._undo is None:
                self._undo = self._silence()
            self.threads.append(threading.get_ident())

    def end(self) -> None:
        with self._lock:
            self.threads.remove(threading.get_ident())
            if not self.threads and self._undo is not None:
                undo, self._undo = self._undo, None
                undo.close()

    def _silence(self) -> ExitStack:
        with ExitStack() as stack:
            stack.callback(logging.disable, logging.root.manager.disable)
            logging.disable(logging.CRITICAL)
            stack.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore")
            stack.enter_context(redirect_stdout(_Silenced(sys.stdout, self.threads)))  # type: ignore[type-var]
            stack.enter_context(redirect_stderr(_Silenced(sys.stderr, self.threads)))  # type: ignore[type-var]
            return stack.pop_all()


class _Silenced:
    """A text stream that drops what some threads write; a progress bar of another thread goes on."""

    def __init__(self, stream: Any, threads: list[int]) -> None:
        self._stream, self._threads = stream, threads

    def write(self, text: str) -> int:
        return len(text) if threading.get_ident() in self._threads else self._stream.write(text)

    def flush(self) -> None:
        self._stream.flush()

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


_HUSH = _Hush()


@contextmanager
def hushed() -> Iterator[None]:
    """Drop what this thread prints, and all warnings and log records, until the end of the `with`."""
    _HUSH.begin()
    try:
        yield
    finally:
        _HUSH.end()
