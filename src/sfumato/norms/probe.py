"""Before training: which parameters are measured, where the examples are, and whether rows are independent.

Everything here runs on synthetic inputs (DESIGN section 6, decision 5).

1. Two forward passes with different batch sizes: the dimension of a result that grows with the batch carries it; what
   is drawn at random must grow with it too (`draws`).
2. One forward pass on the tape, and a backward pass for each row alone: its gradient must be zero at all entries of
   other rows, at every use of every parameter and at the inputs.
3. One row is exchanged: no other row's loss may move (this sees what gradients do not: detached or discrete coupling).
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from sfumato.base import BadInput, Refused
from sfumato.norms.contract import Autocast, LossFn
from sfumato.norms.layout import Layouts
from sfumato.norms.recorder import find_layouts
from sfumato.norms.rows import check_exchange, check_rows_apart
from sfumato.norms.scratch import Scratch
from sfumato.norms.synthetic import batch_size, synthetic_twin


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What `prepare` found out about a model and its loss.

    Attributes:
        names: the trainable parameters, all of which are measured exactly.
        layouts: where the examples are, for every use of a parameter.
        unused: trainable parameters that no gradient reaches (only with `unused="zero"`).
        scratch: memory that goes from one micro-batch to the next.
    """

    names: tuple[str, ...]
    layouts: Layouts
    unused: tuple[str, ...] = ()
    scratch: Scratch = field(default_factory=Scratch, compare=False, repr=False)

    def parameters(self, model: nn.Module) -> dict[str, nn.Parameter]:
        """Return the trainable parameters of `model` by name, ties once.

        Raises:
            BadInput: they are not those that were measured.
        """
        found = trainable(model)
        if tuple(found) != self.names:
            changed = sorted(set(found) ^ set(self.names))
            raise BadInput(f"trainable parameters changed since they were measured: {', '.join(changed[:5])}.")
        return found


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters of `model` that require a gradient, by name, tied ones once."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def prepare(
    model: nn.Module,
    loss_fn: LossFn,
    batch: Any,
    *,
    autocast: Autocast | None = None,
    synthetic: Callable[[int], Any] | None = None,
    unused: str = "refuse",
) -> Measured:
    """Check that `loss_fn(model, batch)` can be trained under per-example clipping, and measure where examples are.

    Args:
        model: any module; left as it was, its random state too.
        loss_fn: (model, batch) -> one loss per example, shape (N,).
        batch: a micro-batch, read for its structure, shapes and types alone.
        autocast: makes the context under which the loss is computed.
        synthetic: n -> a synthetic batch of n rows, where ones and zeros are no valid integers for the model.
        unused: "refuse" or "zero": what to do with trainable parameters that no gradient reaches.

    Raises:
        Refused: the loss is not one value per row, a row depends on another row, a parameter's use has no rule, a
            buffer learns from the data, or a trainable parameter gets no gradient. The message names it.
    """
    parameters = trainable(model)
    if not parameters:
        raise BadInput("the model has no parameter with requires_grad=True.")
    batch_size(batch)
    make = synthetic or (lambda n: synthetic_twin(batch, n))
    context = autocast or nullcontext
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    with torch.random.fork_rng(devices=_cuda_devices(parameters)), torch.enable_grad(), _shaken(parameters):
        layouts = find_layouts(model, loss_fn, make, parameters, context)
        layouts, fired = check_rows_apart(model, loss_fn, make(3), parameters, layouts, context)
        check_exchange(model, loss_fn, make(3), context)
    _check_buffers(model, buffers)
    missing = tuple(name for name in parameters if name not in fired)
    if missing and unused == "refuse":
        raise Refused(
            f"no gradient reaches {_list(missing)}: freeze with requires_grad_(False), or remove the module "
            "(with gradient checkpointing use use_reentrant=False)."
        )
    return Measured(names=tuple(parameters), layouts=layouts, unused=missing)


def _list(names: tuple[str, ...]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _cuda_devices(parameters: Mapping[str, Tensor]) -> list[int]:
    return sorted({p.device.index or 0 for p in parameters.values() if p.device.type == "cuda"})


@contextmanager
def _shaken(parameters: Mapping[str, Tensor]) -> Iterator[None]:
    """Add noise to all parameters for a while: behind a layer that starts at zero no gradient could be seen."""
    kept = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    generator = torch.Generator().manual_seed(0)
    try:
        with torch.no_grad():
            for parameter in parameters.values():
                noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float32)
                parameter.add_(0.02 * noise.to(parameter))
        yield
    finally:
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(kept[name])


def _check_buffers(model: nn.Module, before: Mapping[str, Tensor]) -> None:
    for name, buffer in model.named_buffers():
        if name in before and not torch.equal(buffer, before[name]):
            buffer.copy_(before[name])
            raise Refused(
                f"the buffer {name} changes in the forward pass: it would carry un-noised statistics of private data. "
                "Put its module into eval() or remove the update."
            )
