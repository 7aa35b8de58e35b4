"""Neighbouring data sets through the real loader and step: how far apart what they show may be, and is.

Each check raises AssertionError where a promise is broken; test_bugs.py sees them do so.
"""

from pathlib import Path

import numpy as np
from tests.guarantees.harness import (
    CLIP_NORM,
    NUM_RECORDS,
    Outcome,
    Table,
    Unreadable,
    make_plan,
    make_row,
    make_table,
    poisson,
    run,
)

import sfumato as sf
from sfumato.mechanisms import clip

ROUNDING = 1e-5  # of a float32 gradient that was multiplied by the divisor again
NAN = float("nan")


def farthest(one: Outcome, two: Outcome) -> float:
    """The largest distance between what two runs show at any step (released times divisor, no noise)."""
    assert len(one.seen_sums) == len(two.seen_sums), "one data set makes more steps than its neighbour"
    gaps = [float((a - b).norm()) for a, b in zip(one.seen_sums, two.seen_sums, strict=True)]
    assert all(np.isfinite(gaps)), "a record makes the released gradient not finite"
    return max(gaps)


def assert_within(found: float, bound: float) -> None:
    assert found <= bound + ROUNDING, f"moved by {found:.4f}, declared {bound:.4f}"


def presence(folder: Path) -> None:
    """A record that is there against one that contributes nothing: first, last, in between; small, huge, not finite."""
    table = make_table()
    reached = 0.0
    for index, scales in ((0, (1e4, NAN)), (7, (1e-4, 1e30)), (NUM_RECORDS - 1, (1e4, float("inf")))):
        without = run(table.with_row(index, Unreadable()), folder)
        for row in (make_row(99, scale) for scale in scales):
            gap = farthest(run(table.with_row(index, row), folder), without)
            assert_within(gap, CLIP_NORM)
            reached = max(reached, gap)
    assert reached >= CLIP_NORM * (1 - 2 * clip.MARGIN), "the declared presence is not attained: the check is too weak"


def swap(folder: Path) -> None:
    """A record against another in its place; opposite gradients attain 2C."""
    table, (inputs, targets) = make_table(), make_row(99, 1e4)
    reached = 0.0
    for index in (0, NUM_RECORDS - 1):
        one = run(table.with_row(index, (inputs, targets)), folder)
        for row in ((inputs, -targets), make_row(98, 1e4), (inputs * NAN, targets)):
            gap = farthest(run(table.with_row(index, row), folder), one)
            assert_within(gap, 2 * CLIP_NORM)
            reached = max(reached, gap)
    assert reached >= 2 * CLIP_NORM * (1 - 2 * clip.MARGIN), "the declared swap is not attained: the check is too weak"


def automatic_presence(folder: Path) -> None:
    """The same for automatic clipping."""
    plan, table = make_plan(unit=sf.Example(clip_norm=CLIP_NORM, clip="automatic", gamma=0.1)), make_table()
    without = run(table.with_row(3, Unreadable()), folder, plan)
    for scale in (1e-4, 0.1, 1e4, NAN):
        assert_within(farthest(run(table.with_row(3, make_row(99, scale)), folder, plan), without), CLIP_NORM)


def duplicated_record(folder: Path) -> None:
    """A record that another one repeats: each counts for itself, in one micro-batch or in two."""
    huge = make_row(99, 1e4)
    table = make_table().with_row(3, huge).with_row(4, huge)
    for micro_batch_size in (1, 4, 32):
        size = {"micro_batch_size": micro_batch_size}
        both, one = run(table, folder, **size), run(table.with_row(4, Unreadable()), folder, **size)
        assert_within(farthest(both, one), CLIP_NORM)


def padding(folder: Path) -> None:
    """Micro-batches that are filled up do not count anyone twice, whoever is used to fill."""
    plan, table = make_plan(sampler=poisson(3.0), steps=8), make_table()
    for index in (0, 5):
        huge = table.with_row(index, make_row(99, 1e4))
        gap = farthest(
            run(huge, folder, plan, micro_batch_size=16),
            run(huge.with_row(index, Unreadable()), folder, plan, micro_batch_size=16),
        )
        assert_within(gap, CLIP_NORM)


def failing_row(folder: Path) -> None:
    """A row that cannot be read contributes nothing, and nobody steps into its place."""
    table = make_table().with_row(5, Unreadable())
    for neighbour in (4, 6):
        with_it = run(table.with_row(neighbour, make_row(99, 1e4)), folder)
        assert_within(farthest(with_it, run(table.with_row(neighbour, Unreadable()), folder)), CLIP_NORM)


def one_more_record(folder: Path) -> None:
    """N hidden: a data set with one record more, the last one."""
    sampler = sf.Poisson(sampling_prob=1 / 3, expected_batch_size=8.0)
    plan, table = make_plan(sampler=sampler), make_table()
    for scale in (1e4, NAN):
        more = Table([*table.rows, make_row(99, scale)])
        assert_within(farthest(run(more, folder, plan), run(table, folder, plan)), CLIP_NORM)


def nearly_empty_draws(folder: Path) -> None:
    """Draws of nobody and of one: the one's joining an empty draw moves it by C, as it would any other."""
    plan, table = make_plan(sampler=poisson(0.5), steps=30), Table([make_row(i, 1e4) for i in range(NUM_RECORDS)])
    sums = run(table, folder, plan).seen_sums
    sizes = [float(total.norm()) for total in sums]
    assert len(sizes) == plan.steps, "every step of the plan is done, the empty ones too"
    assert 0.0 in sizes, "an empty draw has a zero sum"
    inputs, targets = make_row(0)
    nobody = Table([(inputs, 0 * targets)] * NUM_RECORDS)  # gradients of zero
    without = run(nobody, folder, plan)
    for index in range(0, NUM_RECORDS, 6):
        alone = run(nobody.with_row(index, make_row(99, 1e4)), folder, plan)
        assert_within(farthest(alone, without), CLIP_NORM)


def owner_of_several_rows(folder: Path) -> None:
    """An owner of nine rows against the same owner with other rows, and with none that can be read."""
    owners = [np.arange(0, 9), *[np.array([i]) for i in range(9, NUM_RECORDS)]]
    plan = make_plan(sampler=poisson(8.0, len(owners)), steps=8)
    huge = Table([make_row(i % 5, 1e4) for i in range(NUM_RECORDS)], owners)
    without = Table([Unreadable()] * 9 + list(huge.rows[9:]), owners)
    opposite = Table([(x, -t) for x, t in huge.rows[:9]] + list(huge.rows[9:]), owners)
    one = run(huge, folder, plan)
    assert_within(farthest(one, run(without, folder, plan)), CLIP_NORM)
    assert_within(farthest(one, run(opposite, folder, plan)), 2 * CLIP_NORM)


CHECKS = (
    presence,
    swap,
    automatic_presence,
    duplicated_record,
    padding,
    failing_row,
    one_more_record,
    nearly_empty_draws,
    owner_of_several_rows,
)
