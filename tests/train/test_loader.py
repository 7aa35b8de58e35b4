"""The loader: one draw by key, constant shapes, rows that do not depend on workers, records that cannot be read."""

import json
import random
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from tests.train.case import NUM_RECORDS, STEPS, Records, Run, make_plan
from torch.utils.data import default_collate

import sfumato as sf
from sfumato.base import BadInput
from sfumato.train import World, loader
from sfumato.train.keys import Keys
from sfumato.train.rows import Assemble, Failed, RowRequest, Rows, seeded


@dataclass
class Source:
    """The least that a loader needs of a run."""

    plan: sf.Plan = field(default_factory=make_plan)
    world: World = field(default_factory=World)
    step: int = 0
    attempt: int = 0

    @property
    def keys(self) -> Keys:
        return Keys(seed=bytes(32), fingerprint="f", attempt=self.attempt)

    def bind(self, fields: Any) -> None:
        self.fields = fields


@dataclass
class Numbers:
    """Row i is its number; `draw` adds noise of its own rng."""

    size: int = NUM_RECORDS
    owners: Any = None
    broken: Any = ()

    def __len__(self) -> int:
        return self.size

    def draw(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        if index in self.broken:
            raise ValueError(f"row {index} is private")
        return {"index": index, "noise": float(rng.random())}


class Globals:
    """Row with random numbers of all three global generators."""

    def __len__(self) -> int:
        return NUM_RECORDS

    def __getitem__(self, index: int) -> list[float]:
        return [float(index), float(torch.rand(())), float(np.random.rand()), random.random()]


def _rows(batches: Any) -> list[tuple]:
    """All valid rows of a logical batch as tuples."""
    rows = []
    for micro_batch in batches:
        if micro_batch.batch is None:
            continue
        columns = micro_batch.batch.values() if isinstance(micro_batch.batch, dict) else micro_batch.batch
        rows += [row for row, valid in zip(zip(*[c.tolist() for c in columns]), micro_batch.valid.tolist()) if valid]
    return rows


def _indices(batches: Any) -> list[int]:
    return [int(row[0]) for row in _rows(batches)]


def test_gives_what_the_sampler_draws():
    source = Source()
    for step, batches in loader(Numbers(), source, micro_batch_size=4):
        expected = source.plan.sampler.draw(source.keys.key("draw", step), NUM_RECORDS)
        assert _indices(batches) == expected.tolist()


def test_shapes_are_constant_and_padding_is_not_valid():
    for size in (1, 3, 64):
        for _, batches in loader(Numbers(), Source(), micro_batch_size=size):
            micro_batches = list(batches)
            assert {len(m.batch["index"]) for m in micro_batches} <= {size}
            assert all(m.valid.all() for m in micro_batches[:-1])


def test_iterating_again_gives_the_same_rows():
    for _, batches in loader(Numbers(), Source(), micro_batch_size=4):
        assert _rows(batches) == _rows(batches)


def test_a_half_read_batch_does_not_shift_the_next_one():
    whole = [_rows(batches) for _, batches in loader(Numbers(), Source(), micro_batch_size=4)]
    for step, batches in loader(Numbers(), Source(), micro_batch_size=4):
        if step % 2:
            next(iter(batches), None)
        else:
            assert _rows(batches) == whole[step]


@pytest.mark.parametrize("dataset", [Numbers(), Globals()], ids=["draw", "globals"])
def test_rows_do_not_depend_on_workers_or_micro_batches(dataset):
    plan = make_plan(steps=3)
    one, two = (
        [_rows(b) for _, b in loader(dataset, Source(plan=plan), micro_batch_size=size, num_workers=workers)]
        for size, workers in ((4, 0), (7, 2))
    )
    assert one == two


def test_resuming_at_a_step_gives_its_draw():
    whole = {step: _rows(b) for step, b in loader(Numbers(), Source(), micro_batch_size=4)}
    late = list(loader(Numbers(), Source(step=5), micro_batch_size=4))
    assert [step for step, _ in late] == list(range(5, STEPS))
    assert all(_rows(b) == whole[step] for step, b in late)


def test_another_attempt_draws_other_records_and_another_augmentation():
    source = Source()
    _, batches = next(iter(loader(Numbers(), source, micro_batch_size=4)))
    before = dict(_rows(batches))
    source.attempt = 1
    after = dict(_rows(batches))
    assert before.keys() != after.keys()
    assert all(before[index] != after[index] for index in before.keys() & after.keys())


def test_augmentation_differs_from_step_to_step():
    full = make_plan(sampler=sf.FullBatch(num_records=NUM_RECORDS))
    one, two, *_ = (_rows(b) for _, b in loader(Numbers(), Source(plan=full), micro_batch_size=8))
    assert all(a[0] == b[0] and a[1] != b[1] for a, b in zip(one, two, strict=True))


@pytest.mark.parametrize("size", [1, 2, 3])
def test_ranks_share_one_draw(size):
    """Strided shares of one draw: together they are the draw of a run on its own, each record once."""
    whole = [_rows(b) for _, b in loader(Numbers(), Source(), micro_batch_size=4)]
    ranks = [
        [_rows(b) for _, b in loader(Numbers(), Source(world=World(rank=r, size=size)), micro_batch_size=4)]
        for r in range(size)
    ]
    for step, rows in enumerate(whole):
        assert sorted(row for rank in ranks for row in rank[step]) == rows


def test_an_empty_draw_is_a_step_without_micro_batches():
    plan = make_plan(sampler=sf.Poisson(sampling_prob=1e-9, expected_batch_size=1.0))
    steps = [(step, list(batches)) for step, batches in loader(Numbers(), Source(plan=plan), micro_batch_size=4)]
    assert steps == [(step, []) for step in range(STEPS)]


def test_unreadable_rows_stay_in_the_draw_without_a_contribution():
    broken = set(range(0, NUM_RECORDS, 3))
    source = Source()
    for step, batches in loader(Numbers(broken=broken), source, micro_batch_size=4):
        drawn = source.plan.sampler.draw(source.keys.key("draw", step), NUM_RECORDS)
        assert _indices(batches) == [i for i in drawn if i not in broken]
        failures = [kind for m in batches for kind in m.failures]
        assert failures == ["ValueError"] * sum(int(i) in broken for i in drawn)


def test_a_micro_batch_without_a_readable_row():
    numbers = Numbers()
    batches = loader(numbers, Source(), micro_batch_size=2)
    numbers.broken = range(99)
    (micro_batch, *_) = next(iter(batches))[1]
    assert micro_batch.batch is None
    assert not micro_batch.valid.any()
    assert len(micro_batch.failures) == 2


def test_an_owner_is_a_record_and_gives_one_row():
    owners = [np.array([3 * i, 3 * i + 1, 3 * i + 2]) for i in range(20)]
    plan = make_plan(sampler=sf.Poisson(num_records=20, expected_batch_size=10), steps=40)
    source = Source(plan=plan)
    chosen = []
    for step, batches in loader(Numbers(owners=owners), source, micro_batch_size=4):
        rows = _indices(batches)
        drawn = plan.sampler.draw(source.keys.key("draw", step), 20)
        assert [row // 3 for row in rows] == drawn.tolist()
        chosen += [row % 3 for row in rows]
    assert source.fields["data.record"] == "owner"
    assert source.fields["data.num_records"] == 20
    assert min(np.bincount(chosen, minlength=3)) > len(chosen) / 5  # each of an owner's rows has its turn


def test_each_view_of_an_owner_is_of_a_row_of_its_own_draw_in_the_owners_group():
    owners = [np.array([3 * i, 3 * i + 1, 3 * i + 2]) for i in range(20)]
    plan = make_plan(
        unit=sf.Group(clip_norm=1.0, num_groups=3, views=4),
        sampler=sf.Poisson(num_records=20, expected_batch_size=10),
        steps=10,
    )
    different = total = 0
    for _, batches in loader(Numbers(owners=owners), Source(plan=plan), micro_batch_size=64):
        of_owner: dict[int, set[int]] = {}
        group_of: dict[int, set[int]] = {}
        for micro_batch in batches:
            kept = micro_batch.valid
            for row, group in zip(micro_batch.batch["index"][kept].tolist(), micro_batch.groups[kept].tolist()):
                of_owner.setdefault(row // 3, set()).add(row % 3)
                group_of.setdefault(row // 3, set()).add(group)
        assert all(len(groups) == 1 for groups in group_of.values()), "an owner moves one group"
        different += sum(len(rows) > 1 for rows in of_owner.values())
        total += len(of_owner)
    assert different > 0.8 * total  # four draws of three rows are all alike once in 27 times


def test_the_wrong_number_of_records_is_refused():
    with pytest.raises(BadInput, match=r"declares num_records = 60, the data set has 61 rows"):
        loader(Numbers(size=61), Source(), micro_batch_size=4)
    with pytest.raises(BadInput, match="2 owners"):
        loader(Numbers(owners=[[0], [1]]), Source(), micro_batch_size=4)
    with pytest.raises(BadInput, match="without a row"):
        loader(Numbers(owners=[[0], []]), Source(), micro_batch_size=4)


def test_a_hidden_number_of_records_is_not_asked_for():
    plan = make_plan(sampler=sf.Poisson(sampling_prob=0.1, expected_batch_size=6.0))
    assert len(list(loader(Numbers(size=77), Source(plan=plan), micro_batch_size=4))) == STEPS


def test_a_micro_batch_size_of_zero_is_refused():
    with pytest.raises(BadInput, match="micro_batch_size"):
        loader(Numbers(), Source(), micro_batch_size=0)


def test_collate_errors_do_not_quote_rows():
    def collate(rows: list[Any]) -> Any:
        raise ValueError(f"cannot stack {rows}")

    with pytest.raises(BadInput, match=r"collate_fn failed \(ValueError\): it gets one row") as error:
        loader(Numbers(), Source(), micro_batch_size=4, collate_fn=collate)
    assert "index" not in str(error.value)
    assert error.value.__cause__ is None


def test_collate_fn_cannot_couple_rows():
    """Mixup, a mean over the batch: each row is collated by itself, with its own random state."""
    given = []

    def collate(rows: list[Any]) -> Any:
        given.append(len(rows))
        batch = default_collate(rows)
        return {**batch, "mixed": batch["noise"] - batch["noise"].mean(0) + random.random()}

    _, batches = next(iter(loader(Numbers(), Source(), micro_batch_size=4, collate_fn=collate)))
    found = {}
    for micro_batch in batches:
        places = micro_batch.batch["index"].tolist()
        found |= dict(zip(places, micro_batch.batch["mixed"].tolist()))
    assert set(given) == {1}
    assert len(set(found.values())) == len(found) > 1
    _, again = next(iter(loader(Numbers(), Source(), micro_batch_size=7, collate_fn=collate)))
    for micro_batch in again:
        for place, value in zip(micro_batch.batch["index"].tolist(), micro_batch.batch["mixed"].tolist()):
            assert value == found[place], "a function of the row and its key alone"


def swapped(rows: list[Any]) -> Any:
    """A row with half of its neighbour's, as mixup makes it."""
    noise = default_collate(rows)["noise"]
    return {"x": noise + noise.flip(0)}


def centred(rows: list[Any]) -> Any:
    noise = default_collate(rows)["noise"]
    return {"x": noise - noise.mean(0)}


@pytest.mark.parametrize("collate", [swapped, centred])
def test_a_collate_fn_that_mixes_rows_is_refused_by_name(collate):
    with pytest.raises(BadInput, match="two rows something else than of each alone"):
        loader(Numbers(), Source(), micro_batch_size=4, collate_fn=collate)


def test_a_collate_fn_that_takes_one_row_or_draws_for_it_passes():
    def one(rows: list[Any]) -> Any:
        (row,) = rows
        return torch.tensor([row["noise"]])

    def masked(rows: list[Any]) -> Any:
        noise = default_collate(rows)["noise"]
        return torch.where(torch.rand(len(rows)) < 0.5, noise, torch.rand(len(rows)))

    for collate in (one, masked, default_collate):
        assert loader(Numbers(), Source(), micro_batch_size=4, collate_fn=collate)


@pytest.mark.parametrize(
    ("collate", "words"),
    [
        (lambda rows: torch.zeros(3, 2), "lead with the rows"),
        (lambda rows: {"text": [object()], "x": torch.zeros(1)}, "lead with the rows"),
        (lambda rows: "no tensor", "lead with the rows"),
        (lambda rows: torch.zeros(1, 1 + int(rows[0]["index"]) % 3), "one public length"),
        (lambda rows: {"name": str(rows[0]["index"]), "x": torch.zeros(1)}, "leave out texts and names"),
    ],
)
def test_rows_without_one_public_form_are_refused_before_the_first_step(collate, words):
    with pytest.raises(BadInput, match=words):
        loader(Numbers(), Source(), micro_batch_size=4, collate_fn=collate)


def test_a_constant_that_is_no_tensor_goes_with_the_batch():
    def collate(rows: list[Any]) -> Any:
        return {**default_collate(rows), "return_loss": True}

    micro_batch = next(iter(next(iter(loader(Numbers(), Source(), micro_batch_size=4, collate_fn=collate)))[1]))
    assert micro_batch.batch["return_loss"] is True


def test_the_users_random_state_is_not_touched():
    state = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    for _, batches in loader(Globals(), Source(), micro_batch_size=4):
        list(batches)
    assert torch.equal(torch.get_rng_state(), state[0])
    assert np.random.get_state()[1].tolist() == state[1]
    assert random.getstate() == state[2]


def test_seeded_restores_after_an_error():
    before = random.getstate()
    with pytest.raises(KeyError), seeded(bytes(32)):
        raise KeyError
    assert random.getstate() == before


def test_only_the_type_of_an_exception_is_kept():
    assert Rows(Numbers(broken=[3]))[RowRequest(3, bytes(32))][1] == Failed("ValueError")


def test_interrupts_are_not_failures():
    class Interrupted(Numbers):
        def draw(self, index: int, rng: Any) -> Any:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Rows(Interrupted())[RowRequest(0, bytes(32))]


def test_assemble_fills_with_a_row_that_could_be_read():
    request = RowRequest(0, bytes(32))
    made = Assemble(micro_batch_size=4)(
        [(request, Failed("E")), (request, torch.tensor([7])), (request, torch.tensor([8]))]
    )
    assert made.batch.tolist() == [7, 8, 7, 7]
    assert made.micro_batch(4).valid.tolist() == [True, True, False, False]
    assert made.failures == ("E",)


def test_memory_does_not_grow_with_the_logical_batch():
    """A draw of 4,000 rows holds one micro-batch of tensors at a time."""
    made: list[int] = []
    plan = make_plan(sampler=sf.FullBatch(num_records=4_000), steps=1)

    def collate(rows: list[Any]) -> Any:
        made.append(len(rows))
        return torch.zeros(len(rows))

    _, batches = next(iter(loader(Numbers(size=4_000), Source(plan=plan), micro_batch_size=50, collate_fn=collate)))
    made.clear()
    for count, _ in enumerate(batches):
        assert len(made) == 50 * (count + 1)
    assert len(made) == 4_000


def test_a_data_set_that_cannot_be_read_is_refused(tmp_path):
    with Run(tmp_path, dataset=Records(broken=range(NUM_RECORDS))) as run:
        with pytest.raises(BadInput, match="none of 16 rows that were tried can be read: the data set raises OSE") as e:
            run.train(until=1)
        assert "quotes" not in str(e.value)


def test_draws_may_fail_whole(tmp_path):
    dataset = Records()
    with Run(tmp_path, dataset=dataset) as run:
        batches = run.loader()
        dataset.broken = range(NUM_RECORDS)
        for step, micro_batches in batches:
            run.private.backward(step, micro_batches)
        assert run.private.step == STEPS


def test_a_row_of_another_shape_is_its_own_failure(tmp_path):
    """Whether a run ends must not hang on one record."""

    class Ragged(Records):
        odd = ()

        def __getitem__(self, index: int) -> Any:
            return torch.zeros(7 if index in self.odd else 6), index % 3

    dataset = Ragged()
    with Run(tmp_path, dataset=dataset) as run:
        batches = run.loader()
        dataset.odd = range(0, NUM_RECORDS, 2)
        for step, micro_batches in batches:
            run.private.backward(step, micro_batches)
        assert run.private.step == STEPS
    failures = [json.loads(line)["failures"] for line in (tmp_path / "private/log.jsonl").read_text().splitlines()]
    assert {kind for one in failures for kind in one} == {"another form"}


class Stream(torch.utils.data.IterableDataset):
    """Rows without numbers."""

    def __iter__(self):
        return iter(range(NUM_RECORDS))


class Sized(Stream):
    """Rows without numbers, and how many."""

    def __len__(self):
        return NUM_RECORDS


@pytest.mark.parametrize("dataset", [Stream(), Sized(), (row for row in range(3)), {1, 2, 3}, 7])
def test_rows_that_have_no_number_are_refused_by_name(dataset: Any) -> None:
    with pytest.raises(BadInput, match=rf"the data set is a {type(dataset).__name__}, .* map-style"):
        loader(dataset, Source(), micro_batch_size=4)
