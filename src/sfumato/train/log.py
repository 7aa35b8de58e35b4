"""Two logs: the private one knows losses and counts, the public one knows steps and epsilon, and nothing else."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from sfumato.base.files import PRIVATE_MODE, append_line, read_log
from sfumato.mechanisms import Tally


def private_line(path: Path, *, attempt: int, step: int, tally: Tally, failures: Mapping[str, int]) -> None:
    """Append what a step showed, un-noised, to a file under private/ (mode 0600)."""
    append_line(path, {"attempt": attempt, "step": step, **asdict(tally), "failures": dict(failures)}, PRIVATE_MODE)


def public_line(path: Path, *, step: int, epsilon: float | None) -> None:
    """Append the number of steps done, and epsilon of the ledger (None where none is proved), under export/.

    Nothing is written while steps are replayed: no step is new then, and no epsilon.
    """
    last = next((entry for entry in reversed(read_log(path)) if entry is not None), {})
    if step > last_step(last) or epsilon != last.get("epsilon"):
        append_line(path, {"step": step, "epsilon": epsilon})


def last_step(entry: Mapping[str, object]) -> int:
    """Return the step of a line of a log; 0 where it has none."""
    step = entry.get("step")
    return step if isinstance(step, int) else 0
