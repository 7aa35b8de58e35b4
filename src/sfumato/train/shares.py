"""Which rows a rank makes at which step, and in which micro-batches.

Single rows and pairs: every `size`-th record of the draw; several rows of one record lie side by side in one
micro-batch. Groups: every record has an id of its own, a function of its place in the data set, of the step and the
seed; the rows of a group lie side by side, in one micro-batch where they fit.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sfumato.base import seeds
from sfumato.plan import Example, Group, Pair, Plan, Unit
from sfumato.train.keys import Keys
from sfumato.train.rows import RowRequest
from sfumato.train.world import World


def views_of(unit: Unit) -> int:
    """Return how many rows a drawn record gives under a unit."""
    return unit.views if isinstance(unit, Example | Group) else 1


@dataclass(frozen=True, kw_only=True)
class Shares:
    """The requests of one rank for one attempt: iterating gives those of each micro-batch.

    Kept apart from `Loader`, which owns the worker processes: they are stopped as soon as it is dropped.
    """

    plan: Plan
    world: World
    owners: Any
    num_records: int
    micro_batch_size: int
    keys: Keys
    first_step: int

    @property
    def order(self) -> Iterator[int]:
        """The steps in which logical batches come; one that couples rows over micro-batches is gone through twice."""
        twice = isinstance(self.plan.unit, Pair) or self._in_parts
        for step in range(self.first_step, self.plan.steps):
            yield from [step] * (2 if twice else 1)

    @property
    def _in_parts(self) -> bool:
        """Whether groups are spread over micro-batches and ranks: decided by public numbers, once for a run."""
        unit = self.plan.unit
        if not isinstance(unit, Group):
            return False
        expected = unit.views * self.plan.batch_size / unit.num_groups
        return expected > self.micro_batch_size or unit.num_groups < self.world.size

    def __iter__(self) -> Iterator[list[RowRequest]]:
        """The micro-batches of all logical batches in their order, with an empty list at the end of each."""
        for step in self.order:
            draw = self.plan.sampler.draw(self.keys.key("draw", step), self.num_records)
            share = draw[self.world.rank :: self.world.size].tolist()
            if isinstance(self.plan.unit, Group):
                yield from self._grouped(step, draw, self.plan.unit)
            elif (views := views_of(self.plan.unit)) > 1:
                yield from self._packed([self._views(step, record, views, record) for record in share])
            else:
                yield from self._cut([self._request(step, record) for record in share])
            yield []

    def _cut(self, requests: Sequence[RowRequest]) -> Iterator[list[RowRequest]]:
        for start in range(0, len(requests), self.micro_batch_size):
            yield list(requests[start : start + self.micro_batch_size])

    def _grouped(self, step: int, draw: np.ndarray, unit: Group) -> Iterator[list[RowRequest]]:
        groups: dict[int, list[RowRequest]] = {}
        for record in draw.tolist():
            group = int(seeds.integers(self.keys.key("group", step, record), 1, unit.num_groups)[0])
            groups.setdefault(group, []).extend(self._views(step, record, unit.views, group))
        members = [groups[group] for group in sorted(groups)]
        if self._in_parts:
            for group in members:
                share = [request._replace(in_parts=True) for request in group[self.world.rank :: self.world.size]]
                yield from self._cut(share)
            return
        mine = [group for group in members if group[0].group % self.world.size == self.world.rank]
        yield from self._packed(mine)

    def _packed(self, groups: list[list[RowRequest]]) -> Iterator[list[RowRequest]]:
        """Fill micro-batches with whole groups; one that fits in none is cut, and marked so."""
        filling: list[RowRequest] = []
        for group in groups:
            if len(filling) + len(group) > self.micro_batch_size and filling:
                yield filling
                filling = []
            if len(group) > self.micro_batch_size:
                yield from self._cut([request._replace(in_parts=True) for request in group])
            else:
                filling += group
        if filling:
            yield filling

    def _views(self, step: int, record: int, views: int, group: int) -> list[RowRequest]:
        return [self._request(step, record, view, group) for view in range(views)]

    def _request(self, step: int, record: int, view: int = 0, group: int = -1) -> RowRequest:
        path = (record, view) if view else (record,)
        key = self.keys.key("augment", step, *path)
        row = record
        if self.owners is not None:
            rows = np.asarray(self.owners[record])
            row = int(rows[seeds.integers(self.keys.key("owner", step, *path), 1, len(rows))[0]])
        return RowRequest(row, key, group=group, record=record if group >= 0 else -1)
