"""While private rows are read or computed, what a model or a data set says is not seen: it may quote a record."""

import logging
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any


class _Silenced:
    """A text stream that drops what one thread writes; a progress bar of another thread goes on."""

    def __init__(self, stream: Any) -> None:
        self._stream, self._thread = stream, threading.get_ident()

    def write(self, text: str) -> int:
        return len(text) if threading.get_ident() == self._thread else self._stream.write(text)

    def flush(self) -> None:
        self._stream.flush()

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def hushed() -> Iterator[None]:
    """Drop what this thread prints, and all warnings and log records, until the end of the `with`."""
    disabled = logging.root.manager.disable
    with warnings.catch_warnings(), redirect_stdout(_Silenced(sys.stdout)), redirect_stderr(_Silenced(sys.stderr)):
        warnings.simplefilter("ignore")
        logging.disable(logging.CRITICAL)
        try:
            yield
        finally:
            logging.disable(disabled)
