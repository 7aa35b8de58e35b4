"""Neighbouring data sets under losses that couple rows: groups and pairs, through the real loader and step.

What is attacked here is the mechanism on a real network; the bounds of the pair losses are attacked, and attained, at
the level of similarities in tests/plan/test_contrast.py.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from tests.guarantees.harness import NUM_RECORDS, WIDTH, Table, Unreadable, make_row, make_table, poisson, run
from tests.guarantees.neighbours import NAN, ROUNDING, farthest
from tests.once import some
from torch import Tensor, nn

import sfumato as sf

CLIP_NORM = 0.5
ENDS = (0, NUM_RECORDS - 1)


class Towers(nn.Module):
    """Two linear towers; a row near the kernel of a tower has gradients of any size."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Linear(WIDTH, 3, bias=False)
        self.two = nn.Linear(WIDTH, 3, bias=False)


def embed(model: Any, batch: Any) -> tuple[Tensor, Tensor]:
    inputs, targets = batch
    return F.normalize(model.one(inputs), dim=1), F.normalize(model.two(targets), dim=1)


def make_towers() -> Towers:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Towers()


def contrast(temperature: float = 0.5) -> sf.Contrast:
    return sf.Contrast(embed=embed, loss=sf.InfoNCE(temperature=temperature))


def plan_of(unit: Any, **changes: Any) -> sf.Plan:
    settings: dict[str, Any] = {"sampler": poisson(8.0), "steps": 4, "delta": 1e-3, "noise_multiplier": 0.0}
    return sf.Plan(unit=unit, **{**settings, **changes})


def hostile_rows() -> list[tuple[Tensor, Tensor]]:
    """Ordinary rows, rows that point against all others, rows near the kernels of the towers, rows that are not
    finite.
    """
    towers = make_towers()
    kernels = [torch.linalg.svd(layer.weight.detach())[2][-1] for layer in (towers.one, towers.two)]
    found = [make_row(seed) for seed in (90, 91)]
    for near in (1e-2, 1e-4):
        for seed in (92, 93, 94):
            inputs, targets = make_row(seed)
            found += [(kernels[0] + near * inputs, kernels[1] + near * targets), (kernels[0] - near * inputs, targets)]
    inputs, targets = make_row(95)
    return [*found, (inputs * NAN, targets), (inputs, targets * float("inf")), (inputs * 0, targets * 0)]


def movements(folder: Path, plan: sf.Plan, loss: sf.Contrast, index: int, **options: Any) -> tuple[float, float]:
    """The largest movement when one record joins, and when it is exchanged."""
    table = tame(make_table())
    given = {"model": None, "loss": loss, **options}
    without = go(table.with_row(index, Unreadable()), folder, plan, given)
    outcomes = [go(table.with_row(index, row), folder, plan, given) for row in hostile_rows()]
    joined = max(farthest(outcome, without) for outcome in outcomes)
    exchanged = max(farthest(one, two) for one in outcomes for two in outcomes[:3])
    return joined, exchanged


def tame(table: Table) -> Table:
    """Rows of ordinary size: embeddings do not see their scale."""
    return replace(table, rows=[make_row(seed) for seed in range(NUM_RECORDS)])


def go(table: Table, folder: Path, plan: sf.Plan, given: dict[str, Any]) -> Any:
    options = {name: value for name, value in given.items() if name not in ("model", "loss")}
    return run(table, folder, plan, model=make_towers(), loss=given["loss"], **options)


def within(found: list[tuple[float, float]], plan: sf.Plan, share: float) -> None:
    """No distance is passed by any attack, and the best of them comes near: a record that was never drawn would show
    nothing, and which records are drawn hangs on the fingerprint, so on the code.
    """
    for name, bound, moved in zip(("presence", "swap"), (plan.presence, plan.swap), zip(*found), strict=True):
        assert max(moved) <= bound + ROUNDING, f"{name}: moved by {max(moved):.4f}, declared {bound:.4f}"
        assert max(moved) >= share * bound, f"{name}: only {max(moved):.4f} of {bound:.4f} is attained"


def batch_clipping(folder: Path) -> None:
    """One group of everything, in one micro-batch and in parts: the clipped gradient turns to nearly its opposite."""
    plan = plan_of(sf.Group(clip_norm=CLIP_NORM, num_groups=1))
    for size in (32, 4):
        attacks = [movements(folder, plan, contrast(), index, micro_batch_size=size) for index in some(ENDS, 2)]
        within(attacks, plan, 0.6)


def small_groups(folder: Path) -> None:
    """Groups of about two: empty, single and larger ones occur; a record moves its own group alone."""
    plan = plan_of(sf.Group(clip_norm=CLIP_NORM, num_groups=4), steps=5)
    within([movements(folder, plan, contrast(), index, micro_batch_size=16) for index in some(ENDS, 2)], plan, 0.6)


def groups_of_views(folder: Path) -> None:
    """Several views of each record: still its own group alone."""
    plan = plan_of(sf.Group(clip_norm=CLIP_NORM, num_groups=3, views=2))
    within([movements(folder, plan, contrast(), index, micro_batch_size=32) for index in (5, 9)], plan, 0.5)


def rows_in_groups(folder: Path) -> None:
    """A loss of one value per row, clipped by the batch and by small groups: the sum of a group turns around."""
    for groups, size in ((1, 32), (1, 4), (4, 16)):
        plan = plan_of(sf.Group(clip_norm=CLIP_NORM, num_groups=groups))
        table, (inputs, targets) = tame(make_table()), make_row(99, 1e4)
        found = []
        for index in ENDS:
            rows = [Unreadable(), (inputs, targets), (inputs, -targets), (inputs * NAN, targets), make_row(98, 0.0)]
            outcomes = [run(table.with_row(index, row), folder, plan, micro_batch_size=size) for row in rows]
            joined = max(farthest(one, outcomes[0]) for one in outcomes)
            found.append((joined, max(farthest(one, two) for one in outcomes for two in outcomes)))
        within(found, plan, 0.6)


def pairs(folder: Path) -> None:
    """Pairs at several temperatures and losses: below the bound, and not far below where the temperature is high."""
    losses = (sf.InfoNCE(temperature=1.0), sf.InfoNCE(temperature=0.2), sf.Sigmoid(temperature=0.5), sf.SpreadOut())
    for loss in some(losses, 2):
        plan = plan_of(sf.Pair(clip_norm=CLIP_NORM, loss=loss))
        within([movements(folder, plan, sf.Contrast(embed=embed, loss=loss), 7, micro_batch_size=5)], plan, 0.0)


def pairs_at_fixed_size(folder: Path) -> None:
    """A fixed size of the draw: n is known, and records are exchanged."""
    loss = sf.InfoNCE(temperature=1.0)
    sampler = sf.FixedSize(num_records=NUM_RECORDS, batch_size=8)
    plan = plan_of(sf.Pair(clip_norm=CLIP_NORM, loss=loss), sampler=sampler, steps=8)
    within(
        [movements(folder, plan, sf.Contrast(embed=embed, loss=loss), index) for index in some((7, 8), 2)], plan, 0.1
    )


CHECKS = (batch_clipping, small_groups, groups_of_views, rows_in_groups, pairs, pairs_at_fixed_size)
