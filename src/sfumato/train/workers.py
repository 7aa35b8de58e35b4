"""Processes that make rows ahead: what it means when one of them is killed."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from sfumato.base import Stopped

_LOST = re.compile(r"DataLoader worker \(pid(?:\(s\))? [\d, ]+\) (is killed by signal: ([\w ]+)|exited)")


@contextmanager
def lost_workers() -> Iterator[None]:
    """Raise Stopped where torch reports that a worker was killed: it does so in whatever the main process is at."""
    try:
        yield
    except RuntimeError as error:
        found = _LOST.match(str(error))
        if found is None:
            raise
        how = f" by signal ({found[2].strip()})" if found[2] else ""
        raise Stopped(
            f"a process that makes rows (--num-workers) was killed{how}, for lack of memory perhaps. Nothing is lost: "
            "the same command resumes, with fewer workers too."
        ) from None
