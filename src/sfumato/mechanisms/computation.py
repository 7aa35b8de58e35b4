"""How gradients are computed: model, loss and precision of a run, and what was measured of them once."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from sfumato import norms
from sfumato.losses import Contrast
from sfumato.mechanisms.batch import MicroBatch

LossFn = Callable[[nn.Module, Any], Tensor]


@dataclass(frozen=True, kw_only=True)
class Engine:
    """What measures norms and sums clipped gradients: `norms` (one backward pass), or its slow oracle in tests."""

    prepare: Callable[..., Any] = norms.prepare
    clipped_sum: Callable[..., Any] = norms.clipped_sum
    pair_jacobians: Callable[..., Any] = norms.pair_jacobians


@dataclass(frozen=True, kw_only=True)
class Computation:
    """How gradients are computed. All of it is public and constant over a run.

    Attributes:
        model: the module that is trained.
        loss_fn: `loss_fn(model, batch)` gives one value per row, shape (N,); for groups and pairs a `Contrast`.
        loss_scale: the loss is multiplied by it in the backward pass and divided out before clipping (fp16).
        autocast: makes the context of the forward pass (mixed precision), or None.
        synthetic: n -> a batch of n made-up rows, where ones and zeros are no valid integers for the model.
        engine: what computes; the oracle in tests.
    """

    model: nn.Module
    loss_fn: LossFn | Contrast
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
        loss_fn = self.loss_fn.of_rows if isinstance(self.loss_fn, Contrast) else self.loss_fn
        return self.engine.prepare(
            self.model, loss_fn, micro_batch.batch, autocast=self.autocast, synthetic=self.synthetic
        )


class MeasureOnce:
    """Asks `Computation.measure` at the first micro-batch that there is; the answer holds for the whole run."""

    def __init__(self, computation: Computation) -> None:
        self._computation = computation
        self._answer: Any = None

    @property
    def fresh(self) -> bool:
        """Whether nothing was measured yet."""
        return self._answer is None

    def __call__(self, micro_batch: MicroBatch) -> Any:
        """Return what was measured."""
        if self._answer is None:
            self._answer = self._computation.measure(micro_batch)
        return self._answer
