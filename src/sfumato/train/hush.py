"""While private rows are read or computed, what a model or a data set says is not seen: it may quote a record."""

import logging
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from typing import Any
from weakref import WeakSet


class _Hush:
    """What is silenced in the process while any thread wants it so, and put back when the last one is through.

    Streams, filters of warnings and the level of logging belong to the process: threads that each put back what they
    found would leave the process silent where their times overlap.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()  # a signal may come while it is held
        self._undo: ExitStack | None = None
        self._begun: list[int] = []
        self._heard: set[threading.Thread] = set()
        self._born_inside: WeakSet[threading.Thread] = WeakSet()

    def begin(self) -> None:
        with self._lock:
            if self._undo is None:
                self._heard = set(threading.enumerate()) - set(self._born_inside)
                self._undo = self._silence()
            self._begun.append(threading.get_ident())

    def end(self) -> None:
        with self._lock:
            self._begun.remove(threading.get_ident())
            if not self._begun and self._undo is not None:
                self._born_inside.update(set(threading.enumerate()) - self._heard)
                undo, self._undo = self._undo, None
                undo.close()

    def drops(self) -> bool:
        """Whether what this thread writes is dropped: it wants it so, or was started by one that did."""
        return threading.get_ident() in self._begun or threading.current_thread() not in self._heard

    def _silence(self) -> ExitStack:
        with ExitStack() as stack:
            stack.callback(logging.disable, logging.root.manager.disable)
            logging.disable(logging.CRITICAL)
            stack.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore")
            stack.enter_context(redirect_stdout(_Silenced(sys.stdout, self.drops)))  # type: ignore[type-var]
            stack.enter_context(redirect_stderr(_Silenced(sys.stderr, self.drops)))  # type: ignore[type-var]
            return stack.pop_all()


class _Silenced:
    """A text stream that drops what some threads write; a progress bar of another thread goes on."""

    def __init__(self, stream: Any, drops: Callable[[], bool]) -> None:
        self._stream, self._drops = stream, drops

    def write(self, text: str) -> int:
        return len(text) if self._drops() else self._stream.write(text)

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
    """Drop what this thread prints, and all warnings and log records, until the end of the `with`; threads that are
    started inside it are not heard either, nor at any later time inside another one.
    """
    _HUSH.begin()
    try:
        yield
    finally:
        _HUSH.end()
