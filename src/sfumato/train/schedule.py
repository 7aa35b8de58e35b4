"""Learning rate by step: linear warm-up, then cosine. A function of the step, so nothing private steers it."""

import functools
import math

import torch
from torch.optim.lr_scheduler import LambdaLR

from sfumato.base import BadInput


def warmup_cosine_factor(step: int, *, warmup_steps: int, total_steps: int, final: float = 0.0) -> float:
    """Return the factor of the learning rate at `step`: (step + 1) / warmup_steps, then a half cosine down to `final`.

    >>> [round(warmup_cosine_factor(s, warmup_steps=2, total_steps=6), 3) for s in range(7)]
    [0.5, 1.0, 1.0, 0.854, 0.5, 0.146, 0.0]
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    done = min((step - warmup_steps) / max(total_steps - warmup_steps, 1), 1.0)
    return final + (1.0 - final) * 0.5 * (1.0 + math.cos(math.pi * done))


def warmup_cosine(
    optimizer: torch.optim.Optimizer, *, warmup_steps: int, total_steps: int, final: float = 0.0
) -> LambdaLR:
    """Return a scheduler over `warmup_cosine_factor`; its state is the step alone.

    Raises:
        BadInput: warm-up longer than the run, or `final` outside [0, 1].
    """
    if not 0 <= warmup_steps <= total_steps:
        raise BadInput(f"warmup_steps must lie in 0..total_steps = {total_steps}, got {warmup_steps}.")
    if not 0.0 <= final <= 1.0:
        raise BadInput(f"final is a fraction of the learning rate in [0, 1], got {final}.")
    factor = functools.partial(warmup_cosine_factor, warmup_steps=warmup_steps, total_steps=total_steps, final=final)
    return LambdaLR(optimizer, factor)
