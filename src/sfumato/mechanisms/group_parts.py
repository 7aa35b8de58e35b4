"""Groups that are larger than a micro-batch, or spread over ranks: embedded first, then back-propagated in parts into
one sum, which is clipped at its end.

The rows of a part belong to one group, whose gradient is clipped whatever it is; still each row adds what it adds
alone: the passes follow certified paths, or go row by row.
"""

from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from sfumato import norms
from sfumato.base import BadInput
from sfumato.mechanisms.alone import seeds_of_rows
from sfumato.mechanisms.batch import LogicalBatch, MicroBatch, Sums
from sfumato.mechanisms.clip import ClipFactor, check_factors
from sfumato.mechanisms.computation import Computation
from sfumato.mechanisms.embedded import Embedded, Ranks, Reseed, all_ranks
from sfumato.mechanisms.group_loss import GroupLoss, Part
from sfumato.mechanisms.silence import keep_silent
from sfumato.plan import Group


def first_pass(
    loss: GroupLoss, computation: Computation, micro_batch: MicroBatch, measured: Any, reseed: Reseed
) -> tuple[Embedded | None, int]:
    """Return what is kept of the rows of a part (None if all raised), and how many rows raised.

    Args:
        reseed: called with -1 before a joint pass, with the place of a row before that row alone.
    """
    reseed(-1)
    try:
        return loss.first(micro_batch, measured), 0
    except Exception as error:  # off the certified paths, or a row that the model does not take: each row alone
        keep_silent(error)
        made = rows_alone(loss, computation, micro_batch, micro_batch.valid, reseed)
        raised = int(micro_batch.valid.sum()) - len(made)
        return (loss.first_alone(micro_batch, made) if made else None), raised


def second_pass(
    loss: GroupLoss,
    computation: Computation,
    micro_batch: MicroBatch,
    measured: Any,
    usable: Tensor,
    places: slice,
    reseed: Reseed,
) -> Part | None:
    """Return what a part adds to its group; None where no row of it is usable. Arguments as of `first_pass`."""
    reseed(-1)
    try:
        return loss.part(micro_batch, measured, usable, places)
    except Exception as error:
        keep_silent(error)
        return _alone(loss, computation, micro_batch, usable, places, reseed)


def _alone(
    loss: GroupLoss, computation: Computation, micro_batch: MicroBatch, usable: Tensor, places: slice, reseed: Reseed
) -> Part | None:
    found: Part | None = None
    for place in (usable & micro_batch.valid).nonzero().squeeze(1).tolist():
        only = torch.zeros_like(usable)
        only[place] = True
        for made in rows_alone(loss, computation, micro_batch, only, reseed).values():
            try:
                part = loss.row_part(made, places.start + place)
            except Exception:
                continue
            found = part if found is None else found.plus(part)
    return found


def rows_alone(
    loss: GroupLoss, computation: Computation, micro_batch: MicroBatch, rows: Tensor, reseed: Reseed
) -> dict[int, Any]:
    """Return what the model makes of each of `rows` (bool (N,)) alone, by its place; rows that raise are left out."""
    made = {}
    for place in rows.nonzero().squeeze(1).tolist():
        reseed(place)
        try:
            with torch.enable_grad(), (computation.autocast or nullcontext)():
                made[place] = loss.rows(computation.model, norms.row_of(micro_batch.batch, place))
        except Exception:
            continue
    return made


def add_in_parts(
    sums: Sums,
    loss: GroupLoss,
    computation: Computation,
    micro_batches: LogicalBatch,
    parts: dict[int, Embedded],
    unit: Group,
    factor: ClipFactor,
    reseed: Reseed,
    ranks: Ranks,
    measured: Any,
) -> None:
    """Add the groups whose rows were embedded into `parts`; every rank goes through all of them in one order."""
    rows, begin = all_ranks(list(parts.values()), ranks, sums.flat.device)
    present = rows.groups[rows.usable].unique().tolist()
    if not present:
        return
    losses = loss.settle(rows)
    mine = _Ahead(_placed(micro_batches, parts, begin))
    for group in present:
        total = Sums(computation.parameters)
        for chunk, micro_batch, places in mine.up_to(group):
            own = seeds_of_rows(reseed, chunk)
            part = second_pass(loss, computation, micro_batch, measured, parts[chunk].usable, places, own)
            if part is not None:
                total.add(part.grads)
                sums.count(nonfinite=part.num_nonfinite, loss_sum=part.loss)
        ranks.add_up(total.flat)
        _add_one(sums, total, unit, factor, ranks.first)
    if ranks.first:
        sums.count(loss_sum=losses)


Placed = tuple[int, MicroBatch, slice]


def _placed(micro_batches: LogicalBatch, parts: dict[int, Embedded], begin: int) -> Iterator[Placed]:
    """Yield the micro-batches in parts again, with the places of their rows among those of all ranks."""
    for chunk, micro_batch in enumerate(micro_batches):
        if chunk in parts:
            yield chunk, micro_batch, slice(begin, begin + len(micro_batch.valid))
            begin += len(micro_batch.valid)


class _Ahead:
    """Micro-batches of one group each, in the order of their groups, handed out group by group without keeping any."""

    def __init__(self, placed: Iterator[Placed]) -> None:
        self._placed = placed
        self._next = next(placed, None)

    def up_to(self, group: int) -> Iterator[Placed]:
        """Yield those of `group`; earlier groups, of which no row is usable, are passed over."""
        while self._next is not None and (own := _only_group(self._next[1])) <= group:
            if own == group:
                yield self._next
            self._next = next(self._placed, None)


def _only_group(micro_batch: MicroBatch) -> int:
    assert micro_batch.groups is not None
    found = micro_batch.groups[micro_batch.valid].unique().tolist()
    if len(found) != 1:
        raise BadInput("a micro-batch in parts holds rows of one group.")
    return found[0]


def _add_one(sums: Sums, total: Sums, unit: Group, factor: ClipFactor, first: bool) -> None:
    norm = torch.linalg.vector_norm(total.gradient)
    weight = factor(norm[None])
    check_factors(weight, norm[None], torch.isfinite(norm)[None], unit.clip_norm)
    if first and bool(torch.isfinite(norm)):
        sums.gradient.add_(total.gradient, alpha=float(weight))
        sums.count(clipped=(weight[0] < 1.0).double())
