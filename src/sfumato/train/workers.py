"""Processes that make rows ahead: what it means when one of them is killed."""

import re
import signal
import threading
import traceback
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from sfumato.base import Stopped

_LOST = re.compile(r"DataLoader worker \(pid(?:\(s\))? [\d, ]+\) (is killed by signal|exited)")


@contextmanager
def lost_workers() -> Iterator[None]:
    """Raise Stopped where torch reports that a worker was killed."""
    try:
        with default_sigchld():
            yield
    except (RuntimeError, ConnectionError, EOFError) as error:
        if not _is_lost(error):
            raise
        raise Stopped(
            "a process that makes rows (--num-workers) was killed, for lack of memory perhaps. Nothing is lost: "
            "the same command resumes, with fewer workers too."
        ) from None


def _is_lost(error: Exception) -> bool:
    """Whether an error is of a worker's death; torch's own report of it may come while that is being found out."""
    try:
        with default_sigchld():
            return _of_a_worker(error)
    except RuntimeError as later:
        return _LOST.match(str(later)) is not None


def _of_a_worker(error: Exception) -> bool:
    """Whether torch found it dead, or its end of the line broke while torch still took it for alive."""
    if isinstance(error, RuntimeError):
        return _LOST.match(str(error)) is not None
    last = deque(traceback.walk_tb(error.__traceback__), maxlen=1)
    return bool(last) and last[0][0].f_globals.get("__name__") == "multiprocessing.connection"


@contextmanager
def default_sigchld() -> Iterator[None]:
    """Let the death of a worker show when rows are asked of it, not in the middle of whatever the process is at.

    torch raises from a handler of SIGCHLD, which it sets with the first loader that has workers and leaves behind.
    Within a pass over private rows that would count as the failure of one record; within a write it would cut it.
    """
    before = None
    if hasattr(signal, "SIGCHLD") and threading.current_thread() is threading.main_thread():
        before = signal.getsignal(signal.SIGCHLD)  # None: not set by Python, and not to be set again by it
    if before is None:
        yield
        return
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, before)
