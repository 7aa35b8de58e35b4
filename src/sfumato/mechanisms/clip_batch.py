"""From the unit of a plan to the mechanism that clips it."""

from collections.abc import Callable

from torch import Tensor

from sfumato.mechanisms.batch import Clipped, LogicalBatch, Tally
from sfumato.mechanisms.clip import ClipFactor
from sfumato.mechanisms.computation import Computation, Measure
from sfumato.mechanisms.embedded import Ranks, Reseed
from sfumato.mechanisms.example import clip_examples
from sfumato.mechanisms.group import clip_groups
from sfumato.mechanisms.pair import clip_pairs
from sfumato.plan import Group, Pair, Unit


def clip_batch(
    computation: Computation,
    micro_batches: LogicalBatch,
    unit: Unit,
    factor: ClipFactor,
    *,
    measure: Measure,
    reduce: Callable[[Tensor], None],
    reseed: Reseed,
    ranks: Ranks,
    batch_size: float,
) -> tuple[Clipped, Tally]:
    """Return the clipped sum of a logical batch under the plan's unit, and the private tally.

    Args:
        computation: model, loss and precision.
        micro_batches: iterable more than once, with the same rows each time.
        unit, factor: of the plan; `clip_factor(unit)`.
        measure: a `MeasureOnce` that is kept from step to step.
        reduce: adds the flat sum up over all ranks, in place; called once, also for an empty share.
        reseed: called with the number of a micro-batch before each forward pass (dropout is keyed by it).
        ranks: what coupled rows on several ranks exchange besides.
        batch_size: the expected number of rows, public.

    Raises:
        BadInput, Refused: loss and unit do not belong together, or something is not measured exactly.
    """
    given = {"measure": measure, "reduce": reduce, "reseed": reseed}
    if isinstance(unit, Group):
        return clip_groups(computation, micro_batches, unit, factor, **given, ranks=ranks)
    if isinstance(unit, Pair):
        return clip_pairs(computation, micro_batches, unit, factor, **given, ranks=ranks, batch_size=batch_size)
    return clip_examples(computation, micro_batches, unit, factor, **given)
