"""The group unit: the gradient of each group of rows is clipped by itself and added up over the micro-batches of the
step.

Most groups lie within one micro-batch: their gradients come out of one backward pass together, with the group as the
unit of the norm engine. A group that is larger than a micro-batch, or spread over ranks (batch clipping above all), is
embedded first and back-propagated in parts into one sum, which is clipped at its end.
"""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from sfumato.base import BadInput
from sfumato.mechanisms.batch import Clipped, LogicalBatch, MicroBatch, Sums, Tally
from sfumato.mechanisms.clip import ClipFactor, check_factors
from sfumato.mechanisms.computation import Computation, LossFn, MeasureOnce
from sfumato.mechanisms.embedded import Embedded, Ranks, Reseed, all_ranks, gradients, only_fit
from sfumato.mechanisms.group_loss import GroupLoss, NotFinite, group_loss
from sfumato.norms import ClippedSum
from sfumato.plan import Example, Group


def clip_groups(
    computation: Computation,
    micro_batches: LogicalBatch,
    unit: Group,
    factor: ClipFactor,
    *,
    measure: MeasureOnce,
    reduce: Callable[[Tensor], None],
    reseed: Reseed,
    ranks: Ranks,
) -> tuple[Clipped, Tally]:
    """Return sum over groups of factor(norm_g) G_g, G_g the gradient of the mean loss over the usable rows of group g.

    Presence and swap are the unit's own (2C, proof at `plan.Group`): a group enters once, with its own factor.

    Args:
        measure, reduce, reseed: as for `clip_examples`.
        ranks: how groups that are spread over ranks come together.

    Raises:
        BadInput: the micro-batches have no groups.
    """
    loss = group_loss(computation)
    sums = Sums(computation.parameters)
    parts: dict[int, Embedded] = {}
    for chunk, micro_batch in enumerate(micro_batches):
        sums.count(rows=micro_batch.valid.sum() + len(micro_batch.failures), failed=len(micro_batch.failures))
        if micro_batch.batch is None:
            continue
        measured = measure(micro_batch)
        reseed(chunk)
        if micro_batch.in_parts:
            parts[chunk] = loss.first(micro_batch)
            sums.count(nonfinite=(micro_batch.valid & ~parts[chunk].usable).sum())
        else:
            add_whole(sums, loss, computation, micro_batch, measured, unit, factor, lambda c=chunk: reseed(c))
    _add_in_parts(sums, loss, computation, micro_batches, parts, unit, factor, reseed, ranks)
    reduce(sums.flat)
    return sums.clipped(unit), sums.tally()


# ---------------------------------------------------------------- groups within a micro-batch


def add_whole(
    sums: Sums,
    loss: GroupLoss,
    computation: Computation,
    micro_batch: MicroBatch,
    measured: Any,
    unit: Group | Example,
    factor: ClipFactor,
    reseed: Callable[[], None],
) -> None:
    """Add the clipped gradients of the groups (or of the records of several rows) of one micro-batch."""
    sizes, used = sizes_of(micro_batch)
    drawn = micro_batch.valid.sum()
    while True:
        try:
            result = clip_whole(computation, loss.whole(micro_batch, sizes), micro_batch, measured, factor, sizes, used)
            break
        except NotFinite as found:
            fit = only_fit(micro_batch, found.fit)
            if fit is None:
                sums.count(nonfinite=drawn)
                return
            micro_batch = fit
            reseed()
    finite = used & torch.isfinite(result.norms) & torch.isfinite(result.losses)
    check_factors(result.factors, result.norms, finite, unit.clip_norm)
    sums.add(result.grads)
    sums.count(
        nonfinite=drawn - micro_batch.valid.sum(),
        clipped=(finite & (result.factors < 1.0)).sum(),
        loss_sum=torch.where(finite, result.losses.double(), 0.0).sum(),
    )


def clip_whole(
    computation: Computation,
    loss_fn: LossFn,
    micro_batch: MicroBatch,
    measured: Any,
    factor: ClipFactor,
    sizes: list[int],
    used: Tensor,
) -> ClippedSum:
    """Return the clipped sum of the groups of one micro-batch, `sizes` in the order of their rows, from their losses
    (G,); padding is not `used`.
    """
    if int(used.sum()) == 1:
        return _clipped_alone(computation, loss_fn, micro_batch, factor, sizes)
    return computation.engine.clipped_sum(
        computation.model,
        loss_fn,
        micro_batch.batch,
        measured,
        factor,
        valid=used,
        loss_scale=computation.loss_scale,
        autocast=computation.autocast,
        units=sizes,
    )


def _clipped_alone(
    computation: Computation, loss_fn: LossFn, micro_batch: MicroBatch, factor: ClipFactor, sizes: list[int]
) -> ClippedSum:
    """Return what the engine returns, where there is one group, the first: from an ordinary backward pass."""
    with torch.enable_grad(), (computation.autocast or nullcontext)():
        losses = loss_fn(computation.model, micro_batch.batch)
    grads = gradients(computation, [losses[0]], [torch.ones_like(losses[0])])
    squares = [torch.linalg.vector_norm(grad).square() for grad in grads.values()]
    norm = torch.stack(squares).sum().sqrt()
    usable = norm.isfinite() & losses[0].detach().isfinite()
    norms = norm.new_full((len(sizes),), torch.inf)
    factors = torch.zeros_like(norms)
    if bool(usable):
        norms[0], factors[0] = norm, factor(norm[None])[0]
        grads = {name: grad * factors[0] for name, grad in grads.items()}  # in place would scale what two share twice
    else:
        grads = {name: torch.zeros_like(grad) for name, grad in grads.items()}
    return ClippedSum(grads, norms, factors, losses.detach())


def sizes_of(micro_batch: MicroBatch) -> tuple[list[int], Tensor]:
    """Return the sizes of the groups in their order, padding as further ones behind, and which are no padding.

    Padding is cut into groups no larger than the others, for groups of unequal sizes cost as much as the largest.
    """
    if micro_batch.groups is None:
        raise BadInput("rows clipped together need micro-batches that name the group of each: take those of sf.loader.")
    count = int(micro_batch.valid.sum())
    ids, sizes = torch.unique_consecutive(micro_batch.groups[:count], return_counts=True)
    if not bool(micro_batch.valid[:count].all()) or len(ids.unique()) != len(ids):
        raise BadInput("the rows of a group stand side by side, and padding behind all of them.")
    padding = len(micro_batch.valid) - count
    most = int(sizes.max()) if len(sizes) else max(padding, 1)
    behind = [most] * (padding // most) + ([padding % most] if padding % most else [])
    used = torch.ones(len(sizes) + len(behind), dtype=torch.bool, device=micro_batch.valid.device)
    used[len(sizes) :] = False
    return [*sizes.tolist(), *behind], used


# ---------------------------------------------------------------- groups in parts


def _add_in_parts(
    sums: Sums,
    loss: GroupLoss,
    computation: Computation,
    micro_batches: LogicalBatch,
    parts: dict[int, Embedded],
    unit: Group,
    factor: ClipFactor,
    reseed: Reseed,
    ranks: Ranks,
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
            reseed(chunk)
            part = loss.part(micro_batch, parts[chunk].usable, places)
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
