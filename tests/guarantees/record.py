"""The ledger, the ranks, and what is shared: a step is charged before it leaves, and all ranks release the same."""

import json
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from scipy import stats
from tests.guarantees.harness import Outcome, loss_fn, make_model, make_row, make_table, poisson, run
from tests.guarantees.noise import noisy
from torch import Tensor

import sfumato as sf
from sfumato import mechanisms
from sfumato.base import BadInput, ledger
from sfumato.train import Trainer, World


def a_replay_is_the_same_or_is_charged(folder: Path) -> None:
    """A step that was charged comes out with the same bits, or is refused before anything leaves."""
    out = folder / "replay"
    first, again = (run(make_table(), folder, noisy(), out=out) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first.released, again.released, strict=True))
    other = make_table().with_row(0, make_row(99, 1e4))
    try:
        run(other, folder, noisy(), out=out)
    except BadInput:
        pass
    else:
        raise AssertionError("another sum was released for a step that had been charged, at no charge")
    assert len(ledger.read(out / "private/ledger.jsonl").steps) == 12


def charged_before_it_leaves(folder: Path) -> None:
    """Were the process killed while noise is drawn, the ledger would hold the step."""
    counted, real = [], mechanisms.release
    out = folder / "charged"

    def spy(*args: Any) -> Any:
        counted.append(len(ledger.read(out / "private/ledger.jsonl").steps))
        return real(*args)

    mechanisms.release = spy
    try:
        run(make_table(), folder, out=out)
    finally:
        mechanisms.release = real
    assert counted == list(range(1, 17)), f"steps in the ledger when noise was drawn: {counted}"


@dataclass(frozen=True, kw_only=True)
class Thread(World):
    """A rank that is a thread of this process: collectives over shared lists."""

    shared: dict[str, Any]

    def add_up(self, flat_sum: Tensor) -> None:
        self.shared["sums"][self.rank] = flat_sum.clone()
        self.shared["barrier"].wait(20)
        flat_sum.copy_(sum(self.shared["sums"][rank] for rank in range(self.size)))
        self.shared["barrier"].wait(20)

    def decide(self, decision_fn: Any) -> Any:
        if self.first:
            self.shared["decision"] = decision_fn()
        self.shared["barrier"].wait(20)
        found = self.shared["decision"]
        self.shared["barrier"].wait(20)
        return found


def on_ranks(folder: Path, plan: sf.Plan, size: int, name: str) -> list[Outcome]:
    """Run on `size` ranks that share one folder; `world_size` in the fingerprint is that of one."""
    shared = {"barrier": threading.Barrier(size), "sums": {}, "decision": None}
    found: dict[int, Outcome] = {}
    models = [make_model() for _ in range(size)]  # here: making one seeds the process's generator

    def rank(number: int) -> None:
        world = Thread(rank=number, size=size, shared=shared)
        try:
            found[number] = run(make_table(), folder, plan, world=world, out=folder / name, model=models[number])
        except BaseException:
            shared["barrier"].abort()
            raise

    threads = [threading.Thread(target=rank, args=(number,)) for number in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(found) == size, "a rank failed"
    return [found[number] for number in range(size)]


def ranks_release_the_same(folder: Path) -> None:
    """Every rank releases the same bits; without noise they are what one process releases."""
    one, two = on_ranks(folder, noisy(sampler=poisson(6.0)), 2, "noisy")
    equal = all(torch.equal(a, b) for a, b in zip(one.released, two.released, strict=True))
    assert equal, "ranks release different gradients"
    standardised = torch.cat(one.noise).numpy() / one.plan.noise_std
    assert stats.kstest(standardised, "norm").pvalue > 1e-4, f"noise std is {standardised.std():.2f} of the plan's"


def nothing_un_noised_is_shared(folder: Path) -> None:
    """export/ of a Trainer's run: steps and epsilon, no loss, no count, no index."""
    model = make_model()
    Trainer(
        model=model,
        loss_fn=loss_fn,
        dataset=make_table(),
        plan=noisy(steps=4),
        out=folder / "shared",
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        micro_batch_size=4,
        report_every=1,
        seed=7,
    ).fit()
    for path in (folder / "shared/export").iterdir():
        assert path.name == "progress.jsonl"
        for line in path.read_text().splitlines():
            assert set(json.loads(line)) == {"step", "epsilon"}, f"export/ says {line}"
    assert (folder / "shared/private").stat().st_mode & 0o077 == 0, "others may read private/"


CHECKS = (
    a_replay_is_the_same_or_is_charged,
    charged_before_it_leaves,
    ranks_release_the_same,
    nothing_un_noised_is_shared,
)
