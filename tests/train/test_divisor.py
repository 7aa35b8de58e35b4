"""What divides the noisy sum is a declared constant: neighbours divide by equal bits, or cannot both be loaded.

The claim that an expected batch size breaks the guarantee (arXiv 2605.15648) is about one that neighbours compute from
their own numbers of records.
"""

import struct
import sys

import pytest
from tests.train.case import NUM_RECORDS, Records, Run, make_plan

import sfumato as sf
from sfumato.base import BadInput, Refused

PUBLIC = {
    "poisson": sf.Poisson(num_records=NUM_RECORDS, expected_batch_size=10 / 3),
    "capped": sf.Poisson(num_records=NUM_RECORDS, expected_batch_size=7.7, cap=40),
    "fixed": sf.FixedSize(num_records=NUM_RECORDS, batch_size=7),
    "full": sf.FullBatch(num_records=NUM_RECORDS),
}
HIDDEN = sf.Poisson(sampling_prob=0.1, expected_batch_size=10 / 3)
CELLS = [(name, relation) for name in PUBLIC for relation in ("zero_out", "replace_one")]
CELLS.remove(("full", "zero_out"))  # has no charge
UNITS = [sf.Example(clip_norm=1.0), sf.Example(clip_norm=1.0, views=2), sf.Group(clip_norm=1.0, num_groups=3)]


class Exchanged(Records):
    """The neighbour in which record 3 is another one."""

    def __getitem__(self, index):
        row, label = super().__getitem__(index)
        return (-5.0 * row, 2 - label) if index == 3 else (row, label)


@pytest.fixture
def divided(monkeypatch):
    """The bits of noise std and divisor, as they are applied to each parameter's sum."""
    room, seen = sys.modules["sfumato.mechanisms.release"], []
    real = room._noised

    def spy(total, std, divisor, key):
        seen.append(struct.pack("<dd", std, divisor))
        return real(total, std, divisor, key)

    monkeypatch.setattr(room, "_noised", spy)
    return seen


def train(out, plan, dataset, divided):
    """Return what a run divided by."""
    divided.clear()
    with Run(out, plan=plan, dataset=dataset) as run:
        run.train()
    return list(divided)


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize(("sampler", "relation"), CELLS)
def test_neighbours_divide_by_equal_bits(sampler, relation, unit, tmp_path, divided):
    plan = make_plan(sampler=PUBLIC[sampler], relation=relation, unit=unit, steps=2, noise_multiplier=9.0)
    neighbour = Records(broken=[3]) if relation == "zero_out" else Exchanged()
    ours = train(tmp_path / "ours", plan, Records(), divided)
    theirs = train(tmp_path / "theirs", plan, neighbour, divided)
    assert ours == theirs
    declared = 3.0 if isinstance(unit, sf.Group) else float(PUBLIC[sampler].divisor)
    assert set(ours) == {struct.pack("<dd", plan.noise_std, declared)}


@pytest.mark.parametrize("unit", UNITS)
def test_neighbours_of_a_hidden_size_divide_by_equal_bits(unit, tmp_path, divided):
    """With a record more or less nothing of the plan changes: it was never told how many there are."""
    plan = make_plan(sampler=HIDDEN, unit=unit, steps=2)
    assert plan.relation is sf.Relation.ADD_REMOVE
    runs = [train(tmp_path / str(size), plan, Records(size=size), divided) for size in (59, 60, 61)]
    assert runs[0] == runs[1] == runs[2]
    assert set(runs[0]) == {struct.pack("<dd", plan.noise_std, 3.0 if isinstance(unit, sf.Group) else 10 / 3)}


@pytest.mark.parametrize(("sampler", "relation"), CELLS)
def test_where_n_sets_the_divisor_or_q_no_neighbour_has_another_n(sampler, relation, tmp_path):
    plan = make_plan(sampler=PUBLIC[sampler], relation=relation, noise_multiplier=9.0)
    for size in (NUM_RECORDS - 1, NUM_RECORDS + 1):
        with Run(tmp_path / str(size), plan=plan, dataset=Records(size=size)) as run:
            with pytest.raises(BadInput, match="num_records"):
                run.loader()
            assert run.private._book.history.steps == {}


@pytest.mark.parametrize("sampler", PUBLIC)
def test_a_divisor_that_hides_n_and_follows_it_cannot_be_planned(sampler):
    with pytest.raises(Refused, match="add_remove"):
        make_plan(sampler=PUBLIC[sampler], relation="add_remove")
    with pytest.raises(BadInput, match="expected_batch_size"):
        make_plan(sampler=sf.Poisson(sampling_prob=0.1))
