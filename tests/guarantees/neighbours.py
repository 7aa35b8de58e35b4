"""Neighbouring data sets through the real loader and step: how far apart what they show may be, and is.

Each check raises AssertionError where a promise is broken; test_bugs.py sees them do so.
"""

from collections.abc import Iterable
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


def assert_bounded(gaps: Iterable[float], bound: float) -> None:
    """No gap passes the bound, and some gap attains it: a check whose record was never drawn would see no bug."""
    farthest_found = 0.0
    for gap in gaps:
        assert gap <= bound + ROUNDING, f"moved by {gap:.4f}, declared {bound:.4f}"
        farthest_found = max(farthest_found, gap)
    assert farthest_found >= bound * (1 - 2 * clip.MARGIN), f"only {farthest_found:.4f} of {bound:.4f} is attained"


def presence(folder: Path) -> None:
    """A record that is there against one that contributes nothing: first, last, in between; small, huge, not finite."""
    table = make_table()
    for index, scales in ((0, (1e4, NAN)), (7, (1e-4, 1e30, 30.0)), (NUM_RECORDS - 1, (1e4, float("inf")))):
        without = run(table.with_row(index, Unreadable()), folder)
        rows = (make_row(99, scale) for scale in scales)
        assert_bounded((farthest(run(table.with_row(index, row), folder), without) for row in rows), CLIP_NORM)


def swap(folder: Path) -> None:
    """A record against another in its place; opposite gradients attain 2C."""
    table, (inputs, targets) = make_table(), make_row(99, 1e4)
    for index in (0, NUM_RECORDS - 1):
        one = run(table.with_row(index, (inputs, targets)), folder)
        others = ((inputs, -targets), make_row(98, 1e4), (inputs * NAN, targets))
        assert_bounded((farthest(run(table.with_row(index, row), folder), one) for row in others), 2 * CLIP_NORM)


def automatic_presence(folder: Path) -> None:
    """The same for automatic clipping."""
    plan, table = make_plan(unit=sf.Example(clip_norm=CLIP_NORM, clip="automatic", gamma=0.1)), make_table()
    without = run(table.with_row(3, Unreadable()), folder, plan)
    rows = (make_row(99, scale) for scale in (1e-4, 0.1, 1e4, NAN))
    assert_bounded((farthest(run(table.with_row(3, row), folder, plan), without) for row in rows), CLIP_NORM)


def duplicated_record(folder: Path) -> None:
    """A record that another one repeats: each counts for itself, in one micro-batch or in two."""
    huge = make_row(99, 1e4)
    table = make_table().with_row(3, huge).with_row(4, huge)
    for micro_batch_size in (1, 4, 32):
        size = {"micro_batch_size": micro_batch_size}
        both, one = run(table, folder, **size), run(table.with_row(4, Unreadable()), folder, **size)
        assert_bounded([farthest(both, one)], CLIP_NORM)


def padding(folder: Path) -> None:
    """Micro-batches that are filled up do not count anyone twice, whoever is used to fill."""
    plan = make_plan(sampler=poisson(3.0), steps=20)
    gaps = []
    for index in (0, 5):
        huge = make_table().with_row(index, make_row(99, 1e4))
        without = run(huge.with_row(index, Unreadable()), folder, plan, micro_batch_size=16)
        gaps.append(farthest(run(huge, folder, plan, micro_batch_size=16), without))
    assert_bounded(gaps, CLIP_NORM)


def failing_row(folder: Path) -> None:
    """A row that cannot be read contributes nothing, and nobody steps into its place."""
    table = make_table().with_row(5, Unreadable())
    for neighbour in (4, 6):
        without = run(table.with_row(neighbour, Unreadable()), folder)
        assert_bounded([farthest(run(table.with_row(neighbour, make_row(99, 1e4)), folder), without)], CLIP_NORM)


def one_more_record(folder: Path) -> None:
    """N hidden: a data set with one record more, the last one."""
    plan = make_plan(sampler=sf.Poisson(sampling_prob=1 / 3, expected_batch_size=8.0))
    table = make_table()
    without = run(table, folder, plan)
    more = (Table([*table.rows, make_row(99, scale)]) for scale in (1e4, NAN))
    assert_bounded((farthest(run(one, folder, plan), without) for one in more), CLIP_NORM)


def nearly_empty_draws(folder: Path) -> None:
    """Draws of nobody and of one: the one's joining an empty draw moves it by C, as it would any other."""
    plan, table = make_plan(sampler=poisson(1.0), steps=30), Table([make_row(i, 1e4) for i in range(NUM_RECORDS)])
    sums = run(table, folder, plan).seen_sums
    assert len(sums) == plan.steps, "every step of the plan is done, the empty ones too"
    assert 0.0 in [float(total.norm()) for total in sums], "an empty draw has a zero sum"
    inputs, targets = make_row(0)
    nobody = Table([(inputs, 0 * targets)] * NUM_RECORDS)  # gradients of zero
    without = run(nobody, folder, plan)
    ones = (nobody.with_row(index, make_row(99, 1e4)) for index in range(0, NUM_RECORDS, 6))
    assert_bounded((farthest(run(one, folder, plan), without) for one in ones), CLIP_NORM)


def owner_of_several_rows(folder: Path) -> None:
    """An owner of nine rows against the same owner with other rows, and with none that can be read."""
    owners = [np.arange(0, 9), *[np.array([i]) for i in range(9, NUM_RECORDS)]]
    plan = make_plan(sampler=poisson(8.0, len(owners)))
    huge = Table([make_row(i % 5, 1e4) for i in range(NUM_RECORDS)], owners)
    without = Table([Unreadable()] * 9 + list(huge.rows[9:]), owners)
    opposite = Table([(x, -t) for x, t in huge.rows[:9]] + list(huge.rows[9:]), owners)
    one = run(huge, folder, plan)
    assert_bounded([farthest(one, run(without, folder, plan))], CLIP_NORM)
    assert_bounded([farthest(one, run(opposite, folder, plan))], 2 * CLIP_NORM)


def several_rows_at_once(folder: Path) -> None:
    """An owner of nine rows who gives three at a time, clipped together: C to join, 2C to be exchanged."""
    owners = [np.arange(0, 9), *[np.array([i]) for i in range(9, NUM_RECORDS)]]
    plan = make_plan(sampler=poisson(8.0, len(owners)), unit=sf.Example(clip_norm=CLIP_NORM, views=3))
    huge = Table([make_row(i % 5, 1e4) for i in range(NUM_RECORDS)], owners)
    without = Table([Unreadable()] * 9 + list(huge.rows[9:]), owners)
    opposite = Table([(x, -t) for x, t in huge.rows[:9]] + list(huge.rows[9:]), owners)
    spoilt = Table([(x * NAN, t) for x, t in huge.rows[:9]] + list(huge.rows[9:]), owners)
    for size in (3, 10, 30):
        one = run(huge, folder, plan, micro_batch_size=size)
        others = [run(table, folder, plan, micro_batch_size=size) for table in (without, spoilt, opposite)]
        assert_bounded([farthest(one, other) for other in others[:2]], CLIP_NORM)
        assert_bounded([farthest(one, others[2])], 2 * CLIP_NORM)


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
    several_rows_at_once,
)
