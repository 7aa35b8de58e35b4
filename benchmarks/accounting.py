"""Noise, time and memory of the accountants from ordinary settings to far out. Figures only: no data, no torch.

Run: `python benchmarks/accounting.py`. Prints the table of docs/accounting.md and writes
benchmarks/results/accounting.json. Target: a few seconds and under 500 MB for every line.
"""

import json
import sys
import time
import tracemalloc
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sfumato.plan import Example, Plan
from sfumato.sampling import Poisson

RESULT = Path(__file__).parent / "results" / "accounting.json"
DIGITS = 6


@dataclass(frozen=True, kw_only=True)
class Case:
    """One plan: the noise that meets `epsilon`, or the epsilon of `noise`."""

    num_records: int
    batch: int
    steps: int
    delta: float
    epsilon: float | None = None
    noise: float | None = None

    def plan(self) -> Plan:
        """Return the plan, not calibrated."""
        sampler = Poisson(num_records=self.num_records, expected_batch_size=self.batch)
        unit = Example(clip_norm=1.0)
        return Plan(unit=unit, sampler=sampler, steps=self.steps, delta=self.delta, noise_multiplier=self.noise)


_USUAL: dict[str, Any] = {"num_records": 60_000, "batch": 512, "steps": 2000, "delta": 1 / 600_000}
CASES = [
    *(Case(**_USUAL, epsilon=epsilon) for epsilon in (8.0, 1.0, 0.1, 0.01, 1e-3, 1e-5)),
    Case(num_records=60_000, batch=512, steps=20, delta=1 / 600_000, noise=0.05),
    Case(num_records=10**7, batch=1, steps=10**6, delta=1e-8, noise=1.0),
    Case(num_records=60_000, batch=512, steps=10**7, delta=1e-8, noise=1e5),
    Case(num_records=60_000, batch=60_000, steps=10**7, delta=1e-15, epsilon=1e-6),
]


def measure(case: Case) -> dict[str, Any]:
    """Return noise multiplier and both epsilons, seconds for them, and the peak of traced memory in bytes."""
    tracemalloc.start()
    begun = time.perf_counter()
    plan = case.plan() if case.epsilon is None else case.plan().calibrated(epsilon=case.epsilon)
    found = {"noise": plan.noise_multiplier, "epsilon_pld": plan.epsilon_pld(), "epsilon_rdp": plan.epsilon_rdp()}
    seconds, peak = time.perf_counter() - begun, tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return {**vars(case), **found, "seconds": seconds, "peak_bytes": peak}


def table(rows: list[dict[str, Any]]) -> str:
    """Return the rows as a Markdown table."""
    lines = ["| N | batch | steps | delta | noise multiplier | PLD | RDP | seconds | MB |", "|---" * 9 + "|"]
    for row in rows:
        figures = (f"{row[name]:.{DIGITS}g}" for name in ("delta", "noise", "epsilon_pld", "epsilon_rdp"))
        counts = (f"{row[name]:,}" for name in ("num_records", "batch", "steps"))
        lines.append(f"| {' | '.join([*counts, *figures])} | {row['seconds']:.1f} | {row['peak_bytes'] / 1e6:.0f} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure every case, print the table, write the JSON."""
    rows = [measure(case) for case in CASES]
    sys.stdout.write(table(rows))
    RESULT.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
