"""The loader: draws each step's records by key, and hands them out as a re-iterable of micro-batches.

The draw is one for all ranks (a function of seed, fingerprint, attempt and step); each rank takes its share of it. The
loader that trains is the loader that was accounted: `private.backward` takes no other.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch.utils.data import DataLoader, IterableDataset

from sfumato.base import BadInput
from sfumato.mechanisms import MicroBatch
from sfumato.plan import Example, Plan
from sfumato.train.fingerprint import data_fields
from sfumato.train.keys import Keys
from sfumato.train.rows import Assemble, Assembled, CollateFn, Rows
from sfumato.train.shares import Shares
from sfumato.train.workers import default_sigchld
from sfumato.train.world import World


class Run(Protocol):
    """What a loader needs of the run that it draws for."""

    @property
    def plan(self) -> Plan: ...
    @property
    def world(self) -> World: ...
    @property
    def step(self) -> int: ...
    @property
    def keys(self) -> Keys: ...
    def bind(self, fields: Mapping[str, Any]) -> None:
        """Settle the fingerprint (and with it the attempt) by the data fields; called before the first draw."""
        ...


def loader(
    dataset: Any,
    private: Run,
    *,
    micro_batch_size: int,
    collate_fn: CollateFn | None = None,
    num_workers: int = 0,
    prefetch_factor: int = 2,
) -> "Loader":
    """Return an iterable of (step, micro_batches), from `private.step` to the last step of the plan.

    Args:
        dataset: map-style (`len`, `[index]`). Each row must be made of one record alone: a data set that mixes records
            (mixup, neighbours) cannot be seen from outside but where it reads several entries of a sequence of its
            own, which is refused. Optional: `draw(index, rng)`, a row augmented by a numpy generator
            (without it `dataset[index]` runs under seeded global generators); `manifest()`, a dict that names the
            data for the fingerprint; `owners`, a list of arrays: the rows of each owner. With owners a record is an
            owner, and a drawn owner gives one row by its own key, or as many as the unit's `views`.
        private: the `PrivateGradients` (or the baseline) to draw for.
        micro_batch_size: rows processed together. Logical batches of any size run in its memory.
        collate_fn: as in torch, but called with one row at a time, `[row]`, so that it cannot couple rows; what it
            makes must lead with that row, (1, ...), in one public shape: pad to a public length. Default: torch's.
        num_workers: processes that make rows ahead; results do not depend on it.
        prefetch_factor: micro-batches made ahead by each worker.

    Raises:
        BadInput: the data set is iterable only, or has not the number of records that the plan declares, or an owner
            has no row; or rows at fixed places (16 at most are tried) cannot be read, or differ in keys, types or
            shapes. A row that is found to be so later is a private matter: it contributes nothing.
    """
    if micro_batch_size < 1:
        raise BadInput(f"micro_batch_size must be >= 1, got {micro_batch_size}.")
    unit = private.plan.unit
    if isinstance(unit, Example) and unit.views > micro_batch_size:
        raise BadInput(f"micro_batch_size = {micro_batch_size} must hold the {unit.views} rows of a record.")
    owners = getattr(dataset, "owners", None)
    if owners is not None and any(len(rows) == 0 for rows in owners):
        raise BadInput("dataset.owners names an owner without a row: leave it out, and count N without it.")
    if not _has_numbered_rows(dataset):
        raise BadInput(
            f"the data set is a {type(dataset).__name__}, which is iterated over: records are drawn by number, so it "
            "needs a length and dataset[index] (a map-style data set), such as list(dataset)."
        )
    num_records = len(dataset if owners is None else owners)
    declared = private.plan.sampler.num_records
    if declared not in (None, num_records):
        raise BadInput(
            f"the plan declares num_records = {declared}, the data set has {num_records} "
            f"{'rows' if owners is None else 'owners'}: plan again with the right number."
        )
    rows = Rows(dataset, collate_fn)
    rows.settle()
    fields = {**data_fields(dataset, declared), "micro_batch_size": micro_batch_size}
    private.bind(fields)
    return Loader(
        run=private,
        fields=fields,
        rows=rows,
        owners=owners,
        num_records=num_records,
        assemble=Assemble(micro_batch_size=micro_batch_size),
        num_workers=num_workers,
        prefetch_factor=prefetch_factor,
    )


def _has_numbered_rows(dataset: Any) -> bool:
    """Whether a data set gives its rows by number, and says how many records there are."""
    by_number = hasattr(dataset, "__getitem__") and not isinstance(dataset, IterableDataset)
    return (hasattr(dataset, "draw") or by_number) and (hasattr(dataset, "__len__") or hasattr(dataset, "owners"))


@dataclass(frozen=True, kw_only=True, eq=False)
class DrawnBatch:
    """The logical batch of one step: iterating gives this rank's micro-batches, again and again the same.

    Should the run move to a new attempt between two iterations, the second one is that attempt's draw.
    """

    loader: "Loader" = field(repr=False)
    step: int

    @property
    def run(self) -> Run:
        """The run that it was drawn for."""
        return self.loader.run

    @property
    def template(self) -> MicroBatch:
        """A micro-batch of zeros in the form of those that train."""
        size, form = self.loader.assemble.micro_batch_size, self.loader.rows.form
        assert form is not None, "settled before the loader is made"
        return MicroBatch(batch=form.batch(size), valid=torch.ones(size, dtype=torch.bool))

    def to(self, *_: Any, **__: Any) -> "DrawnBatch":
        """Return itself, to trainers that move every batch: its rows are made later, on the model's device."""
        return self

    def __iter__(self) -> Iterator[MicroBatch]:
        size = self.loader.assemble.micro_batch_size
        for made in self.loader.assembled(self.step):
            yield made.micro_batch(size)


@dataclass(kw_only=True, eq=False)
class Loader:
    """Iterable of (step, DrawnBatch); made by `loader`. Holds at most one stream of micro-batches made ahead."""

    run: Run
    fields: Mapping[str, Any]
    rows: Rows
    owners: Any
    num_records: int
    assemble: Assemble
    num_workers: int
    prefetch_factor: int
    _stream: Iterator[Assembled] | None = field(default=None, repr=False)
    _keys: Keys | None = field(default=None, repr=False)  # under which the stream was begun
    _order: Iterator[int] = field(
        default_factory=lambda: iter(()), repr=False
    )  # the steps that the stream goes through
    _upcoming: int | None = field(
        default=None, repr=False
    )  # the step that the stream stands before; None: in its midst

    def __len__(self) -> int:
        """The number of steps left."""
        return max(self.run.plan.steps - self.run.step, 0)

    def __iter__(self) -> Iterator[tuple[int, DrawnBatch]]:
        for step in range(self.run.step, self.run.plan.steps):
            yield step, DrawnBatch(loader=self, step=step)

    def assembled(self, step: int) -> Iterator[Assembled]:
        """Yield the micro-batches of one step from the stream, which is begun anew where it stands elsewhere."""
        if self._keys != self.run.keys or self._upcoming != step or self._stream is None:
            self._stream = self._begin(self.run.keys, step)
        stream, self._upcoming = self._stream, None
        for made in self._one_thread(stream):
            if made.end:
                self._upcoming = next(self._order, None)
                return
            yield made

    def _one_thread(self, stream: Iterator[Assembled]) -> Iterator[Assembled]:
        """Make rows with one thread, as workers do: their bits do not depend on where they are made."""
        threads = torch.get_num_threads()
        if self.num_workers or threads == 1:
            yield from stream
            return
        while True:
            torch.set_num_threads(1)
            try:
                made = next(stream, None)
            finally:
                torch.set_num_threads(threads)
            if made is None:
                return
            yield made

    def _begin(self, keys: Keys, step: int) -> Iterator[Assembled]:
        shares = Shares(
            plan=self.run.plan,
            world=self.run.world,
            owners=self.owners,
            num_records=self.num_records,
            micro_batch_size=self.assemble.micro_batch_size,
            keys=keys,
            first_step=step,
        )
        self._keys, self._order = keys, iter(shares.order)
        next(self._order)
        rows = DataLoader(
            self.rows,
            batch_sampler=shares,  # pyright: ignore[reportArgumentType]
            collate_fn=self.assemble,
            num_workers=self.num_workers,
            prefetch_factor=self.prefetch_factor if self.num_workers else None,
            generator=torch.Generator(),  # otherwise it takes a number from the user's global generator
        )
        with default_sigchld():
            return iter(rows)
