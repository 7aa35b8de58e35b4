"""Time and peak memory of one sorted draw at the size of the paper's data set (233,804,767 records, q = .0056).

Run: `python benchmarks/sampling.py [--repeats 7]`. Prints a table and writes benchmarks/results/sampling.json.
Target: under 0.3 s and 100 MB, for Poisson and for fixed size without replacement.
"""

import argparse
import json
import platform
import statistics
import sys
import time
import tracemalloc
from pathlib import Path

import numpy as np

from sfumato.base.seeds import derive
from sfumato.sampling import FixedSize, Poisson, Sampler

NUM_RECORDS = 233_804_767
BATCH = 1_310_720
RESULT = Path(__file__).parent / "results" / "sampling.json"


def measure(sampler: Sampler, repeats: int) -> dict[str, float]:
    """Return seconds (median and worst of `repeats`) and the peak of traced memory of one draw, in bytes."""
    seconds = []
    for repeat in range(repeats):
        start = time.perf_counter()
        sampler.draw(derive(bytes(32), "benchmark", repeat), NUM_RECORDS)
        seconds.append(time.perf_counter() - start)
    # Memory apart from time: tracing slows allocation down. numpy reports its buffers to tracemalloc.
    tracemalloc.start()
    drawn = sampler.draw(derive(bytes(32), "benchmark", 0), NUM_RECORDS)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return {
        "seconds_median": statistics.median(seconds),
        "seconds_worst": max(seconds),
        "peak_bytes": peak,
        "drawn": len(drawn),
    }


def main() -> None:
    """Measure the three ways of drawing, print a table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=7)
    repeats = parser.parse_args().repeats
    samplers = {
        "poisson": Poisson(num_records=NUM_RECORDS, expected_batch_size=BATCH),
        "poisson, capped below the mean": Poisson(
            num_records=NUM_RECORDS, expected_batch_size=BATCH, cap=BATCH - 10_000
        ),
        "fixed size": FixedSize(num_records=NUM_RECORDS, batch_size=BATCH),
    }
    rows = {name: measure(sampler, repeats) for name, sampler in samplers.items()}
    sys.stdout.write(f"N = {NUM_RECORDS:,}, batch {BATCH:,} (q = {BATCH / NUM_RECORDS:.4f}), {repeats} repeats\n")
    for name, row in rows.items():
        sys.stdout.write(
            f"{name:<31} {row['seconds_median']:.3f} s (worst {row['seconds_worst']:.3f})   "
            f"{row['peak_bytes'] / 1e6:.0f} MB   {row['drawn']:,} records\n"
        )
    RESULT.parent.mkdir(exist_ok=True)
    versions = {"python": platform.python_version(), "numpy": np.__version__, "machine": platform.machine()}
    RESULT.write_text(
        json.dumps({"num_records": NUM_RECORDS, "batch": BATCH, "rows": rows, "versions": versions}, indent=2) + "\n"
    )


if __name__ == "__main__":
    main()
