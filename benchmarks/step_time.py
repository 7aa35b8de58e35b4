"""Time and memory of a private training step over a non-private one, with opacus beside, all in one run.

Run: `python benchmarks/step_time.py [--cases micro tiny clip blip dual clip-contrast] [--repeats 15] [--logical]`
prints tables and writes benchmarks/results/step_time.json, where cases that are not measured now stay. Target: at most
1.20 times the non-private step; of groups and of the whole batch as one group (the cases dual and clip-contrast) at
most 1.10 times the non-private contrastive step with the same groups, so with the same negatives. Where a group is
larger than a micro-batch the loss needs two passes with and without privacy: that side is compared with a non-private
step in the same parts.

Every case runs in a process of its own. There all sides take turns, so that a slow moment of the machine meets all of
them, and a ratio is the median over turns of the two times of one turn. Peak memory is measured in a further fresh
process for each side: the growth of the resident set over what was held before the first step. The arithmetic floor is
the ratio of the floating-point operations in matrix products, convolutions and attention: what the private step would
cost if nothing but these took time. The profile lists the operators in which the rest of the difference lies.
"""

import argparse
import json
import math
import platform
import statistics
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from _measure import growth, keep, paired, processor, quartiles, resident, timed
from _step_bench import Bench, Step
from _step_cases import CASES, Case
from _step_coupled import BASES, COUPLED
from _step_sides import OPACUS_MODES, SIDES
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

RESULT = Path(__file__).parent / "results" / "step_time.json"
OURS = ("non-private", "private")
LOGICAL = ("non-private logical", "private logical")
WARM_UP = 2
PEAK_STEPS = 3
PROFILE_STEPS = 3
LISTED = 8  # operators in the profile


def sides_of(case: Case, names: list[str]) -> tuple[dict[str, Step], dict[str, str]]:
    """Return the sides that work on the case and, for the others, the first line of what they raised.

    The sides of sfumato share one model. Each mode of opacus has its own, since it changes the model that it wraps.
    """
    shared = Bench(case)
    steps: dict[str, Step] = {}
    failed: dict[str, str] = {}
    for name in names:
        try:
            own = name.startswith("opacus") or name == LOGICAL[1]  # these keep hooks on the model
            step = SIDES[name](Bench(case) if own else shared)
            for _ in range(WARM_UP):
                step()
            steps[name] = step
        except Exception as error:  # a refusal of a peer is a result
            if not name.startswith("opacus"):
                raise
            failed[name] = f"{type(error).__name__}: {str(error).strip().splitlines()[0][:160]}"
    return steps, failed


def operations(step: Step) -> int:
    """Return the floating-point operations of one step in products, convolutions and attention."""
    # torch's own rule counts a grouped convolution's weight gradient as if it had one group
    with FlopCounterMode(
        display=False, custom_mapping={torch.ops.aten.convolution_backward: _backward_flops}
    ) as counter:
        step()
    return counter.get_total_flops()


def _backward_flops(
    gradient: list[int], x: list[int], weight: list[int], *settings: Any, out_shape: Any = None, **rest: Any
) -> int:
    """Return two operations for each product: of the input's gradient and of the weight's, where they are asked for."""
    mask = settings[-1]
    return 2 * math.prod(gradient) * math.prod(weight[1:]) * sum(mask[:2])


def operators(step: Step) -> dict[str, float]:
    """Return milliseconds of one step by operator (its own time, without those that it calls)."""
    step()
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        for _ in range(PROFILE_STEPS):
            step()
    return {event.key: event.self_cpu_time_total / 1e3 / PROFILE_STEPS for event in profiler.key_averages()}


def measure(case: Case, names: list[str], repeats: int) -> dict[str, Any]:
    """Return times, operation counts and the profile of one case."""
    steps, failed = sides_of(case, names)
    seconds = timed(steps, repeats)
    ratios = {name: paired(seconds[name], seconds[base_of(name)]) for name in steps}
    mine = next(name for name in ("group", "private", *names) if name in steps)
    pair = (base_of(mine), mine)
    counts = {name: operations(steps[name]) for name in pair}
    plain, private = (operators(steps[name]) for name in pair)
    more = {key: private.get(key, 0.0) - plain.get(key, 0.0) for key in plain.keys() | private.keys()}
    listed = sorted(more, key=lambda key: -abs(more[key]))[:LISTED]
    return {
        "about": case.about,
        "rows": case.rows,
        "parameters": sum(parameter.numel() for parameter in case.build().parameters()),
        "seconds_median": {name: statistics.median(values) for name, values in seconds.items()},
        "ratio_median": {name: statistics.median(values) for name, values in ratios.items()},
        "ratio_quartiles": {name: quartiles(values) for name, values in ratios.items()},
        "operations": counts,
        "base": {name: base_of(name) for name in steps},
        "floor": counts[mine] / counts[base_of(mine)],
        "profile_ms_more": {key: round(more[key], 3) for key in listed},
        "profile_ms_total": dict(zip(pair, (sum(plain.values()), sum(private.values())), strict=True)),
        "failed": failed,
    }


def base_of(name: str) -> str:
    """Return the side that a side is compared with: the non-private step of the same rows and the same groups."""
    if name in COUPLED:
        return BASES.get(name, name)
    return "non-private logical" if name.endswith("logical") else "non-private"


def with_bases(names: list[str]) -> list[str]:
    """Return the sides and those that they are compared with, each once."""
    return list(dict.fromkeys([*map(base_of, names), *names]))


def peak(case: Case, name: str) -> dict[str, int]:
    """Return the growth of the resident set, bytes, over a few steps of one side in this fresh process."""
    bench = Bench(case)
    before = resident()
    step = SIDES[name](bench)
    for _ in range(PEAK_STEPS):
        step()
    return {"peak_bytes": growth(before)}


def child(job: str, case: str, options: argparse.Namespace, *more: str) -> dict[str, Any]:
    """Run one job in a fresh process and return what it prints."""
    settings = ["--threads", str(options.threads), "--repeats", str(options.repeats)]
    rows = ["--rows", str(options.rows)] if options.rows else []
    command = [sys.executable, __file__, "--job", job, "--cases", case, *settings, *rows, *more]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{job} of {case} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def table(name: str, found: dict[str, Any]) -> str:
    """Return one case as text."""
    lines = [
        f"\n{name}: {found['about']}; {found['parameters'] / 1e6:.2f} M parameters, micro-batch {found['rows']}",
        f"  {'':<26}{'s per step':>11}{'over its base':>15}{'quartiles':>14}{'peak memory':>13}  base",
    ]
    for side, seconds in found["seconds_median"].items():
        low, high = found["ratio_quartiles"][side]
        bytes_ = found["peak_bytes"].get(side)
        memory = f"{bytes_ / 1e6:,.0f} MB" if bytes_ is not None else "-"
        ratio = found["ratio_median"][side]
        spread = f"{low:.2f}-{high:.2f}"
        lines.append(f"  {side:<26}{seconds:>11.3f}{ratio:>14.2f}x{spread:>14}{memory:>13}  {found['base'][side]}")
    lines += [f"  {side:<26}does not run: {reason}" for side, reason in found["failed"].items()]
    lines.append(
        f"  arithmetic floor of {', '.join(found['operations'])}, the last over the first: {found['floor']:.3f}x"
    )
    more = ", ".join(f"{key} {value:+.1f}" for key, value in found["profile_ms_more"].items())
    lines.append(f"  where the difference lies, ms of own time per step: {more}")
    return "\n".join(lines)


def compare(options: argparse.Namespace) -> None:
    """Run every case, print the tables, write the JSON."""
    of_rows = [
        *OURS,
        *(LOGICAL if options.logical else []),
        *([] if options.no_opacus else [f"opacus {mode}" for mode in OPACUS_MODES]),
    ]
    for name in options.cases:
        names = with_bases(options.sides or ([*COUPLED] if CASES[name].embed else of_rows))
        found = child("time", name, options, "--sides", *names)
        found["peak_bytes"] = {
            side: child("peak", name, options, "--sides", side)["peak_bytes"]
            for side in found["seconds_median"]
            if not side.endswith("logical")
        }
        sys.stdout.write(table(name, found) + "\n")
        sys.stdout.flush()
        if options.write:
            label = f"{name}, {options.rows} rows" if options.rows else name
            keep(RESULT, "cases", {label: found | {"measured_with": _told(options)}})


def _told(options: argparse.Namespace) -> dict[str, Any]:
    """Return what a case was measured with."""
    told = {"python": platform.python_version(), "torch": torch.__version__, "threads": options.threads}
    told |= {"transformers": transformers.__version__, "processor": processor(), "repeats": options.repeats}
    return told if options.no_opacus else {**told, "opacus": __import__("opacus").__version__}


def main() -> None:
    """Parse the arguments; a job runs one measurement in this process, without one all are run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--threads", type=int, default=min(2, torch.get_num_threads()))
    parser.add_argument("--rows", type=int, help="micro-batch size in place of the case's own")
    parser.add_argument("--logical", action="store_true", help="also whole logical steps: ledger, noise, release")
    parser.add_argument("--no-opacus", action="store_true")
    parser.add_argument("--no-write", dest="write", action="store_false", help="leave the JSON as it is")
    parser.add_argument("--job", choices=("time", "peak"), help=argparse.SUPPRESS)
    parser.add_argument(
        "--sides", nargs="+", choices=list(SIDES), help="only these, each with the one it is compared to"
    )
    options = parser.parse_args()
    if options.job is None:
        compare(options)
        return
    torch.set_num_threads(options.threads)
    transformers.logging.set_verbosity_error()
    warnings.simplefilter("ignore")  # opacus warns of its own hooks
    case = CASES[options.cases[0]]
    if options.rows:
        case = Case(**{**vars(case), "rows": options.rows})
    jobs: dict[str, Callable[[], dict[str, Any]]] = {
        "time": lambda: measure(case, options.sides, options.repeats),
        "peak": lambda: peak(case, options.sides[0]),
    }
    sys.stdout.write(json.dumps(jobs[options.job]()) + "\n")


if __name__ == "__main__":
    main()
