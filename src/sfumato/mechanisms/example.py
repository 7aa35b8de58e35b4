"""The example unit: every row's gradient is clipped by itself and added up over the micro-batches of the step."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sfumato import norms
from sfumato.base import BadInput, Refused
from sfumato.mechanisms.batch import Clipped, LogicalBatch, MicroBatch, Sums, Tally
from sfumato.mechanisms.clip import ClipFactor, automatic, flat
from sfumato.plan import Conjectured, Example, Unit

LossFn = Callable[[nn.Module, Any], Tensor]


@dataclass(frozen=True, kw_only=True)
class Engine:
    """What measures norms and sums clipped gradients: `norms` (one backward pass), or its slow oracle in tests."""

    prepare: Callable[..., Any] = norms.prepare
    clipped_sum: Callable[..., Any] = norms.clipped_sum


@dataclass(frozen=True, kw_only=True)
class Computation:
    """How one row's gradient is computed. All of it is public and constant over a run.

    Attributes:
        model, loss_fn: `loss_fn(model, batch)` gives one value per row, shape (N,).
        loss_scale: the loss is multiplied by it in the backward pass and divided out before clipping (fp16).
        autocast: makes the context of the forward pass (mixed precision), or None.
        synthetic: n -> a batch of n made-up rows, where ones and zeros are no valid integers for the model.
        engine: what computes; the oracle in tests.
    """

    model: nn.Module
    loss_fn: LossFn
    loss_scale: float = 1.0
    autocast: Callable[[], AbstractContextManager] | None = None
    synthetic: Callable[[int], Any] | None = None
    engine: Engine = Engine()

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """The trainable parameters by name; one that is tied appears once."""
        return norms.trainable(self.model)

    def measure(self, micro_batch: MicroBatch) -> Any:
        """Check model and loss on synthetic values in the structure of `micro_batch`.

        Raises:
            Refused: a trainable parameter cannot be measured, or rows depend on one another.
        """
        return self.engine.prepare(
            self.model, self.loss_fn, micro_batch.batch, autocast=self.autocast, synthetic=self.synthetic
        )


class MeasureOnce:
    """Asks `Computation.measure` at the first micro-batch that there is; the answer holds for the whole run."""

    def __init__(self, computation: Computation) -> None:
        self._computation = computation
        self._answer: Any = None

    def __call__(self, micro_batch: MicroBatch) -> Any:
        """Return what was measured."""
        if self._answer is None:
            self._answer = self._computation.measure(micro_batch)
        return self._answer


def clip_factor(unit: Unit, own: ClipFactor | None = None) -> ClipFactor:
    """Return the factor that the unit declares, or a researcher's own for a `Conjectured` unit.

    Raises:
        BadInput: a proved unit is given another rule, or a conjectured one none.
        Refused: there is no mechanism for the unit.
    """
    if isinstance(unit, Conjectured):
        if own is None:
            raise BadInput("a Conjectured unit needs clip_factor: norms (N,) -> factors (N,).")
        return own
    if not isinstance(unit, Example):
        raise Refused(f"there is no mechanism for the unit {type(unit).__name__}.")
    if own is not None:
        raise BadInput("clip_factor belongs to a Conjectured unit: this plan's unit has its own rule, with its proof.")
    return flat(unit.clip_norm) if unit.clip == "flat" else automatic(unit.clip_norm, unit.gamma)


def clip_examples(
    computation: Computation,
    micro_batches: LogicalBatch,
    unit: Unit,
    factor: ClipFactor,
    *,
    measure: MeasureOnce | None = None,
    reduce: Callable[[Tensor], None] = lambda flat_sum: None,
    reseed: Callable[[int], None] = lambda chunk: None,
) -> tuple[Clipped, Tally]:
    """Return sum over all rows of factor(norm_i) g_i, in float64, and the private tally.

    Presence and swap are the unit's own (C and 2C, proof at `plan.Example`): a row enters once, with its own factor,
    and no other row's factor depends on it.

    Args:
        measure: a `MeasureOnce` that is kept from step to step; by default one for this call.
        reduce: adds the flat sum up over all ranks, in place; called once, also for an empty share.
        reseed: called with 0, 1, ... before each micro-batch (dropout must not depend on what ran before).
    """
    measure = measure or MeasureOnce(computation)
    bound = unit.presence if unit.proved else None  # what a conjecture claims is for the audit to find out
    parameters = computation.parameters
    sums = Sums(parameters)
    for chunk, micro_batch in enumerate(micro_batches):
        if micro_batch.batch is None:
            sums.count(len(micro_batch.failures), len(micro_batch.failures))
            continue
        measured = measure(micro_batch)
        reseed(chunk)
        _add(sums, computation, micro_batch, measured, factor, bound)
    reduce(sums.flat)
    if not bool(torch.isfinite(sums.flat).all()):
        raise AssertionError("the clipped sum is not finite although every factor is: nothing was released.")
    clipped = Clipped(
        sums=sums.views,
        dtypes={name: p.dtype for name, p in parameters.items()},
        presence=unit.presence,
        swap=unit.swap,
    )
    return clipped, sums.tally()


def _add(
    sums: Sums,
    computation: Computation,
    micro_batch: MicroBatch,
    measured: Any,
    factor: ClipFactor,
    bound: float | None,
) -> None:
    valid = micro_batch.valid
    result = computation.engine.clipped_sum(
        computation.model,
        computation.loss_fn,
        micro_batch.batch,
        measured,
        factor,
        valid=valid,
        loss_scale=computation.loss_scale,
        autocast=computation.autocast,
    )
    used = valid & torch.isfinite(result.norms) & torch.isfinite(result.losses)
    _check(result.factors, result.norms, used, bound)
    sums.add(result.grads)
    sums.count(
        rows=valid.sum() + len(micro_batch.failures),
        failed=len(micro_batch.failures),
        nonfinite=valid.sum() - used.sum(),
        clipped=(used & (result.factors < 1.0)).sum(),
        loss_sum=torch.where(used, result.losses.double(), 0.0).sum(),
    )


def _check(factors: Tensor, lengths: Tensor, used: Tensor, bound: float | None) -> None:
    """Hold the engine to its word: unused rows weigh exactly 0, used ones reach at most `bound`."""
    if bool((factors[~used] != 0).any()):
        raise AssertionError("a row that is padding or not finite entered the sum.")
    if bound is not None and not bool((factors[used] * lengths[used] <= bound).all()):
        raise AssertionError("a row entered the sum above its clip norm.")
