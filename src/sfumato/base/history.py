"""What a ledger says: attempts, charged steps, un-noised looks; and the reader of its chain of lines.

Each line carries the hash of the line before it and its own. A torn last line was never relied on, and is left out; any
other line that does not fit is an error, which says up to where the chain is whole.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sfumato.base.errors import BadInput
from sfumato.base.parse import parsed

FORMAT = 1
_TYPES: dict[str, dict[str, type]] = {
    "attempt": {"number": int, "fingerprint": str, "fields": dict, "plan": dict, "start_step": int},
    "step": {"attempt": int, "step": int, "weights": str, "clipped_sum": str},
    "look": {"what": str, "detail": dict},
}
_START = hashlib.sha256(b"sfumato ledger").hexdigest()


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
            case "open" if not self.hashes and fields == {"format": FORMAT}:
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


class BrokenLedger(BadInput):
    """Lines of a ledger were changed or removed.

    Attributes:
        history: the whole lines before the break.
        later: the lines after them, parsed; None where a line is no entry with a right hash of its own.
    """

    def __init__(self, what: str, history: History, later: tuple[Mapping[str, Any] | None, ...] = ()) -> None:
        self.history, self.later = history, later
        whole = f"Lines 1 to {len(history.hashes)} are whole" if history.hashes else "No line is whole"
        steps = f"{len(history.steps)} steps in {len(history.attempts)} attempts"
        super().__init__(f"{what} Epsilon cannot be read. {whole}: they charge {steps}.")


def digest(body: Mapping[str, Any]) -> str:
    """Return the hash of a line without it."""
    return hashlib.sha256(json.dumps(body, sort_keys=True, allow_nan=False).encode()).hexdigest()


def parse(path: Path) -> tuple[History, int]:
    """Return the history in the file and the number of bytes that its whole lines take.

    Raises:
        BrokenLedger: a line was changed or taken out.
    """
    raw = path.read_bytes()
    whole = raw.rfind(b"\n") + 1
    history, lines = History(), raw[:whole].split(b"\n")[:-1]
    for number, line in enumerate(lines):
        entry = _entry(line)
        try:
            sound = entry is not None and entry.pop("prev") == history.head
            if entry is not None and sound:
                own = entry.pop("hash")
                history.take(entry)
                history.hashes.append(own)
        except (BadInput, KeyError, TypeError):
            sound = False
        if not sound:
            what = f"{path}, line {number + 1}: changed, or a line before it is missing."
            raise BrokenLedger(what, history, tuple(map(_entry, lines[number:])))
    return history, whole


def check_end(path: Path, history: History, kept: bytes) -> None:
    """Refuse a ledger that is shorter than the count kept beside it says it once was.

    Raises:
        BrokenLedger: lines at its end are missing, or are others.
    """
    try:
        count, head = int(kept[:16]), kept[17:81].decode()
    except ValueError:
        return  # a new run
    if count and (len(history.hashes) < count or history.hashes[count - 1] != head):
        lost = count - len(history.hashes)
        raise BrokenLedger(f"{path}: lines at its end were removed or changed.", history, (None,) * max(lost, 1))


def _entry(line: bytes) -> dict[str, Any] | None:
    """Return a line's entry with "prev" and "hash", or None where its own hash is not right."""
    try:
        entry = parsed(line)
        body = {name: value for name, value in entry.items() if name != "hash"}
        return entry if entry["hash"] == digest(body) and "prev" in entry and _has_types(entry) else None
    except (ValueError, KeyError, AttributeError, TypeError):
        return None


def _has_types(entry: Mapping[str, Any]) -> bool:
    """Return whether what is reckoned with is of its type: a line with another is damaged, whatever its hash says."""
    kind = entry.get("kind")
    types = _TYPES.get(kind, {}) if isinstance(kind, str) else None
    return types is not None and all(isinstance(entry.get(name), of) for name, of in types.items())
