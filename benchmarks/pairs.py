"""Time and memory of the pair unit against the published recipe and against a non-private step, all in one run.

Run: `python benchmarks/pairs.py [--models conv resnet18] [--sizes 32 64 128 256 512 1024] [--dims 8 64] [--repeats 5]`
prints a table and writes benchmarks/results/pairs.json, where other cells stay. Target at n = 256, d = 8: 100 times
faster than the recipe, at most 10 times a non-private step; n = 1024, and ResNet18 at n = 256, within 24 GB.

The recipe (Logit-DP, arXiv 2310.03104) forms the gradient of every one of the n^2 similarities by vmap, in tiles, clips
and weights it; here in PyTorch, and in JAX, compiled, where jax is installed. The floor is what the norms need at least
of a backward pass by torch: min(n, d) passes of activation gradients. Every cell runs in a process of its own, in which
the sides take turns: a ratio is the median over turns of two times of one turn. A step is the gradient from forward
pass to sum, without noise and optimizer. Peak memory is the growth of the resident set in a further fresh process of
each side. A recipe is run only where its first tiles promise less than `--limit` seconds; otherwise it says "not run",
and nothing is extrapolated. Where it runs, its gradient is compared with that of the exact pair unit.
"""

import argparse
import importlib.util
import json
import platform
import statistics
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
from _measure import growth, keep, paired, processor, quartiles, resident, timed
from _pairs_models import MODELS
from _pairs_sides import CLIP_NORMS, LOSS, SIDES, Bench, Cell, Gradient, Step, recipe, tiles

from sfumato.base import BadInput

RESULT = Path(__file__).parent / "results" / "pairs.json"
JAX = "recipe, JAX"
RECIPES = ("recipe, torch", JAX)
# Kernels differ in rounding, and an activation near zero then has another sign: the deep network by up to 1e-3 in
# float32 (JAX), both by 1e-14 in float64.
AGREEMENT = {"conv": 1e-4, "resnet18": 1e-2}
_TRIED = 3  # tiles from which a recipe's time is guessed


def make_side(bench: Bench, name: str, tile_limit: int | None = None) -> Step:
    """Return the step of one side; a recipe may be cut to its first tiles."""
    if name == JAX:
        from _pairs_jax import recipe as in_jax

        return in_jax(bench, tile_limit)
    return recipe(bench, tile_limit) if name in RECIPES else SIDES[name](bench)


def promised(bench: Bench, name: str) -> float:
    """Return the seconds that a recipe takes, guessed from its first tiles."""
    count = min(_TRIED, len(tiles(bench)))
    some = make_side(bench, name, count)
    some()  # compiles, and warms up
    start = time.perf_counter()
    some()
    return (time.perf_counter() - start) * len(tiles(bench)) / count


def sides_of(
    bench: Bench, names: list[str], limit: float
) -> tuple[dict[str, Step], dict[str, Gradient], dict[str, str]]:
    """Return the sides that run, what their first step gave, and why the others do not run."""
    steps: dict[str, Step] = {}
    gradients: dict[str, Gradient] = {}
    left_out: dict[str, str] = {}
    for name in names:
        if name in RECIPES and (seconds := promised(bench, name)) > limit:
            left_out[name] = f"not run: about {seconds:,.0f} s by its first tiles"
            continue
        step = make_side(bench, name)
        try:
            gradients[name] = step()
            steps[name] = step
        except BadInput as error:
            left_out[name] = f"refused: {error}"
    return steps, gradients, left_out


def distance(found: Gradient, want: Gradient) -> float:
    """Return ||found - want|| / ||want||."""
    flat = [torch.cat([one[name].double().flatten() for name in sorted(one)]) for one in (found, want)]
    return float((flat[0] - flat[1]).norm() / flat[1].norm())


def measure(cell: Cell, names: list[str], repeats: int, limit: float) -> dict[str, Any]:
    """Return times, ratios and agreements of one cell.

    Raises:
        SystemExit: a recipe gives another gradient than the exact pair unit.
    """
    bench = Bench(cell)
    steps, gradients, left_out = sides_of(bench, names, limit)
    agreement = {n: distance(gradients["exact"], gradients[n]) for n in RECIPES if {n, "exact"} <= gradients.keys()}
    if any(not found <= AGREEMENT[cell.model] for found in agreement.values()):
        raise SystemExit(f"{cell.name}: not the same gradient: {agreement}")
    seconds = timed(steps, repeats, dict.fromkeys(RECIPES, limit))
    found = {"model": cell.model, "n": cell.num_rows, "d": cell.dim, "left_out": left_out, "agreement": agreement}
    found["parameters"] = sum(value.numel() for value in bench.parameters.values())
    found["seconds_median"] = {name: statistics.median(values) for name, values in seconds.items()}
    found["turns"] = {name: len(values) for name, values in seconds.items()}
    found["over_non_private"] = _ratios(seconds, "non-private")
    found["over_exact"] = _ratios(seconds, "exact") if "exact" in seconds else {}
    found["over_bound"] = _ratios(seconds, "bound")
    return found


def _ratios(seconds: dict[str, list[float]], base: str) -> dict[str, dict[str, Any]]:
    ratios = {name: paired(values, seconds[base]) for name, values in seconds.items()}
    return {
        name: {"median": statistics.median(values), "quartiles": quartiles(values)} for name, values in ratios.items()
    }


def peak(cell: Cell, name: str) -> dict[str, int]:
    """Return the growth of the resident set, bytes, over one step of one side in this fresh process."""
    bench = Bench(cell)
    before = resident()
    tried = _TRIED if name in RECIPES else None  # one tile after the other: more of them need no more memory
    make_side(bench, name, tried)()
    return {"peak_bytes": growth(before)}


def child(job: str, cell: Cell, options: argparse.Namespace, *sides: str) -> dict[str, Any]:
    """Run one job in a fresh process and return what it prints."""
    place = ["--models", cell.model, "--sizes", str(cell.num_rows), "--dims", str(cell.dim)]
    settings = ["--threads", str(options.threads), "--repeats", str(options.repeats), "--limit", str(options.limit)]
    command = [sys.executable, __file__, "--job", job, *place, *settings, "--sides", *sides]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{job} of {cell.name} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def table(cell: Cell, found: dict[str, Any]) -> str:
    """Return one cell as text."""
    lines = [
        f"\n{cell.name}: {found['parameters']:,} parameters",
        f"  {'':<16}{'s':>9}{'over non-private':>18}{'quartiles':>14}{'over exact':>12}{'over bound':>12}"
        f"{'peak memory':>13}",
    ]
    for side, seconds in found["seconds_median"].items():
        ratio = found["over_non_private"][side]
        spread = "{:.2f}-{:.2f}".format(*ratio["quartiles"])
        over = "".join(_times(found[key].get(side)) for key in ("over_exact", "over_bound"))
        bytes_ = found["peak_bytes"].get(side)
        memory = "-" if bytes_ is None else f"{bytes_ / 1e6:,.0f} MB"
        lines.append(f"  {side:<16}{seconds:>9.3f}{ratio['median']:>17.2f}x{spread:>14}{over}{memory:>13}")
    lines += [f"  {side:<16}{reason}" for side, reason in found["left_out"].items()]
    lines += [f"  exact and {side} differ by {value:.1e} of its norm" for side, value in found["agreement"].items()]
    return "\n".join(lines)


def _times(ratio: dict[str, Any] | None) -> str:
    return f"{'-' if ratio is None else format(ratio['median'], '.2f') + 'x':>12}"


def compare(options: argparse.Namespace) -> None:
    """Run every cell, print the table, write the JSON."""
    names = [*SIDES, *([] if options.no_jax or importlib.util.find_spec("jax") is None else [JAX])]
    for model in options.models:
        for dim in options.dims:
            for size in options.sizes:
                cell = Cell(model=model, num_rows=size, dim=dim)
                one = child("time", cell, options, *names)
                one["peak_bytes"] = {
                    side: child("peak", cell, options, side)["peak_bytes"]
                    for side in one["seconds_median"]
                    if not options.quick or side == "exact"
                }
                sys.stdout.write(table(cell, one) + "\n")
                sys.stdout.flush()
                if options.write:
                    keep(RESULT, "cells", {cell.name: one | {"measured_with": _told(options)}})


def _told(options: argparse.Namespace) -> dict[str, Any]:
    """Return what a cell was measured with."""
    told = {"clip_norm": CLIP_NORMS, "loss": LOSS.describe(), "repeats": options.repeats, "limit_s": options.limit}
    told |= {"python": platform.python_version(), "torch": torch.__version__, "threads": options.threads}
    told["processor"] = processor()
    if not options.no_jax and importlib.util.find_spec("jax") is not None:
        told["jax"] = importlib.import_module("jax").__version__
    return told


def parsed(arguments: list[str] | None = None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=["conv"])
    parser.add_argument("--sizes", nargs="+", type=int, default=[32, 64, 128, 256, 512, 1024])
    parser.add_argument("--dims", nargs="+", type=int, default=[8, 64])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=min(2, torch.get_num_threads()))
    parser.add_argument("--limit", type=float, default=120.0, help="seconds that a recipe may take")
    parser.add_argument("--no-jax", action="store_true")
    parser.add_argument("--quick", action="store_true", help="one small cell, one turn, to see that all of it runs")
    parser.add_argument("--no-write", dest="write", action="store_false", help="leave the JSON as it is")
    parser.add_argument("--job", choices=("time", "peak"), help=argparse.SUPPRESS)
    parser.add_argument("--sides", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.quick:
        options.models, options.sizes, options.dims, options.repeats, options.write = ["conv"], [16], [4], 1, False
    return options


def main() -> None:
    """Parse the arguments; a job runs one measurement in this process, without one all are run."""
    options = parsed()
    if options.job is None:
        compare(options)
        return
    torch.set_num_threads(options.threads)
    cell = Cell(model=options.models[0], num_rows=options.sizes[0], dim=options.dims[0])
    jobs = {
        "time": partial(measure, cell, options.sides, options.repeats, options.limit),
        "peak": lambda: peak(cell, options.sides[0]),
    }
    sys.stdout.write(json.dumps(jobs[options.job]()) + "\n")


if __name__ == "__main__":
    main()
