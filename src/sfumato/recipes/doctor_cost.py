"""Time and memory at a micro-batch size, by a line through what smaller ones took; and the largest that fits."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch

from sfumato.recipes.doctor_case import Asked
from sfumato.recipes.doctor_measure import measure

SPARE = 0.9  # of the memory is planned with: other processes and the allocator's gaps take their part
SIDES = ("private", "non-private")


@dataclass(frozen=True, kw_only=True)
class Line:
    """value(n) = start + slope * n, n the size of a micro-batch."""

    start: float
    slope: float

    @classmethod
    def through(cls, sizes: list[int], values: list[float]) -> Self:
        """Return the line of least squares; a negative slope is noise, and becomes 0."""
        slope, start = np.polyfit(sizes, values, 1)
        if slope < 0:
            return cls(start=float(np.mean(values)), slope=0.0)
        return cls(start=float(start), slope=float(slope))

    def at(self, size: int) -> float:
        """Return the value, at least 0."""
        return max(self.start + self.slope * size, 0.0)


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What one side, private or not, takes.

    Attributes:
        sizes: micro-batch sizes that were measured.
        seconds: of one micro-batch.
        seconds_per_step: of a step besides its micro-batches: noise, ledger, optimizer.
        processor_seconds: of a step with one micro-batch, all threads together.
        bytes: growth of the process's memory from before the model was made: weights, gradients, Adam, the float64
            sum, activations.
        held_bytes: what the process holds besides (Python, PyTorch).
    """

    sizes: tuple[int, ...]
    seconds: Line
    seconds_per_step: float
    processor_seconds: Line
    bytes: Line
    held_bytes: float

    def step_seconds(self, micro_batch_size: int, batch_size: float) -> float:
        """Return the seconds of one step of `batch_size` rows."""
        chunks = max(1.0, batch_size / micro_batch_size)
        return chunks * self.seconds.at(micro_batch_size) + self.seconds_per_step

    def largest(self, memory_bytes: float) -> int | None:
        """Return the largest micro-batch that fits; 0 for none, None where memory does not grow with it."""
        left = SPARE * memory_bytes - self.held_bytes - self.bytes.start
        if left < self.bytes.slope:
            return 0
        return int(left / self.bytes.slope) if self.bytes.slope > 0 else None


@dataclass(frozen=True, kw_only=True)
class Checked:
    """Estimates over what a step at the asked micro-batch size then took; 1 is exact.

    Attributes:
        seconds: by the clock, which other processes move.
        processor_seconds: spent by the step itself.
        bytes: of memory.
    """

    seconds: float
    processor_seconds: float
    bytes: float


def sizes_below(rows: int, unit: str, group_size: int) -> tuple[int, ...]:
    """Return the micro-batch sizes that are measured for an estimate at `rows`: a quarter and a half.

    Groups are whole, and at least two in a micro-batch, as a single one takes another way through the engine: two and
    three where the asked micro-batch has fewer than these.
    """
    if unit == "group":
        found = {max(2, part // group_size) * group_size for part in (rows // 4, rows // 2)}
        return tuple(sorted(found)) if len(found) > 1 else (2 * group_size, 3 * group_size)
    found = {max(1, rows // 4), max(2, rows // 2)}
    return tuple(sorted(found)) if len(found) > 1 else (1, 2)


def estimate(asked: Asked, rows: int, unit: str, *, check: bool = False) -> tuple[dict[str, Cost], dict[str, Checked]]:
    """Return what each side takes, measured below `rows`; with `check` also how a step at `rows` compares.

    Raises:
        RuntimeError: a measurement failed; with its message.
    """
    sizes = sizes_below(rows, unit, asked.group_size)
    every = [*sizes, *((rows,) if check else ())]
    jobs = [{"asked": asked.to_dict(), "private": side == "private", "rows": n} for side in SIDES for n in every]
    results = measure(jobs, torch.get_num_threads())
    if failed := next((found["error"] for found in results if "error" in found), None):
        raise RuntimeError(failed)
    costs, checks = {}, {}
    for place, side in enumerate(SIDES):
        mine = results[place * len(every) : (place + 1) * len(every)]
        costs[side] = _cost(sizes, mine[: len(sizes)])
        if check:
            checks[side] = _checked(costs[side], rows, mine[-1])
    return costs, checks


def _cost(sizes: tuple[int, ...], found: list[dict[str, Any]]) -> Cost:
    values = {name: [float(row[name]) for row in found] for name in found[0]}
    return Cost(
        sizes=sizes,
        seconds=Line.through(list(sizes), values["seconds_per_micro_batch"]),
        seconds_per_step=float(np.median(values["seconds_per_step"])),
        processor_seconds=Line.through(list(sizes), values["processor_seconds"]),
        bytes=Line.through(list(sizes), values["peak_bytes"]),
        held_bytes=max(values["held_bytes"]),
    )


def _checked(cost: Cost, rows: int, found: dict[str, Any]) -> Checked:
    took = found["seconds_per_micro_batch"] + found["seconds_per_step"]
    return Checked(
        seconds=cost.step_seconds(rows, rows) / took,
        processor_seconds=cost.processor_seconds.at(rows) / max(found["processor_seconds"], 1e-9),
        bytes=cost.bytes.at(rows) / max(found["peak_bytes"], 1.0),
    )


def machine_bytes() -> float:
    """Return the memory that this machine has left for a new process, or all of it where nothing tells the rest."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(float(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        import os

        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
