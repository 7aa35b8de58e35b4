"""On private rows whatever a joint pass raises is kept silent; on made-up rows (`rehearse`) it is raised."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_MADE_UP = ContextVar("made_up", default=False)


def keep_silent(error: Exception) -> None:
    """Take in what a joint pass raised: a message may quote a record. Raises it where the rows are made up."""
    if _MADE_UP.get():
        raise error


@contextmanager
def aloud() -> Iterator[None]:
    """While it lasts nothing is kept silent."""
    token = _MADE_UP.set(True)
    try:
        yield
    finally:
        _MADE_UP.reset(token)
