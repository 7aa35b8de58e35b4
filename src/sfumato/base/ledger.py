"""The ledger of a run: what was tried, which steps were charged, which un-noised looks were taken at private data.

An append-only file of JSON lines. Each line carries the hash of the line before it, is flushed to the disk before
`append` returns, and is never changed. Three things can go wrong and are told apart:
  - a process is killed while it writes: the last line lacks its end. Nothing had left the process on the strength of
    that line, so it is dropped;
  - a line is edited or taken out: the chain breaks, or the number of lines falls behind the count kept in the lock
    file. That is an error, because epsilon is read off these lines;
  - two processes write one run: the second does not get the lock.
This guards against accidents, not against an owner of the folder who rewrites the whole chain.
"""

import fcntl
import hashlib
import json
import os
import weakref
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from sfumato.base.errors import BadInput

PRIVATE_MODE = 0o600
_FORMAT = 1
_START = hashlib.sha256(b"sfumato ledger").hexdigest()
_OPEN_HERE: set[str] = set()  # POSIX locks do not exclude the process that holds them


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One way in which the run was tried: everything random in it is keyed by `number` and `fingerprint`."""

    number: int
    fingerprint: str
    fields: Mapping[str, Any]
    plan: Mapping[str, Any]
    start_step: int


@dataclass(frozen=True, kw_only=True)
class StepEntry:
    """One charged step: hash of the weights before it, and a keyed hash of its clipped sum before noise."""

    attempt: int
    step: int
    weights: str
    clipped_sum: str


@dataclass(frozen=True, kw_only=True)
class Look:
    """An un-noised look at private data that no epsilon covers (a simulation, revealed losses)."""

    what: str
    detail: Mapping[str, Any]


@dataclass(kw_only=True)
class History:
    """The ledger as read: attempts by number, steps by (attempt, step), looks in order, the hash of each line."""

    attempts: list[Attempt] = field(default_factory=list)
    steps: dict[tuple[int, int], StepEntry] = field(default_factory=dict)
    looks: list[Look] = field(default_factory=list)
    hashes: list[str] = field(default_factory=list)

    @property
    def head(self) -> str:
        """Hash of the last line (a constant for an empty ledger)."""
        return self.hashes[-1] if self.hashes else _START

    def charged_attempts(self) -> list[tuple[Attempt, int]]:
        """Return (attempt, number of its steps that were run) for every attempt that ran any.

        Each (attempt, step) counts once, however often it was replayed: a replay gives the same bits.
        """
        counts = Counter(attempt for attempt, _ in self.steps)
        return [(attempt, counts[attempt.number]) for attempt in self.attempts if counts[attempt.number]]

    def charged(self) -> list[tuple[dict[str, Any], int]]:
        """Return (plan as JSON, number of its steps that were run) for every attempt that ran any."""
        return [(dict(attempt.plan), count) for attempt, count in self.charged_attempts()]

    def take(self, entry: Mapping[str, Any]) -> None:
        """Add one parsed entry; raises BadInput for what no run can have written."""
        fields = {key: value for key, value in entry.items() if key != "kind"}
        match entry.get("kind"):
            case "open" if not self.hashes and fields == {"format": _FORMAT}:
                pass
            case "attempt" if fields["number"] == len(self.attempts):
                self.attempts.append(Attempt(**fields))
            case "step" if (step := StepEntry(**fields)).attempt < len(self.attempts):
                if (step.attempt, step.step) in self.steps:
                    raise BadInput(f"step {step.step} of attempt {step.attempt} is already in the ledger.")
                self.steps[step.attempt, step.step] = step
            case "look":
                self.looks.append(Look(**fields))
            case kind:
                raise BadInput(f"the ledger has an entry that does not belong there: {kind!r}.")


class Ledger:
    """The ledger open for writing, by one process at a time: a context manager around `history` and `append`.

    Args:
        path: the file, made with mode 0600 if missing. Its lock stands beside it (`ledger.lock`).

    Raises:
        BadInput: another process (or another object of this one) writes this run, or lines were changed or removed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._pid = os.getpid()
        lock = _lock(path.with_suffix(".lock"))
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, PRIVATE_MODE)
        except OSError:
            _close(path.with_suffix(".lock"), lock)
            raise
        self._close = weakref.finalize(self, _close, path.with_suffix(".lock"), lock, handle)
        self._lock, self._handle = lock, handle
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    def _open(self) -> None:
        os.fchmod(self._handle, PRIVATE_MODE)
        self.history, whole = _parse(self.path)
        os.ftruncate(self._handle, whole)
        _check_count(self.path, self.history, os.pread(self._lock, 200, 0))
        if not self.history.hashes:
            self.append({"kind": "open", "format": _FORMAT})
            sync_folder(self.path.parent)

    def append(self, entry: Mapping[str, Any]) -> None:
        """Write one entry; when this returns it is on the disk."""
        if os.getpid() != self._pid or not self._close.alive:
            raise BadInput(f"{self.path} is not open for writing in this process.")
        body = {**entry, "prev": self.history.head}
        digest = _digest(body)
        line = json.dumps({**body, "hash": digest}, sort_keys=True, allow_nan=False) + "\n"
        self.history.take(entry)
        try:
            _write_whole(self._handle, line.encode())
        except OSError:
            self.close()  # what was taken into memory is not on the disk: this object is of no use any more
            raise
        self.history.hashes.append(digest)
        # Not flushed: after a power cut the count may lag behind the lines, never run ahead of them.
        os.pwrite(self._lock, b"%016d %s\n" % (len(self.history.hashes), digest.encode()), 0)

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

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None):
        self.close()


def read(path: Path) -> History:
    """Return the history in the file without locking it (a torn last line is left out).

    Raises:
        BadInput: there is no such file, or its lines were changed.
    """
    if not path.is_file():
        raise BadInput(f"{path} does not exist: there is no ledger of a run there.")
    return _parse(path)[0]


def sync_folder(folder: Path) -> None:
    """Flush a folder's list of names, so that a file made or renamed in it survives a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _lock(path: Path) -> int:
    name = os.path.realpath(path)
    busy = BadInput(f"{path.parent.parent} is being written by another process: wait for it, or name another folder.")
    if name in _OPEN_HERE:
        raise BadInput(f"{path.parent.parent} is already open in this process: close it first (private.close()).")
    handle = os.open(path, os.O_RDWR | os.O_CREAT, PRIVATE_MODE)
    try:
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        raise busy from None
    _OPEN_HERE.add(name)
    return handle


def _close(path: Path, *handles: int) -> None:
    for handle in handles:
        os.close(handle)
    _OPEN_HERE.discard(os.path.realpath(path))


def _write_whole(handle: int, raw: bytes) -> None:
    """Write and flush `raw`, or leave the file as it was (a full disk takes part of a line)."""
    size = os.fstat(handle).st_size
    try:
        while raw:
            raw = raw[os.write(handle, raw) :]
        os.fsync(handle)
    except OSError:
        os.ftruncate(handle, size)
        raise


def _digest(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True, allow_nan=False).encode()).hexdigest()


def _parse(path: Path) -> tuple[History, int]:
    """Return the history and the number of bytes that its whole lines take."""
    raw = path.read_bytes()
    whole = raw.rfind(b"\n") + 1
    history = History()
    for number, line in enumerate(raw[:whole].splitlines(), start=1):
        try:
            entry = json.loads(line)
            digest = entry.pop("hash")
            sound = entry["prev"] == history.head and digest == _digest(entry)
            del entry["prev"]
        except (ValueError, KeyError, AttributeError, TypeError):
            sound = False
        if not sound:
            raise BadInput(f"{path}, line {number}: changed, or a line before it is missing. Epsilon cannot be read.")
        history.take(entry)
        history.hashes.append(digest)
    return history, whole


def _check_count(path: Path, history: History, kept: bytes) -> None:
    """Refuse a ledger that is shorter than its lock file says it once was."""
    try:
        count, head = int(kept[:16]), kept[17:81].decode()
    except ValueError:
        return  # a new run
    if count and (len(history.hashes) < count or history.hashes[count - 1] != head):
        raise BadInput(f"{path}: lines at its end were removed. Epsilon cannot be read.")
