"""From drawn records to micro-batches of constant shape; runs in the loader's workers.

A row is a function of the data set, its index and its own key: not of the worker that made it, nor of the rows before.
A record that cannot be read stays a record: it contributes nothing, and is counted in private.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset, default_collate

from sfumato.base import seeds
from sfumato.mechanisms import MicroBatch

CollateFn = Callable[[list[Any]], Any]


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


@dataclass(frozen=True, kw_only=True)
class Assembled:
    """A micro-batch as it comes from a worker; `end` marks the end of a logical batch."""

    batch: Any = None
    made: tuple[RowRequest, ...] = ()
    failures: tuple[str, ...] = ()
    problem: str = ""
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


class Rows(Dataset):
    """The user's data set, addressed by `RowRequest`. A failing row comes back as `Failed`."""

    def __init__(self, dataset: Any) -> None:
        self._dataset = dataset

    def __getitem__(self, request: RowRequest) -> tuple[RowRequest, Any]:
        return request, self._make(request)

    def _make(self, request: RowRequest) -> Any:
        try:
            if hasattr(self._dataset, "draw"):
                return self._dataset.draw(request.row, seeds.generator(request.key))
            with seeded(request.key):
                return self._dataset[request.row]
        except Exception as error:
            return Failed(type(error).__name__)


@dataclass(frozen=True, kw_only=True)
class Assemble:
    """Collates the rows that could be made, and fills up to `micro_batch_size` with copies of the first of them.

    Filling keeps the shape of a micro-batch constant: what is added moves nobody's gradient and is masked out.
    """

    micro_batch_size: int
    collate_fn: CollateFn | None = None

    def __call__(self, outcomes: Sequence[tuple[RowRequest, Any]]) -> Assembled:
        if not outcomes:
            return Assembled(end=True)
        failures = tuple(outcome.error for _, outcome in outcomes if isinstance(outcome, Failed))
        made = tuple(request for request, outcome in outcomes if not isinstance(outcome, Failed))
        rows = [outcome for _, outcome in outcomes if not isinstance(outcome, Failed)]
        if not rows:
            return Assembled(failures=failures)
        filled = rows + [rows[0]] * (self.micro_batch_size - len(rows))
        try:
            batch = (self.collate_fn or default_collate)(filled)
        except Exception as error:
            return Assembled(problem=type(error).__name__)
        return Assembled(batch=batch, made=made, failures=failures)


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
