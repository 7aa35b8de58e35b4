"""The slow oracle: one shared forward pass, and a backward pass for each example."""

from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from sfumato.norms.contract import Autocast, LossFn, per_example
from sfumato.norms.ghost import ClipFactor, ClippedSum
from sfumato.norms.measured import Measured
from sfumato.norms.synthetic import batch_size


def oracle_sum(
    model: nn.Module,
    loss_fn: LossFn,
    batch: Any,
    measured: Measured,
    clip_factor: ClipFactor,
    *,
    valid: Tensor | None = None,
    loss_scale: float = 1.0,
    autocast: Autocast | None = None,
) -> ClippedSum:
    """Return what `clipped_sum` returns, by `autograd.grad` of every row. Arguments as there."""
    parameters = measured.parameters(model)
    with torch.enable_grad(), (autocast or nullcontext)():
        losses = per_example(loss_fn(model, batch), batch_size(batch))
    dtype = torch.float64 if next(iter(parameters.values())).dtype == torch.float64 else torch.float32
    norms = torch.full((len(losses),), torch.inf, dtype=dtype, device=losses.device)
    factors = torch.zeros_like(norms)
    sums = {name: torch.zeros_like(p, dtype=dtype) for name, p in parameters.items()}
    for row, loss in enumerate(losses):
        grads = torch.autograd.grad(loss * loss_scale, list(parameters.values()), retain_graph=True, allow_unused=True)
        own = {n: g.to(dtype) / loss_scale for n, g in zip(parameters, grads, strict=True) if g is not None}
        norm = torch.stack([g.square().sum() for g in own.values()]).sum().sqrt()
        if not (norm.isfinite() and loss.isfinite()):
            continue
        norms[row] = norm
        if valid is None or bool(valid[row]):
            factors[row] = clip_factor(norm[None])[0]
            for name, grad in own.items():
                sums[name] += factors[row] * grad
    return ClippedSum(sums, norms, factors, losses.detach())
