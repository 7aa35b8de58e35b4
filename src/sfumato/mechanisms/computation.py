"""How gradients are computed: model, loss and precision of a run, and what was measured of them once."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from inspect import getattr_static
from typing import Any

import torch
from torch import Tensor, nn

from sfumato import norms
from sfumato.base import Refused
from sfumato.losses import Contrast
from sfumato.mechanisms.batch import MicroBatch
from sfumato.mechanisms.held import Held

LossFn = Callable[[nn.Module, Any], Tensor]
Measure = Callable[[MicroBatch], Any]
"""What was measured for micro-batches like this one: a `MeasureOnce`, as a rule."""


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
        loss_fn: `loss_fn(model, batch)` gives one value per row, shape (N,); for groups and pairs a `Contrast`. It is
            held to what one pass may do (`Held`).
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

    def __post_init__(self) -> None:
        own = self.loss_fn
        if isinstance(own, Contrast) and not isinstance(own.embed, Held):
            object.__setattr__(self, "loss_fn", replace(own, embed=Held(own.embed)))
        elif not isinstance(own, Contrast | Held):
            object.__setattr__(self, "loss_fn", Held(own))

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """The trainable parameters by name; one that is tied appears once."""
        return norms.trainable(self.model)

    @property
    def half_precision(self) -> str | None:
        """What is of lower precision than float32, in words; None where nothing is."""
        low = [n for n, p in self.model.named_parameters() if p.is_floating_point() and p.dtype.itemsize < 4]
        if low:
            return f"{low[0]} is stored in half precision"
        return None if self.autocast is None else "autocast is on"

    def measure(self, micro_batch: MicroBatch, seed: int = 0) -> Any:
        """Certify model and loss on made-up rows (of this seed) in the structure of `micro_batch`.

        Raises:
            Refused: a trainable parameter cannot be measured, or rows depend on one another.
        """
        options = {"autocast": self.autocast, "synthetic": self.synthetic, "seed": seed}
        if isinstance(self.loss_fn, Contrast):
            rows, options["combine"] = self.loss_fn.embeddings, self.loss_fn.of_embeddings
            self._check_embeddings(self.loss_fn, micro_batch)
        else:
            rows = self.loss_fn
        return self.engine.prepare(self.model, rows, micro_batch.batch, **options)

    def _check_embeddings(self, contrast: Contrast, micro_batch: MicroBatch) -> None:
        """Refuse embeddings that are not of unit norm, seen on made-up rows; a learned scale is left out."""
        make = self.synthetic or (lambda n: norms.synthetic_twin(micro_batch.batch, n))
        with torch.no_grad(), torch.random.fork_rng(devices=[]), (self.autocast or nullcontext)():
            try:
                sides = contrast.embed(self.model, make(3))
            except Exception:
                return  # certification says what fails
        for side in sides:
            if bool(((torch.linalg.vector_norm(side.double(), dim=-1) - 1).abs() > UNIT_NORM[side.dtype]).any()):
                raise Refused("embeddings must have unit norm: normalise them in embed (F.normalize(x, dim=-1)).")


UNIT_NORM = {torch.float64: 1e-3, torch.float32: 1e-3, torch.float16: 1e-2, torch.bfloat16: 5e-2}
_REPEATED = 16  # certification is repeated at the powers of this step


class MeasureOnce:
    """Certifies a computation at the first micro-batch that there is, and again when there is reason to.

    Args:
        rehearse: called with what was measured and the micro-batch that it was measured for; see `rehearse`.
    """

    def __init__(
        self, computation: Computation, rehearse: Callable[[Any, MicroBatch], None] = lambda measured, micro_batch: None
    ) -> None:
        self._computation, self._rehearse = computation, rehearse
        self._answer: Any = None
        self._look: Any = None

    def __call__(self, micro_batch: MicroBatch) -> Any:
        """Return what was measured."""
        if self._answer is None:
            answer = self._computation.measure(micro_batch)
            self._rehearse(answer, micro_batch)
            self._answer, self._look = answer, _look(self._computation.model)
        return self._answer

    def before(self, step: int, template: MicroBatch | None) -> None:
        """Certify before a step: the first one; later ones where the model's modules, training flags, hooks or forward
        methods changed; and the steps 16, 256, 4096, ..., on other made-up rows.

        Args:
            template: a micro-batch of the structure that trains, read for shapes and types alone. None: there is none
                before the first micro-batch.

        Raises:
            BadInput, Refused: as `Computation.measure`.
        """
        if self._answer is not None and _look(self._computation.model) != self._look:
            self._answer = None
        if self._answer is None:
            if template is not None:
                self(template)
        elif step > 1 and _is_power(step):
            self._answer.repeat(step)


def _is_power(step: int) -> bool:
    while step % _REPEATED == 0:
        step //= _REPEATED
    return step == 1


def _look(model: nn.Module) -> list[tuple]:
    """Return what is seen of a model without running it, and may change what it computes."""
    return [(id(module), module.training, *_forward(module), *_hooks(module)) for module in model.modules()]


def _forward(module: nn.Module) -> tuple:
    return vars(module).get("forward"), getattr_static(type(module), "forward", None)  # a scripted one has none


def _hooks(module: nn.Module) -> list[tuple]:
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return [tuple(getattr(module, kind)) for kind in kinds]
