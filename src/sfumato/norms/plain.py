"""A plain joint pass over made-up rows, with no rule of the engine in it, against what each row gives alone."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from sfumato.base import Refused
from sfumato.norms import made_up
from sfumato.norms.contract import per_example
from sfumato.norms.pool import Alone, Assembly, Subject, fixed, product

COUPLED = (
    "the loss of a row changes when another row's input changes: rows depend on each other (a batch statistic, hard "
    "negatives, a queue), so clipping per example bounds nothing."
)
_COUPLED_BACKWARD = (
    "the gradient of a row changes when another row's input changes, though its loss does not: rows depend on each "
    "other in the backward pass (a hook, a custom autograd function), so clipping per example bounds nothing."
)


def poisoned(assembly: Assembly) -> Any:
    """Return a context in which a batch looks up what its rows are poisoned by."""
    return nullcontext() if assembly.poison is None else made_up.Poison(*assembly.poison)


def weights_of(compared: Tensor) -> Tensor:
    """Return a weight of its own for each row, 0 for those that are not compared."""
    return torch.where(compared, 0.5 + torch.linspace(0, 1, len(compared)).cos(), 0.0)


def losses_differ(subject: Subject, losses: Tensor, alones: Sequence[Alone]) -> bool:
    """Return whether the losses of a joint pass are not those of the rows alone."""
    own = torch.stack([alone.loss.cpu() for alone in alones])
    floor = 1e-3 if subject.exact is None else subject.exact[1]
    return not bool(((losses.double().cpu() - own).abs() <= subject.tolerance * (floor + own.abs())).all())


def wrong_sums(
    subject: Subject, sums: Mapping[str, Tensor], weights: Tensor, alones: Sequence[Alone], vector: Tensor
) -> list[str]:
    """Return the parameters whose sum is not the weighted sum of the gradients of rows alone."""
    weights = weights.double()
    wanted = weights @ torch.stack([alone.products for alone in alones])
    sizes = torch.stack([alone.norms for alone in alones])
    scale = weights @ sizes  # by parameter
    rounded = subject.low and subject.exact is None  # what cancels in a bias is all rounding: see `_certify` in probe
    floor = (1.0 if rounded else 0.01) * float(weights @ sizes.square().sum(1).sqrt())
    found = []
    for place, name in enumerate(subject.parameters):
        error = (product(sums[name], vector).double().cpu() - wanted[place]).abs()
        if not bool(error <= 4 * subject.tolerance * (scale[place] + floor)):
            found.append(name)
    return found


def check_apart(subject: Subject, vector: Tensor, assembly: Assembly) -> None:
    """Compare a plain joint pass with the rows alone.

    Raises:
        Refused: a loss or a gradient moves with other rows. Nothing is said of a batch that the model does not take.
    """
    compared = assembly.compared
    weights = weights_of(compared)
    alones = [alone for alone in assembly.alones if alone is not None]
    try:
        with fixed(subject, assembly.setting, assembly.numbers):
            with torch.enable_grad(), subject.context():
                losses = per_example(subject.loss_fn(subject.model, assembly.batch), len(compared))
            differ = losses_differ(subject, losses.detach()[compared.to(losses.device)], alones)
            if not differ:
                chosen = losses[compared.to(losses.device)]
                grads = torch.autograd.grad(
                    chosen, list(subject.parameters.values()), weights[compared].to(chosen), allow_unused=True
                )
    except torch.OutOfMemoryError:
        raise
    except Exception:
        return
    if differ:
        raise Refused(COUPLED)
    sums = {
        name: torch.zeros_like(parameter) if grad is None else grad
        for (name, parameter), grad in zip(subject.parameters.items(), grads, strict=True)
    }
    if all(bool(torch.isfinite(grad).all()) for grad in sums.values()) and wrong_sums(
        subject, sums, weights[compared], alones, vector
    ):
        raise Refused(_COUPLED_BACKWARD)
