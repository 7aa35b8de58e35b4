"""The ledger of a run: what was tried, which steps were charged, which un-noised looks were taken at private data.

An append-only file of JSON lines. Each line carries the hash of the line before it, is flushed to the disk before
`append` returns, and is never changed. Four things can go wrong and are told apart:
  - a process is killed while it writes: the last line lacks its end. Nothing had left the process on the strength of
    that line, so it is dropped;
  - a line is edited or taken out: the chain breaks, or the number of lines falls behind the count kept in the file
    `ledger.lock`. That is an error, because epsilon is read off these lines;
  - two processes write one run: the second does not get the lock, which is on the ledger itself;
  - the file is removed, replaced or written by something else while it is open: the next `append` finds that and
    stops, before anything of its step leaves the process.
This guards against accidents, not against an owner of the folder who rewrites the whole chain.
"""

import errno
import fcntl
import json
import os
import platform
import weakref
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from sfumato.base.errors import BadInput
from sfumato.base.files import PRIVATE_MODE, name_file, sync_folder
from sfumato.base.history import (
    FORMAT,
    Attempt,
    BrokenLedger,
    History,
    Look,
    StepEntry,
    check_end,
    digest,
    parse,
)

__all__ = [
    "PRIVATE_MODE",
    "Attempt",
    "BrokenLedger",
    "History",
    "Ledger",
    "Look",
    "StepEntry",
    "read",
    "sync_folder",
    "writer",
]

_BUSY = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)
_OPEN: weakref.WeakSet["Ledger"] = weakref.WeakSet()  # of this process


class Ledger:
    """The ledger open for writing, by one process at a time: a context manager around `history` and `append`.

    Args:
        path: the file, made with mode 0600 if missing. The number of its lines is kept next to it (`ledger.lock`).

    Raises:
        BadInput: another process (or another object of this one) writes this run, or the file system has no locks.
        BrokenLedger: lines were changed or removed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._pid = os.getpid()
        self._handle = _open_locked(path)
        self._close = weakref.finalize(self, os.close, self._handle)
        _OPEN.add(self)
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    def _open(self) -> None:
        os.fchmod(self._handle, PRIVATE_MODE)
        self.history, self._size = parse(self.path)
        check_end(self.path, self.history, _kept(self._counted))
        os.ftruncate(self._handle, self._size)
        if not self.history.hashes:
            self.append({"kind": "open", "format": FORMAT})
            sync_folder(self.path.parent)
        self._count()

    @property
    def _counted(self) -> Path:
        return self.path.with_suffix(".lock")

    def append(self, entry: Mapping[str, Any]) -> None:
        """Write one entry; when this returns it is on the disk.

        Raises:
            BadInput: the ledger is closed, or the file was removed, replaced or written by something else.
            OSError: naming the file; the entry is not in it.
        """
        if os.getpid() != self._pid or not self._close.alive:
            raise BadInput(f"{self.path} is not open for writing in this process.")
        self._check_ours()
        body = {**entry, "prev": self.history.head}
        own = digest(body)
        line = (json.dumps({**body, "hash": own}, sort_keys=True, allow_nan=False) + "\n").encode()
        self.history.take(entry)
        try:
            _write_whole(self._handle, line, self._size)
        except OSError as error:
            self.close()  # what was taken into memory is not on the disk: this object is of no use any more
            name_file(error, self.path)
            raise
        self._size += len(line)
        self.history.hashes.append(own)
        self._count()

    def _check_ours(self) -> None:
        """Raise BadInput unless the path still names the file that is locked, as long as it was left."""
        try:
            there, ours = os.stat(self.path), os.fstat(self._handle)
            how = None if os.path.samestat(there, ours) else "replaced by another file"
        except FileNotFoundError:
            there, how = None, "removed"
        if how is None and there is not None and there.st_size != self._size:
            how = "written by something else"
        if how is not None:
            self.close()
            raise BadInput(
                f"{self.path} was {how} while this run (process {self._pid}) was writing it: stopped before anything "
                "of this step left the process. Put the file back as it was, or leave this folder and name another one."
            )

    def _count(self) -> None:
        """Keep the number of lines, the last hash, and who writes, in a file of their own, made anew if it is gone.

        Not flushed: after a power cut the count may lag behind the lines, never run ahead of them.
        """
        handle = os.open(self._counted, os.O_WRONLY | os.O_CREAT, PRIVATE_MODE)
        try:
            os.fchmod(handle, PRIVATE_MODE)
            head = f"{len(self.history.hashes):016d} {self.history.head}\n{self._pid} {platform.node()}\n"
            os.ftruncate(handle, os.pwrite(handle, head.encode(), 0))
        finally:
            os.close(handle)

    def attempt(self, *, fingerprint: str, fields: Mapping[str, Any], plan: Mapping[str, Any], start_step: int) -> int:
        """Open the next attempt and return its number."""
        number = len(self.history.attempts)
        entry = {"number": number, "fingerprint": fingerprint, "fields": dict(fields), "plan": dict(plan)}
        self.append({"kind": "attempt", **entry, "start_step": start_step})
        return number

    def step(self, *, attempt: int, step: int, weights: str, clipped_sum: str) -> None:
        """Charge one step. Called before anything of the step leaves the process."""
        entry = {"attempt": attempt, "step": step, "weights": weights, "clipped_sum": clipped_sum}
        self.append({"kind": "step", **entry})

    def look(self, what: str, **detail: Any) -> None:
        """Record an un-noised look at private data, once per distinct (what, detail)."""
        if Look(what=what, detail=detail) not in self.history.looks:
            self.append({"kind": "look", "what": what, "detail": detail})

    def close(self) -> None:
        """Give the lock back. Closing twice is harmless."""
        self._close()

    def is_file(self, handle: int) -> bool:
        """Return whether this object is open and holds the file of `handle`."""
        return self._close.alive and os.path.samestat(os.fstat(self._handle), os.fstat(handle))

    def let_go(self) -> None:
        """Close the file in a fork of the process, which would otherwise keep the lock when its parent has ended."""
        if self._close.detach() is not None:
            os.close(self._handle)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None):
        self.close()


def _let_go() -> None:
    for ledger in list(_OPEN):
        ledger.let_go()


os.register_at_fork(after_in_child=_let_go)


def read(path: Path) -> History:
    """Return the history in the file without locking it (a torn last line is left out).

    Raises:
        BadInput: there is no such file.
        BrokenLedger: its lines were changed.
    """
    if not path.is_file():
        raise BadInput(f"{path} does not exist: there is no ledger of a run there.")
    return parse(path)[0]


def _open_locked(path: Path) -> int:
    """Return a handle that holds the lock of the file. The lock is on the file, whatever happens to its name."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, PRIVATE_MODE)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not (path.exists() and os.path.samestat(os.stat(path), os.fstat(handle))):
            raise BadInput(f"{path} was removed or replaced while it was being opened: run the command again.")
    except OSError as error:
        message = _busy(path, handle) if error.errno in _BUSY else _no_locks(path, error)
        os.close(handle)
        raise BadInput(message) from None
    except BaseException:
        os.close(handle)
        raise
    return handle


def _busy(path: Path, handle: int) -> str:
    run = path.parent.parent
    if any(ledger.is_file(handle) for ledger in _OPEN):
        return f"{run} is already open in this process: close it first (private.close())."
    return f"{run} is being written by another process{writer(path, handle)}: wait for it, or name another folder."


def writer(path: Path, handle: int) -> str:
    """Return " (pid on host)" of who holds the lock: as the kernel says, else as that process wrote."""
    held = os.fstat(handle)
    place = f"{os.major(held.st_dev):02x}:{os.minor(held.st_dev):02x}:{held.st_ino}"
    try:
        locks = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
    except OSError:
        locks = []
    for fields in locks:
        if "FLOCK" in fields and place in fields and fields[fields.index(place) - 1] != "0":
            return f" (process {fields[fields.index(place) - 1]})"
    written = _kept(path.with_suffix(".lock")).splitlines()[1:]
    pid, _, host = written[0].decode(errors="replace").partition(" ") if written else ("", "", "")
    return f" (process {pid} on {host})" if pid.isdigit() else ""


def _no_locks(path: Path, error: OSError) -> str:
    return (
        f"the file system of {path.parent} gives no file locks ({error.strerror}), so two processes could write one "
        "ledger unnoticed: put the run on a local disk (--out)."
    )


def _kept(path: Path) -> bytes:
    try:
        return path.read_bytes()[:400]
    except FileNotFoundError:
        return b""


def _write_whole(handle: int, raw: bytes, size: int) -> None:
    """Write and flush `raw`, or leave the file as it was, `size` bytes long (a full disk takes part of a line)."""
    try:
        while raw:
            raw = raw[os.write(handle, raw) :]
        os.fsync(handle)
    except OSError:
        os.ftruncate(handle, size)
        raise
