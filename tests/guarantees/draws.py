"""Who is drawn: independently, by the owner, and once among all ranks."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tests.guarantees.harness import NUM_RECORDS, make_plan, poisson

import sfumato as sf
from sfumato.train import World, loader
from sfumato.train.keys import Keys


@dataclass
class Source:
    """The least that a loader needs of a run."""

    plan: sf.Plan
    world: World = field(default_factory=World)
    step: int = 0

    @property
    def keys(self) -> Any:
        return Keys(seed=bytes(32), fingerprint="f", attempt=0)

    def bind(self, fields: Any) -> None: ...


class Numbered:
    """Row i says i."""

    def __init__(self, size: int, owners: Any = None) -> None:
        self.size, self.owners = size, owners

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> int:
        return index


def drawn(dataset: Numbered, plan: sf.Plan, world: World | None = None, micro_batch_size: int = 8) -> list[list[int]]:
    """The rows that the loader gives at each step."""
    batches = loader(dataset, Source(plan, world or World()), micro_batch_size=micro_batch_size)
    return [[int(i) for m in b for i, ok in zip(m.batch, m.valid) if ok] for _, b in batches]


def draws_are_poisson(folder: Path) -> None:
    """Draw sizes vary as independent coins do; no record waits for the others to have had their turn."""
    plan = make_plan(sampler=poisson(8.0), steps=300)
    draws = drawn(Numbered(NUM_RECORDS), plan, micro_batch_size=64)
    sizes = np.array([len(draw) for draw in draws])
    expected = NUM_RECORDS * (1 / 3) * (2 / 3)
    assert 0.75 < sizes.var() / expected < 1.35, f"the draw's size varies by {sizes.var():.2f}, not {expected:.2f}"
    inside = np.array([[i in draw for i in range(NUM_RECORDS)] for draw in draws])
    again = (inside[1:] & inside[:-1]).mean() / (1 / 9)
    assert 0.9 < again < 1.1, f"who was drawn is drawn again at {again:.2f} times the rate of independent draws"


def owners_are_drawn_alike(folder: Path) -> None:
    """An owner of nine rows is drawn as often as an owner of one, and brings one row."""
    owners = [np.arange(0, 9), *[np.array([i]) for i in range(9, 24)]]
    steps = 400
    plan = make_plan(sampler=poisson(4.0, len(owners)), steps=steps)
    owner_of = np.repeat(np.arange(len(owners)), [len(rows) for rows in owners])
    draws = drawn(Numbered(24, owners), plan, micro_batch_size=32)
    counts = np.bincount([owner_of[row] for draw in draws for row in draw], minlength=len(owners))
    spread = (steps * 0.25 * 0.75) ** 0.5
    assert abs(counts[0] - steps * 0.25) < 4.5 * spread, f"{counts[0]} rows of the first owner, {steps * 0.25} expected"


def ranks_share_one_draw(folder: Path) -> None:
    """The shares of three ranks are, together, the draw of one."""
    plan = make_plan(steps=20)
    whole = drawn(Numbered(NUM_RECORDS), plan)
    shares = [drawn(Numbered(NUM_RECORDS), plan, World(rank=rank, size=3)) for rank in range(3)]
    for step, expected in enumerate(whole):
        found = sorted(row for share in shares for row in share[step])
        assert found == expected, f"three shares hold {len(found)} rows, the draw {len(expected)}"


CHECKS = (draws_are_poisson, owners_are_drawn_alike, ranks_share_one_draw)
