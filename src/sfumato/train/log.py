"""Two logs: the private one knows losses and counts, the public one knows steps and epsilon, and nothing else."""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sfumato.base.ledger import PRIVATE_MODE
from sfumato.mechanisms import Tally


def private_line(path: Path, *, attempt: int, step: int, tally: Tally, failures: Mapping[str, int]) -> None:
    """Append what a step showed, un-noised, to a file under private/ (mode 0600)."""
    _append(path, {"attempt": attempt, "step": step, **asdict(tally), "failures": dict(failures)}, PRIVATE_MODE)


def public_line(path: Path, *, step: int, epsilon: float | None) -> None:
    """Append the number of steps done, and epsilon of the ledger (None where none is proved), under export/.

    Nothing is written while steps are replayed: no step is new then, and no epsilon.
    """
    lines = path.read_text().splitlines() if path.exists() else []
    last = json.loads(lines[-1]) if lines else {"step": 0, "epsilon": None}
    if step > last["step"] or epsilon != last["epsilon"]:
        _append(path, {"step": step, "epsilon": epsilon}, 0o644)


def _append(path: Path, entry: Mapping[str, Any], mode: int) -> None:
    """One write per line; a log is not flushed: unlike the ledger it may lose its end in a power cut."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, mode)
    try:
        os.write(handle, (json.dumps(entry) + "\n").encode())
    finally:
        os.close(handle)
