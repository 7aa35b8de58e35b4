"""From drawn records to micro-batches of constant shape; runs in the loader's workers.

A row is a function of the data set, its index and its own key: not of the worker that made it, nor of the rows before.
A record that cannot be read stays a record: it contributes nothing, and is counted in private.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils.data import Dataset, default_collate

from sfumato.base import BadInput, seeds
from sfumato.mechanisms import MicroBatch
from sfumato.train.hush import hushed
from sfumato.train.own_rows import check_reads_alone

CollateFn = Callable[[list[Any]], Any]
_TRIED = 16  # rows that the form of all is seen from


class RowRequest(NamedTuple):
    """One row to make, the key of its augmentation, and where it belongs under a group unit."""

    row: int
    key: bytes
    group: int = -1
    record: int = -1
    in_parts: bool = False


@dataclass(frozen=True)
class Failed:
    """A row that could not be made. Of the exception only its type is kept: its text may quote the record."""

    error: str
    by_collate: bool = False


@dataclass(frozen=True, kw_only=True)
class Assembled:
    """A micro-batch as it comes from a worker; `end` marks the end of a logical batch."""

    batch: Any = None
    made: tuple[RowRequest, ...] = ()
    failures: tuple[str, ...] = ()
    end: bool = False

    def micro_batch(self, size: int) -> MicroBatch:
        """Return it as what mechanisms take, `size` rows with the filling; without a batch, what failed alone."""
        groups, records = ([getattr(request, name) for request in self.made] for name in ("group", "record"))
        grouped = any(group >= 0 for group in groups)
        filling = [-1] * (size - len(self.made))
        return MicroBatch(
            batch=self.batch,
            valid=torch.arange(size) < len(self.made),
            groups=torch.tensor([*groups, *filling]) if grouped else None,
            records=torch.tensor([*records, *filling]) if grouped else None,
            in_parts=any(request.in_parts for request in self.made),
            failures=self.failures,
        )


@dataclass(frozen=True)
class Form:
    """What is public of a row: structure, types and shapes of the batch of it alone."""

    structure: Any
    leaves: tuple[Any, ...]

    @classmethod
    def of(cls, batch: Any) -> "Form":
        """Return the form of a batch; a leaf that is no tensor stands for itself where it is a plain constant."""
        leaves, structure = pytree.tree_flatten(batch)
        return cls(
            structure,
            tuple((x.dtype, x.shape, x.device.type) if isinstance(x, Tensor) else _constant(x) for x in leaves),
        )

    def batch(self, num_rows: int) -> Any:
        """Return a batch of this form with `num_rows` rows of zeros."""
        leaves = [
            torch.zeros(num_rows, *leaf[1][1:], dtype=leaf[0]) if isinstance(leaf, tuple) else leaf
            for leaf in self.leaves
        ]
        return pytree.tree_unflatten(leaves, self.structure)

    @property
    def leads_with_one(self) -> bool:
        """Whether it has tensors, and nothing but tensors of one row and constants."""
        shapes = [leaf[1] for leaf in self.leaves if isinstance(leaf, tuple)]
        return bool(shapes) and object not in self.leaves and all(shape[:1] == (1,) for shape in shapes)


def _constant(leaf: Any) -> Any:
    return leaf if leaf is None or isinstance(leaf, bool | int | float | str) else object


class Rows(Dataset):
    """The user's data set, addressed by `RowRequest`: every row as a batch of its own, a failing one as `Failed`.

    `collate_fn` gets one row at a time. So it cannot couple rows, unless it remembers those of earlier calls, and what
    it cannot take is the one row's failure, not the run's.

    Attributes:
        form: that of every row, once it is known; a row of another is `Failed`.
    """

    def __init__(self, dataset: Any, collate_fn: CollateFn | None = None) -> None:
        self._dataset, self._collate_fn = dataset, collate_fn
        self.form: Form | None = None

    def __getitem__(self, request: RowRequest) -> tuple[RowRequest, Any]:
        with hushed():
            made = self._make(request)
            if isinstance(made, Failed):
                return request, made
            try:
                made = self._collated([made], request.key)
            except (Exception, SystemExit) as error:
                return request, Failed(type(error).__name__, by_collate=True)
        other = self.form is not None and Form.of(made) != self.form
        return request, Failed("another form") if other else made

    def _collated(self, rows: list[Any], key: bytes) -> Any:
        if self._collate_fn is None:
            return default_collate(rows)
        with seeded(seeds.derive(key, "collate")):
            return self._collate_fn(rows)

    def _make(self, request: RowRequest) -> Any:
        try:
            return _read(self._dataset, request)
        except (Exception, SystemExit) as error:  # one that would end the process too
            return Failed(type(error).__name__)

    def settle(self) -> None:
        """Settle `form` by some rows at fixed places, which must agree: no row that is drawn later can change it.

        Raises:
            BadInput: none of them can be read or collated, they differ, or they are no tensors that lead with the row.
        """
        places = np.unique(np.linspace(0, len(self._dataset) - 1, _TRIED).astype(int)).tolist()
        made = [self[RowRequest(place, seeds.derive(bytes(32), "form", place))][1] for place in places]
        failed = [one for one in made if isinstance(one, Failed)]
        forms = [Form.of(one) for one in made if not isinstance(one, Failed)]
        if not forms and failed[0].by_collate:
            raise BadInput(f"collate_fn failed ({failed[0].error}): it gets one row at a time, as a list of one.")
        if not forms:
            kind = failed[0].error
            raise BadInput(f"none of {len(places)} rows that were tried can be read: the data set raises {kind}.")
        if any(form != forms[0] for form in forms):
            raise BadInput(
                "rows have different keys, types or shapes: pad every row to one public length (not to the longest of "
                "a batch), and leave out texts and names."
            )
        if not forms[0].leads_with_one:
            raise BadInput("collate_fn must make a nesting of tensors that lead with the rows: (1, ...) of [row].")
        readable = [place for place, one in zip(places, made, strict=True) if not isinstance(one, Failed)][:2]
        for place in readable:
            request = RowRequest(place, seeds.derive(bytes(32), "alone", place))
            check_reads_alone(self._dataset, partial(_read, request=request))
        self._check_apart(readable)
        self.form = forms[0]

    def _check_apart(self, places: list[int]) -> None:
        """Refuse a `collate_fn` that makes of two rows something else than of each: called alone, it would do nothing
        good. One that draws for a row (its result alone differs from key to key) is not asked.
        """
        if self._collate_fn is None or len(places) < 2:
            return
        keys = [seeds.derive(bytes(32), "apart", number) for number in range(2)]
        rows = [self._make(RowRequest(place, seeds.derive(keys[0], place))) for place in places]
        if any(isinstance(row, Failed) for row in rows):
            return
        alone, again = ([self._collated([row], key) for row in rows] for key in keys)
        joined = pytree.tree_map(_joined, *alone)
        if not _equal(joined, pytree.tree_map(_joined, *again)):
            return
        try:
            together = self._collated(rows, keys[0])
        except Exception:
            return  # it takes one row only, and gets one
        if not _equal(together, joined):
            raise BadInput(
                "collate_fn makes of two rows something else than of each alone (mixup, a mean over the batch, padding "
                "to the longest): rows must not meet before they are clipped. Make each row by itself."
            )


def _read(dataset: Any, request: RowRequest) -> Any:
    """Return one row as the data set makes it, under the row's own key."""
    if hasattr(dataset, "draw"):
        return dataset.draw(request.row, seeds.generator(request.key))
    with seeded(request.key):
        return dataset[request.row]


@dataclass(frozen=True, kw_only=True)
class Assemble:
    """Joins the rows that could be made, and fills up to `micro_batch_size` with copies of the first of them.

    Filling keeps the shape of a micro-batch constant: what is added moves nobody's gradient and is masked out.
    """

    micro_batch_size: int

    def __call__(self, outcomes: Sequence[tuple[RowRequest, Any]]) -> Assembled:
        if not outcomes:
            return Assembled(end=True)
        failures = tuple(outcome.error for _, outcome in outcomes if isinstance(outcome, Failed))
        made = tuple(request for request, outcome in outcomes if not isinstance(outcome, Failed))
        rows = [outcome for _, outcome in outcomes if not isinstance(outcome, Failed)]
        if not rows:
            return Assembled(failures=failures)
        filled = rows + [rows[0]] * (self.micro_batch_size - len(rows))
        return Assembled(batch=pytree.tree_map(_joined, *filled), made=made, failures=failures)


def _joined(*leaves: Any) -> Any:
    return torch.cat(leaves) if isinstance(leaves[0], Tensor) else leaves[0]


def _equal(one: Any, other: Any) -> bool:
    (a, structure), (b, like) = pytree.tree_flatten(one), pytree.tree_flatten(other)
    return structure == like and all(torch.equal(x, y) for x, y in zip(a, b) if isinstance(x, Tensor))


@contextmanager
def seeded(key: bytes) -> Iterator[None]:
    """Seed the global generators of torch, numpy and random, and put them back as they were."""
    before = torch.get_rng_state(), np.random.get_state(), random.getstate()
    number = int.from_bytes(key[:8], "big")
    torch.default_generator.manual_seed(number)
    np.random.seed(np.frombuffer(key[8:32], np.uint32))
    random.seed(key)
    try:
        yield
    finally:
        torch.set_rng_state(before[0])
        np.random.set_state(before[1])
        random.setstate(before[2])
