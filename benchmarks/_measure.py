"""What both benchmarks measure with: turns, medians, memory of a fresh process, the machine's name."""

import gc
import json
import platform
import resource
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

Step = Callable[[], object]


def timed(steps: dict[str, Step], repeats: int, limits: dict[str, float] | None = None) -> dict[str, list[float]]:
    """Return the wall seconds of every step; the sides take turns, in alternating order.

    A side with a limit stays out of further turns once it has spent so many seconds.
    """
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    gc.disable()
    for turn in range(repeats):
        for name in list(steps) if turn % 2 == 0 else reversed(steps):
            if limits and sum(seconds[name]) > limits.get(name, float("inf")):
                continue
            start = time.perf_counter()
            steps[name]()
            seconds[name].append(time.perf_counter() - start)
        gc.collect()
    gc.enable()
    return seconds


def quartiles(values: list[float]) -> list[float]:
    """Return the first and the third."""
    return statistics.quantiles(values, n=4)[::2] if len(values) > 1 else values * 2


def paired(mine: list[float], other: list[float]) -> list[float]:
    """Return the ratios of the turns that both were in: the first ones."""
    return [a / b for a, b in zip(mine, other, strict=False)]


def resident() -> int:
    """Return the bytes that this process holds in memory."""
    fields = Path("/proc/self/statm").read_text().split()
    return int(fields[1]) * resource.getpagesize()


def growth(before: int) -> int:
    """Return how far the resident set of this process has ever grown past `before`, bytes."""
    return max(0, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before)


def processor() -> str:
    """Return the name of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def keep(file: Path, key: str, found: dict[str, Any]) -> None:
    """Write what was measured under `key` of a JSON file, beside what stands there already."""
    known = json.loads(file.read_text(encoding="utf-8"))[key] if file.is_file() else {}
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps({key: {**known, **found}}, indent=2) + "\n", encoding="utf-8")
