"""Time and memory of whole steps, each measured in a process that holds nothing else. Run as a module: JSON in and out.

The process reads its jobs from standard input, imports everything once, and forks for each job: a forked child has run
nothing before, so its memory is that of a fresh process, without another import of PyTorch.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from sfumato import train
from sfumato.base.reason import named
from sfumato.losses import Contrast
from sfumato.mechanisms import MicroBatch
from sfumato.plan import Example, Group, Plan
from sfumato.recipes.doctor_case import Asked, Case
from sfumato.recipes.doctor_models import open_case
from sfumato.sampling import Poisson

TIMED = 12
MANY = 3  # micro-batches of the longer step: what the shorter one has besides is the step's own
_PATIENCE = 12.0  # seconds for one job: slow models are timed fewer times
_STEPS = 1000  # of a plan that is never finished
_DECLARED = "made-up rows of sfumato doctor"


def measure(jobs: list[dict[str, Any]], threads: int) -> list[dict[str, Any]]:
    """Return what each job measured, or under `error` why it could not; every job in a process of its own.

    A job has `asked` (as `Asked.to_dict` gives it), `private` and `rows`, the size of its micro-batch.
    """
    command = [sys.executable, "-m", "sfumato.recipes.doctor_measure"]
    given = json.dumps({"jobs": jobs, "threads": threads})
    done = subprocess.run(command, input=given, capture_output=True, text=True, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if len(lines) != len(jobs):
        last = (done.stderr.strip().splitlines() or ["the process ended"])[-1]
        return [{"error": last}] * len(jobs)
    return [json.loads(line) for line in lines]


def one(asked: Asked, *, private: bool, rows: int) -> dict[str, float]:
    """Measure one side at one micro-batch size, in this process.

    Returns:
        seconds_per_micro_batch; seconds_per_step, what a step takes besides (noise, ledger, optimizer);
        processor_seconds of a step with one micro-batch, all threads together, which other processes hardly move;
        peak_bytes, the growth of the resident set over what was held before the model was made, at most; held_bytes,
        that before.
    """
    before = _resident()
    case = open_case(asked)
    optimizer = torch.optim.Adam([p for p in case.model.parameters() if p.requires_grad], lr=0.0)
    batch = micro_batch(case, rows, asked.group_size)
    _forget_peak()
    with tempfile.TemporaryDirectory() as folder:
        step = _private(case, optimizer, rows, asked, Path(folder)) if private else _plain(case, optimizer)
        step([batch])  # settles what is measured once, and the optimizer's state
        begun = time.perf_counter()
        step([batch])
        repeats = max(1, min(TIMED, int(_PATIENCE / (1 + MANY) / (time.perf_counter() - begun))))
        few = _fastest(lambda: step([batch]), repeats)
        many = _fastest(lambda: step([batch] * MANY), repeats)
    each = [max((b - a) / (MANY - 1), 1e-9) for a, b in zip(few, many, strict=True)]
    return {
        "seconds_per_micro_batch": each[0],
        "seconds_per_step": max(few[0] - each[0], 0.0),
        "processor_seconds": few[1],
        "peak_bytes": max(0, _peak() - before),
        "held_bytes": before,
    }


def micro_batch(case: Case, rows: int, group_size: int) -> MicroBatch:
    """Return made-up rows as training meets them, groups side by side where the unit is a group."""
    groups = torch.arange(rows) // min(group_size, rows) if case.unit == "group" else None
    records = torch.arange(rows) if case.unit == "group" else None
    return MicroBatch(batch=case.batch(rows), valid=torch.ones(rows, dtype=torch.bool), groups=groups, records=records)


Step = Callable[[list[MicroBatch]], None]


def _private(case: Case, optimizer: Any, rows: int, asked: Asked, folder: Path) -> Step:
    """Return a step of the primitive that trains, with its ledger in `folder`; it claims no epsilon."""
    unit: Any = Example(clip_norm=1.0)
    if case.unit == "group":
        unit = Group(clip_norm=1.0, num_groups=max(1, rows // min(asked.group_size, rows)))
    plan = Plan(
        unit=unit,
        sampler=Poisson(num_records=100 * rows, expected_batch_size=rows),
        steps=_STEPS,
        noise_multiplier=1.0,
    )
    private = train.PrivateGradients(
        case.model, case.loss_fn, plan, out=folder / "run", seed=0, synthetic=case.synthetic
    )
    private.declare_batches(_DECLARED)

    def step(micro_batches: list[MicroBatch]) -> None:
        private.backward(private.step, micro_batches)
        optimizer.step()
        optimizer.zero_grad()

    return step


def _plain(case: Case, optimizer: Any) -> Step:
    def step(micro_batches: list[MicroBatch]) -> None:
        for batch in micro_batches:
            plain_loss(case, batch).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def plain_loss(case: Case, batch: MicroBatch) -> torch.Tensor:
    """Return the loss without privacy: a sum over rows, groups apart from each other as in the private step."""
    if not isinstance(case.loss_fn, Contrast):
        return case.loss_fn(case.model, batch.batch).sum()
    contrast = case.loss_fn
    u, v = contrast.embeddings(case.model, batch.batch)
    assert batch.groups is not None
    return contrast.rows(u @ v.mT, batch.groups[:, None] == batch.groups[None]).sum()


def _fastest(work: Callable[[], None], repeats: int) -> tuple[float, float]:
    """Return the least wall and processor seconds: what else the machine does makes a step slower, never faster."""
    wall, processor = [], []
    for _ in range(repeats):
        begun, used = time.perf_counter(), time.process_time()
        work()
        wall.append(time.perf_counter() - begun)
        processor.append(time.process_time() - used)
    return min(wall), min(processor)


# ---------------------------------------------------------------- memory of this process


def _resident() -> int:
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    except OSError:  # no Linux: what was ever held stands in
        return _peak()


def _forget_peak() -> None:
    """Let the peak start anew from what is held now, so that loading a model does not count."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def _peak() -> int:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else 1024 * peak


# ---------------------------------------------------------------- the process of all jobs


def _child(job: dict[str, Any], threads: int, out: int) -> None:
    """Do one job in a forked process and write what it found; never returns."""
    try:
        torch.set_num_threads(threads)
        found: dict[str, Any] = dict(one(Asked.of(job["asked"]), private=job["private"], rows=job["rows"]))
    except BaseException as error:
        traceback.print_exc()
        found = {"error": named(error, 300)}
    os.write(out, json.dumps(found).encode())
    os._exit(0)


def main() -> None:
    """Do the jobs of standard input, one after the other, a line of JSON for each."""
    given = json.loads(sys.stdin.read())
    for job in given["jobs"]:
        ours, theirs = os.pipe()
        child = os.fork()
        if child == 0:
            _child(job, given["threads"], theirs)
        os.close(theirs)
        with os.fdopen(ours, "rb") as file:
            text = file.read().decode()
        os.waitpid(child, 0)
        text = text or json.dumps({"error": "the process was ended, probably for lack of memory"})
        sys.stdout.write(text + "\n")


if __name__ == "__main__":
    main()
