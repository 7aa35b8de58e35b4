"""Runs on several ranks; started by test_world.py under torchrun. Each rank writes FOLDER/rank-K.json.

usage: torchrun --nproc-per-node 2 -m tests.train.ranks FOLDER
"""

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from tests.train.case import COUPLED, Records, Run, bits, loss_fn, make_model, make_plan

import sfumato as sf
from sfumato.base import BadInput
from sfumato.train import Trainer, fingerprint, warmup_cosine


def whole(folder: Path) -> Any:
    with Run(folder / "whole", dataset=Records(broken=(1, 2, 3))) as run:
        released = run.train()
        return {
            "bits": bits(run.model),
            "first_row": released[0]["0.weight"][0].tolist(),
            "epsilon": run.private.epsilon,
            "device_rank": [run.private.world.rank, run.private.world.size],
            "rows_seen": len(run.dataset.seen),
        }


def resumed(folder: Path) -> Any:
    with Run(folder / "resumed", dataset=Records(broken=(1, 2, 3))) as run:
        run.train(until=5, save_at=[3])
    with Run(folder / "resumed", dataset=Records(broken=(1, 2, 3))) as run:
        run.private.load(run.optimizer)
        run.train()
        return bits(run.model)


def without_noise(folder: Path) -> Any:
    """To compare with one process: there the noise would differ, as sums differ in their last bits."""
    plan = make_plan(noise_multiplier=0.0)
    with Run(folder / "without-noise", plan=plan, dropout=0.0) as run:
        run.train()
        return {name: value.tolist() for name, value in run.model.state_dict().items()}


def empty_shares(folder: Path) -> Any:
    plan = make_plan(sampler=sf.Poisson(num_records=60, expected_batch_size=1.0), steps=20)
    with Run(folder / "empty", plan=plan) as run:
        run.train(until=20)
        return {"bits": bits(run.model), "rows_seen": len(run.dataset.seen)}


def refused_by_all(folder: Path) -> Any:
    with Run(folder / "refused") as run:
        run.train(until=1)
    with Run(folder / "refused", lr=0.1) as run:
        try:
            run.loader()
        except BadInput as error:
            return str(error)
    return None


def started_otherwise(folder: Path) -> Any:
    with Run(folder / "otherwise", lr=0.1 * (1 + dist.get_rank())) as run:
        try:
            run.loader()
        except BadInput as error:
            return str(error)
    return None


def accepted_conflict(folder: Path) -> Any:
    with Run(folder / "conflict") as run:
        run.train(until=2)
    with Run(folder / "conflict", model_seed=4, options={"seed": 1, "accept_new_attempt": True}) as run:
        run.train(until=2)
        return [run.private.attempt, bits(run.model)]


def trainer(folder: Path) -> Any:
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    done = Trainer(
        model=model,
        loss_fn=loss_fn,
        dataset=Records(),
        plan=make_plan(),
        out=folder / "trainer",
        optimizer=optimizer,
        scheduler=warmup_cosine(optimizer, warmup_steps=2, total_steps=8),
        micro_batch_size=4,
        checkpoint_every=3,
        ema_decay=0.9,
        seed=1,
    ).fit()
    return [done.steps, bits(model)]


def coupled(folder: Path) -> Any:
    """Groups and pairs on ranks: whole groups to a rank, one group spread over all, all pairs of all ranks' rows."""
    found = {}
    for kind, settings in COUPLED.items():
        plan = replace(settings["plan"], noise_multiplier=0.0)
        with Run(folder / f"coupled-{kind}", **{**settings, "plan": plan, "dropout": 0.0}) as run:
            run.train(until=4)
            state = {name: value.tolist() for name, value in run.model.state_dict().items()}
            found[kind] = {"bits": bits(run.model), "state": state, "rows_seen": len(run.dataset.seen)}
    return found


def coupled_and_empty(folder: Path) -> Any:
    sampler = sf.Poisson(num_records=60, expected_batch_size=1.0)
    found = {}
    for kind, settings in COUPLED.items():
        plan = make_plan(unit=settings["plan"].unit, sampler=sampler, steps=6)
        with Run(folder / f"coupled-empty-{kind}", **{**settings, "plan": plan}) as run:
            run.train(until=6)
            found[kind] = bits(run.model)
    return found


CASES: tuple[Callable[[Path], Any], ...] = (
    whole,
    resumed,
    without_noise,
    empty_shares,
    refused_by_all,
    accepted_conflict,
    trainer,
    coupled,
    coupled_and_empty,
    started_otherwise,  # the last one: the ranks part here
)


def no_surroundings(device: torch.device, world_size: int) -> dict[str, Any]:
    """In the place of `fingerprint.surrounding_fields`: one process is to draw what two draw."""
    return {}


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    results = {}
    for case in CASES:
        results[case.__name__] = case(folder)
    (folder / f"rank-{dist.get_rank()}.json").write_text(json.dumps(results))
    dist.destroy_process_group()


if __name__ == "__main__":
    fingerprint.surrounding_fields = no_surroundings
    main(Path(sys.argv[1]))
