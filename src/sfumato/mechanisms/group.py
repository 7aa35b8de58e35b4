"""The group unit: the gradient of each group of rows is clipped by itself and added up over the micro-batches of the
step.

Most groups lie within one micro-batch: their gradients come out of one backward pass together, with the group as the
unit of the norm engine. A group that is larger than a micro-batch, or spread over ranks (batch clipping above all), is
embedded first and back-propagated in parts into one sum, which is clipped at its end.
"""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sfumato import norms
from sfumato.base import BadInput
from sfumato.mechanisms.alone import Parted, clip_jointly_or_parted, none_of, seeds_of_rows
from sfumato.mechanisms.batch import Clipped, LogicalBatch, MicroBatch, Sums, Tally
from sfumato.mechanisms.clip import ClipFactor, check_factors
from sfumato.mechanisms.computation import Computation, Measure
from sfumato.mechanisms.embedded import Embedded, Ranks, Reseed, gradients, only_fit
from sfumato.mechanisms.group_loss import GroupLoss, NotFinite, group_loss
from sfumato.mechanisms.group_parts import add_in_parts, first_pass
from sfumato.norms import ClippedSum
from sfumato.plan import Example, Group


def clip_groups(
    computation: Computation,
    micro_batches: LogicalBatch,
    unit: Group,
    factor: ClipFactor,
    *,
    measure: Measure,
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
    measured: Any = None
    for chunk, micro_batch in enumerate(micro_batches):
        sums.count(rows=micro_batch.valid.sum() + len(micro_batch.failures), failed=len(micro_batch.failures))
        if micro_batch.batch is None:
            continue
        measured = measure(micro_batch)
        own = seeds_of_rows(reseed, chunk)
        if micro_batch.in_parts:
            part, raised = first_pass(loss, computation, micro_batch, measured, own)
            sums.count(failed=raised)
            if part is not None:
                parts[chunk] = part
                sums.count(nonfinite=(micro_batch.valid & ~part.usable).sum() - raised)
        else:
            add_whole(sums, loss, computation, micro_batch, measured, unit, factor, own)
    add_in_parts(sums, loss, computation, micro_batches, parts, unit, factor, reseed, ranks, measured)
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
    reseed: Reseed,
) -> None:
    """Add the clipped gradients of the groups (or of the records of several rows) of one micro-batch.

    Args:
        reseed: called with -1 before a joint pass, with the place of a row before that row alone.
    """
    whole = clip_groups_of(loss, computation, micro_batch, measured, factor, reseed)
    result = whole.parted.result
    finite = whole.used & torch.isfinite(result.norms) & torch.isfinite(result.losses)
    check_factors(result.factors, result.norms, finite, unit.clip_norm)
    sums.add(result.grads)
    sums.count(
        failed=whole.parted.failed.sum(),
        nonfinite=whole.nonfinite,
        clipped=(finite & (result.factors < 1.0)).sum(),
        alone=whole.parted.alone,
        loss_sum=torch.where(finite, result.losses.double(), 0.0).sum(),
    )


@dataclass(frozen=True, kw_only=True)
class Whole:
    """The groups of one micro-batch: their clipped sum, which of them count, and how many rows are not finite."""

    parted: Parted
    used: Tensor
    nonfinite: int


def clip_groups_of(
    loss: GroupLoss,
    computation: Computation,
    micro_batch: MicroBatch,
    measured: Any,
    factor: ClipFactor,
    reseed: Reseed,
) -> Whole:
    """Return the clipped sum of the groups of one micro-batch: jointly where it follows a certified path, else by the
    definition of a group's contribution (`alone`). Rows that are not finite are left out of their groups.
    """
    sizes, used = sizes_of(micro_batch)
    dropped = 0

    def joint(some: MicroBatch, counted: Tensor) -> ClippedSum:
        nonlocal dropped
        drawn = int(some.valid.sum())
        while True:
            staged = norms.Staged(loss.rows, loss.whole(some, sizes))
            try:
                return clip_whole(computation, staged, some, measured, factor, sizes, counted)
            except NotFinite as found:
                fit = only_fit(some, found.fit)
                dropped = drawn if fit is None else drawn - int(fit.valid.sum())
                if fit is None:
                    return none_of(computation, len(sizes), counted.device)
                some = fit
                reseed(-1)

    ends = torch.tensor(sizes).cumsum(0).tolist()
    places = [tuple(range(end - size, end)) for size, end in zip(sizes, ends, strict=True)]
    parted = clip_jointly_or_parted(computation, loss, micro_batch, places, used, measured, factor, joint, reseed)
    return Whole(parted=parted, used=used, nonfinite=dropped)


def clip_whole(
    computation: Computation,
    loss: norms.Staged,
    micro_batch: MicroBatch,
    measured: Any,
    factor: ClipFactor,
    sizes: list[int],
    used: Tensor,
) -> ClippedSum:
    """Return the clipped sum of the groups of one micro-batch, `sizes` in the order of their rows, from their losses
    (G,); padding is not `used`.

    Raises:
        OffPath: the micro-batch follows no certified path.
    """
    if int(used.sum()) == 1 and bool(used[0]):
        return _clipped_alone(computation, loss, micro_batch, measured, factor, sizes)
    return computation.engine.clipped_sum(
        computation.model,
        loss.rows,
        micro_batch.batch,
        measured,
        factor,
        combine=loss.combine,
        valid=used,
        loss_scale=computation.loss_scale,
        autocast=computation.autocast,
        units=sizes,
    )


def _clipped_alone(
    computation: Computation,
    loss: norms.Staged,
    micro_batch: MicroBatch,
    measured: Any,
    factor: ClipFactor,
    sizes: list[int],
) -> ClippedSum:
    """Return what the engine returns, where there is one group, the first: from an ordinary backward pass."""
    with torch.enable_grad(), (computation.autocast or nullcontext)():
        with norms.following(measured.certified(len(micro_batch.valid)), len(micro_batch.valid)):
            made = loss.rows(computation.model, micro_batch.batch)
        losses = loss.finish(made)
    grads = gradients(computation, [losses[0]], [torch.ones_like(losses[0])])
    norm = norms.length(grads.values()).to(next(iter(grads.values())).dtype)
    usable = norm.isfinite() & losses[0].detach().isfinite()
    norms_of = norm.new_full((len(sizes),), torch.inf)
    factors = torch.zeros_like(norms_of)
    if bool(usable):
        norms_of[0], factors[0] = norm, factor(norm[None])[0]
        grads = {name: grad * factors[0] for name, grad in grads.items()}  # in place would scale what two share twice
    else:
        grads = {name: torch.zeros_like(grad) for name, grad in grads.items()}
    return ClippedSum(grads, norms_of, factors, losses.detach())


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
