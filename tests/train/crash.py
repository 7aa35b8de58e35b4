"""Kills a run at many places and resumes it. Started by test_crash.py as its own process, which forks for each run.

usage: python -m tests.train.crash FOLDER -> one JSON line per place:
           [kind, place, signal, [bits, steps charged, attempt, hash of the ledger] when resumed]
       python -m tests.train.crash FOLDER 40 -> the same for kills at so many random moments
"""

import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tests.once import certified_once
from tests.train.case import COUPLED, Records, Run, bits

from sfumato import mechanisms, norms
from sfumato.base import ledger, seeds
from sfumato.mechanisms import Engine
from sfumato.sampling import Poisson
from sfumato.train import checkpoint
from sfumato.train.fingerprint import surrounding_fields
from sfumato.train.world import World

SAVED = (3, 6)  # checkpoints are written after these many steps


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def before(owner: Any, name: str, call: int) -> None:
    """Be killed on entering the `call`-th call of owner.name."""
    _at(owner, name, call, lambda real, *args, **options: kill())


def after(owner: Any, name: str, call: int) -> None:
    """Be killed on leaving the `call`-th call of owner.name."""
    _at(owner, name, call, lambda real, *args, **options: (real(*args, **options), kill()))


def _at(owner: Any, name: str, call: int, do: Callable[..., Any]) -> None:
    real, count = getattr(owner, name), 0

    def counted(*args: Any, **options: Any) -> Any:
        nonlocal count
        count += 1
        return do(real, *args, **options) if count == call else real(*args, **options)

    setattr(owner, name, counted)


def torn_line(call: int) -> None:
    """Be killed with half of a ledger line written."""
    _at(
        ledger.os,
        "write",
        call,
        lambda real, handle, raw: (real(handle, raw[: len(raw) // 2]), os.fsync(handle), kill()),
    )


# Call 5 is step 4: after the checkpoint at 3. The ledger has two lines before its first step.
PLACES: dict[str, Callable[[], None]] = {
    "drawing": lambda: before(Poisson, "draw", 5),
    "reading a row": lambda: before(Records, "__getitem__", 45),
    "computing": lambda: before(norms, "clipped_sum", 14),
    "reducing": lambda: before(World, "add_up", 5),
    "before the ledger": lambda: before(ledger.Ledger, "step", 5),
    "writing the ledger": lambda: torn_line(7),
    "counting the line": lambda: before(ledger.os, "pwrite", 7),
    "after the ledger": lambda: after(ledger.Ledger, "step", 5),
    "first step in the ledger": lambda: after(ledger.Ledger, "step", 1),
    "releasing": lambda: before(mechanisms, "release", 5),
    "in the midst of noise": lambda: before(seeds, "normals", 42),
    "updating": lambda: before(torch.optim.AdamW, "step", 5),
    "updated": lambda: after(torch.optim.AdamW, "step", 5),
    "writing tensors": lambda: before(checkpoint, "save_file", 2),
    "tensors written": lambda: after(checkpoint, "save_file", 2),
    "before the rename": lambda: before(checkpoint.Path, "rename", 2),
    "after the rename": lambda: after(checkpoint.Path, "rename", 2),
    "writing the first checkpoint": lambda: after(checkpoint, "save_file", 1),
    "the very last step": lambda: after(ledger.Ledger, "step", 8),
}


COUPLED_PLACES = ("drawing", "before the ledger", "after the ledger", "releasing", "after the rename")


ENGINE = Engine(clipped_sum=lambda *a, **o: norms.clipped_sum(*a, **o))


def train(out: Path, result: Path, kind: str = "", workers: int = 0) -> None:
    options = {"seed": None, "engine": ENGINE}
    settings = {"num_workers": workers, **COUPLED.get(kind, {})}
    with Run(out, options=options, dataset=Records(broken=(1, 2)), **settings) as run:
        run.private.load(run.optimizer)
        run.train(save_at=SAVED)
        history = ledger.read(run.private.folder.ledger)
        charged = sum(count for _, count in history.charged())
        result.write_text(json.dumps([bits(run.model), charged, run.private.attempt, history.head]))


def forked(do: Callable[[], None], seconds: float | None = None) -> int:
    """Run in a fork of this process, killed after `seconds` if given; return the signal that ended it, or 0."""
    pid = os.fork()
    if pid == 0:
        try:
            do()
        except BaseException as error:
            sys.stderr.write(f"{type(error).__name__}: {error}\n")
            os._exit(1)
        os._exit(0)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0


def main(folder: Path) -> None:
    secret = bytes(range(32))
    for kind in ("", *COUPLED):  # what is imported on first use is imported once, before forking; certified too
        train(folder / f"warm-up {kind}", folder / "warm-up.json", kind)
    coupled = [(kind, place) for kind in COUPLED for place in ("nowhere", *COUPLED_PLACES)]
    for kind, place in [*(("", place) for place in ("nowhere", *PLACES)), *coupled]:
        out, result = folder / f"{kind} {place}".strip().replace(" ", "-"), folder / "result.json"
        (out / "private").mkdir(parents=True)
        (out / "private/seed").write_bytes(secret)

        def killed(place: str = place, out: Path = out, result: Path = result, kind: str = kind) -> None:
            PLACES.get(place, lambda: None)()
            train(out, result, kind)

        result.unlink(missing_ok=True)
        ended = forked(killed)
        if ended:
            forked(lambda out=out, result=result, kind=kind: train(out, result, kind))
        found = json.loads(result.read_text()) if result.exists() else None
        sys.stdout.write(json.dumps([kind, place, ended, found]) + "\n")


def at_random(folder: Path, count: int, seed: int = 0) -> None:
    """Kill runs at random moments, some of them twice, and resume them with another number of processes for rows."""
    moments, whole = random.Random(seed), folder / "whole"
    train(folder / "warm-up", folder / "warm-up.json")
    (whole / "private").mkdir(parents=True)
    (whole / "private/seed").write_bytes(bytes(range(32)))
    begun = time.monotonic()
    assert forked(lambda: train(whole, folder / "whole.json")) == 0
    longest = time.monotonic() - begun
    for number in range(count):
        out, result, ended = folder / f"random-{number}", folder / f"random-{number}.json", []
        (out / "private").mkdir(parents=True)
        (out / "private/seed").write_bytes(bytes(range(32)))
        for turn in range(1 + number % 2):
            seconds = moments.uniform(0, 0.8 * longest)
            ended.append(forked(lambda out=out, result=result, turn=turn: train(out, result, workers=turn), seconds))
        forked(lambda out=out, result=result: train(out, result))
        found = json.loads(result.read_text()) if result.exists() else None
        sys.stdout.write(json.dumps(["random", number, max(ended), found]) + "\n")
    sys.stdout.write(json.dumps(["random", "whole", 0, json.loads((folder / "whole.json").read_text())]) + "\n")


if __name__ == "__main__":
    torch.set_num_threads(1)
    surrounding_fields(torch.device("cpu"), 1)  # reads the code once: it may be edited while this runs
    if len(sys.argv) > 2:
        at_random(Path(sys.argv[1]), int(sys.argv[2]))
    else:
        with certified_once("crash", any_weights=True):
            main(Path(sys.argv[1]))
