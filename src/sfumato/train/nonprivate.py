"""The twin without privacy: same model, loader, draws and number of steps; no clipping, no noise. NOT PRIVATE.

It measures what privacy costs. Use it on public or synthetic data, or know that its weights may quote the records.
"""

import logging
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from sfumato.base import Refused, seeds
from sfumato.losses import Contrast
from sfumato.mechanisms import Computation, LossFn, MicroBatch, Ranks
from sfumato.mechanisms.embedded import Embedded, all_ranks, back, embed, kept, only_fit
from sfumato.mechanisms.group_loss import cotangents
from sfumato.plan import Plan
from sfumato.train import fingerprint
from sfumato.train.finite import check_finite
from sfumato.train.keys import Keys, public_seed
from sfumato.train.loader import loader
from sfumato.train.rows import CollateFn, seeded
from sfumato.train.shape import ConstantShape, Prepared
from sfumato.train.shares import views_of
from sfumato.train.state import device_of, reseed_model
from sfumato.train.world import World, join_world

logger = logging.getLogger(__name__)


@dataclass
class _OpenRun:
    """What the loader needs of a run, without ledger, secret or claim."""

    plan: Plan
    world: World
    seed: int
    step: int = 0
    keys: Keys = field(init=False)

    def bind(self, fields: Mapping[str, Any]) -> None:
        digest = fingerprint.digest({**fields, "private": False})
        self.keys = Keys(seed=public_seed(self.seed).value, fingerprint=digest, attempt=0)


def train_without_privacy(
    model: nn.Module,
    loss_fn: LossFn | Contrast,
    dataset: Any,
    plan: Plan,
    *,
    optimizer: torch.optim.Optimizer,
    micro_batch_size: int,
    scheduler: Any = None,
    collate_fn: CollateFn | None = None,
    num_workers: int = 0,
    seed: int = 0,
    on_step: Callable[[int, float], None] | None = None,
) -> None:
    """Train `model` on the plan's draws without clipping and noise: NOT PRIVATE.

    A `Contrast` is taken over all rows of a step, whatever the plan's unit: that is what groups and pairs stand in for.

    Args:
        plan: gives sampler, divisor and number of steps; its noise is not used.
        on_step: called with the number of steps done and the un-noised mean loss of the last one.

    Raises:
        Refused: started with several processes.
    """
    run = _OpenRun(plan=plan, world=join_world(device_of(model)), seed=seed)
    if run.world.size > 1:
        raise Refused("the twin without privacy runs in one process.")
    logger.warning("NOT PRIVATE: training without clipping and noise.")
    shape = ConstantShape(run.world.device)
    batches = loader(
        dataset,
        run,
        micro_batch_size=micro_batch_size,
        collate_fn=collate_fn,
        num_workers=num_workers,
    )
    for step, micro_batches in batches:
        total, rows = 0.0, 0
        with seeded(run.keys.key("model", step)):  # dropout on a CPU is a function of the step, as in the private run
            if isinstance(loss_fn, Contrast):
                prepared = Prepared(micro_batches, shape, Counter())
                total, rows = _backward_coupled(model, loss_fn, prepared, run.keys.key("model", step))
            else:
                expected = plan.batch_size * views_of(plan.unit)  # rows; the plan's divisor counts what is clipped
                for micro_batch in micro_batches:
                    added, count = _backward(model, loss_fn, shape.take(micro_batch), expected)
                    total, rows = total + added, rows + count
        optimizer.step()
        if scheduler is not None:
            scheduler.step()
        optimizer.zero_grad()
        check_finite(model, step + 1)
        if on_step:
            on_step(step + 1, total / max(rows, 1))


def _backward(model: nn.Module, loss_fn: LossFn, micro_batch: MicroBatch, divisor: float) -> tuple[float, int]:
    """Add one micro-batch to `p.grad`; return its summed loss and number of rows."""
    if micro_batch.batch is None:
        return 0.0, 0
    losses = loss_fn(model, micro_batch.batch)[micro_batch.valid]
    losses.sum().div(divisor).backward()
    return float(losses.detach().sum()), len(losses)


def _backward_coupled(model: nn.Module, contrast: Contrast, micro_batches: Prepared, key: bytes) -> tuple[float, int]:
    """Set `p.grad` to the gradient of the mean loss over all usable rows; return the summed loss and their number."""
    computation = Computation(model=model, loss_fn=contrast)
    device = next(model.parameters()).device
    parts: dict[int, Embedded] = {}
    for chunk, micro_batch in enumerate(micro_batches):
        if micro_batch.batch is not None:
            reseed_model(seeds.derive(key, chunk), device)
            with torch.no_grad():
                parts[chunk] = kept(micro_batch, *embed(computation, contrast, micro_batch))
    if not any(bool(part.usable.any()) for part in parts.values()):
        return 0.0, 0
    rows, _ = all_ranks(list(parts.values()), Ranks(), device)
    on_u, on_v, loss = cotangents(contrast, replace(rows, groups=torch.zeros_like(rows.groups)))
    begin = 0
    for chunk, micro_batch in enumerate(micro_batches):
        if chunk not in parts:
            continue
        places = slice(begin, begin + len(micro_batch.valid))
        begin = places.stop
        fit = only_fit(micro_batch, parts[chunk].usable)
        if fit is not None:
            reseed_model(seeds.derive(key, chunk), device)
            grads = back(computation, embed(computation, contrast, fit), on_u[places], on_v[places])
            for name, parameter in computation.parameters.items():
                grad = grads[name].to(parameter.dtype)
                parameter.grad = grad if parameter.grad is None else parameter.grad + grad
    count = int(rows.usable.sum())
    return float(loss) * count, count
