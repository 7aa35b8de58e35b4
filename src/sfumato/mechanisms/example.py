"""The example unit: every record's gradient is clipped by itself and added up over the micro-batches of the step.

Usually a record is one row. Where it gives several (`views`), the norm engine takes them together, as it does groups.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from sfumato.base import Refused
from sfumato.losses import Contrast
from sfumato.mechanisms.alone import Parted, Reseed, clip_jointly_or_parted, seeds_of_rows
from sfumato.mechanisms.batch import Clipped, LogicalBatch, MicroBatch, Sums, Tally
from sfumato.mechanisms.clip import ClipFactor, check_factors
from sfumato.mechanisms.computation import Computation, Measure, MeasureOnce
from sfumato.mechanisms.group import add_whole
from sfumato.mechanisms.group_loss import OfRows, group_loss
from sfumato.norms import ClippedSum
from sfumato.plan import Example, Unit


def clip_examples(
    computation: Computation,
    micro_batches: LogicalBatch,
    unit: Unit,
    factor: ClipFactor,
    *,
    measure: Measure | None = None,
    reduce: Callable[[Tensor], None] = lambda flat_sum: None,
    reseed: Callable[[int], None] = lambda chunk: None,
) -> tuple[Clipped, Tally]:
    """Return sum over all records of factor(norm_i) g_i, in float64, and the private tally.

    Presence and swap are the unit's own (C and 2C, proof at `plan.Example`): a record enters once, with its own factor,
    and no other record's factor depends on it.

    Args:
        measure: a `MeasureOnce` that is kept from step to step; by default one for this call.
        reduce: adds the flat sum up over all ranks, in place; called once, also for an empty share.
        reseed: called with 0, 1, ... before each micro-batch (dropout must not depend on what ran before), with larger
            numbers before a row that is computed alone.
    """
    if isinstance(computation.loss_fn, Contrast):
        raise Refused(
            "under the Example unit a loss that couples rows is not clipped per example: one record would move the "
            "terms of all others. Use the unit Group or Pair."
        )
    measure = measure or MeasureOnce(computation)
    together = unit if isinstance(unit, Example) and unit.views > 1 else None
    bound = unit.presence if unit.proved else None  # what a conjecture claims is for the audit to find out
    parameters = computation.parameters
    sums = Sums(parameters)
    for chunk, micro_batch in enumerate(micro_batches):
        sums.count(rows=micro_batch.valid.sum() * (micro_batch.batch is not None) + len(micro_batch.failures))
        sums.count(failed=len(micro_batch.failures))
        if micro_batch.batch is None:
            continue
        measured = measure(micro_batch)
        own = seeds_of_rows(reseed, chunk)
        if together is None:
            _add(sums, computation, micro_batch, measured, factor, bound, own)
        else:
            loss = OfRows(computation, computation.loss_fn)
            add_whole(sums, loss, computation, micro_batch, measured, together, factor, own)
    reduce(sums.flat)
    return sums.clipped(unit), sums.tally()


def clip_rows(
    computation: Computation, micro_batch: MicroBatch, measured: Any, factor: ClipFactor, reseed: Reseed
) -> Parted:
    """Return the clipped sum of the rows of one micro-batch: jointly where it follows a certified path, else by the
    definition of a row's contribution (`alone`).
    """

    def joint(some: MicroBatch, used: Tensor) -> ClippedSum:
        return computation.engine.clipped_sum(
            computation.model,
            computation.loss_fn,
            some.batch,
            measured,
            factor,
            valid=used,
            loss_scale=computation.loss_scale,
            autocast=computation.autocast,
        )

    valid = micro_batch.valid
    return clip_jointly_or_parted(
        computation,
        group_loss(computation),
        micro_batch,
        [(place,) for place in range(len(valid))],
        valid,
        measured,
        factor,
        joint,
        reseed,
    )


def _add(
    sums: Sums,
    computation: Computation,
    micro_batch: MicroBatch,
    measured: Any,
    factor: ClipFactor,
    bound: float | None,
    reseed: Reseed,
) -> None:
    valid = micro_batch.valid
    parted = clip_rows(computation, micro_batch, measured, factor, reseed)
    result = parted.result
    used = valid & torch.isfinite(result.norms) & torch.isfinite(result.losses)
    check_factors(result.factors, result.norms, used, bound)
    sums.add(result.grads)
    sums.count(
        failed=parted.failed.sum(),
        nonfinite=valid.sum() - used.sum() - parted.failed.sum(),
        clipped=(used & (result.factors < 1.0)).sum(),
        alone=parted.alone,
        loss_sum=torch.where(used, result.losses.double(), 0.0).sum(),
    )
