"""What step_time.py compares: each side makes a step, a function of nothing that updates a model once."""

import atexit
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from _step_bench import CLIP_NORM, MICRO_BATCHES, Bench, Step
from _step_cases import Case
from _step_coupled import COUPLED
from torch import Tensor, nn

from sfumato import mechanisms, norms
from sfumato.mechanisms import MicroBatch
from sfumato.mechanisms.batch import Sums
from sfumato.plan import Example, Plan
from sfumato.sampling import Poisson
from sfumato.train import PrivateGradients

OPACUS_MODES = ("hooks", "functorch", "ew", "ghost")


def non_private(bench: Bench) -> Step:
    """Forward, mean loss, backward, AdamW."""

    def step() -> None:
        bench.losses().mean().backward()
        bench.update()

    return step


def private(bench: Bench) -> Step:
    """Norms and clipped sum, accumulated in float64, AdamW: all that a micro-batch costs; the noise is not drawn."""
    model, case = bench.model, bench.case
    measured = norms.prepare(model, case.loss_fn, bench.batch)
    sums = Sums(measured.parameters(model))
    factor = mechanisms.flat(CLIP_NORM)

    def step() -> None:
        result = norms.clipped_sum(model, case.loss_fn, bench.batch, measured, factor)
        sums.add(result.grads)
        for name, parameter in measured.parameters(model).items():
            parameter.grad = result.grads[name]
        bench.update()

    return step


def non_private_logical(bench: Bench) -> Step:
    """`MICRO_BATCHES` times forward and backward, then AdamW."""

    def step() -> None:
        for _ in range(MICRO_BATCHES):
            (bench.losses().sum() / (MICRO_BATCHES * bench.case.rows)).backward()
        bench.update()

    return step


def private_logical(bench: Bench) -> Step:
    """What a user runs: `PrivateGradients.backward` with clipping, ledger, hashes, noise, release; then AdamW."""
    rows = bench.case.rows
    plan = Plan(
        unit=Example(clip_norm=CLIP_NORM),
        sampler=Poisson(num_records=1_000_000, expected_batch_size=MICRO_BATCHES * rows),
        steps=1_000,
        noise_multiplier=1.0,
    )
    folder = tempfile.mkdtemp(prefix="sfumato-step-time-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    run = PrivateGradients(bench.model, bench.case.loss_fn, plan, out=Path(folder) / "run", optimizer=bench.optimizer)
    run.declare_batches("synthetic rows of a benchmark")
    micro_batches = [MicroBatch(batch=bench.batch, valid=torch.ones(rows, dtype=torch.bool))] * MICRO_BATCHES

    def step() -> None:
        run.backward(run.step, micro_batches)
        bench.update()

    return step


class _Losses(nn.Module):
    """A module whose output is the losses: opacus wraps a module, and a loss may call any part of the model."""

    def __init__(self, case: Case, model: nn.Module) -> None:
        super().__init__()
        self.loss_fn, self.model = case.loss_fn, model

    def forward(self, pixel_values: Tensor, rest: dict[str, Tensor]) -> Tensor:
        return self.loss_fn(self.model, {"pixel_values": pixel_values, **rest})


class _Positions(nn.Module):
    """MBart's position embedding as a plain one that sees a row for each example, which opacus needs."""

    def __init__(self, learned: Any) -> None:
        super().__init__()
        self.offset = learned.offset
        self.table = nn.Embedding(learned.num_embeddings, learned.embedding_dim)
        self.table.load_state_dict(learned.state_dict())

    def forward(self, ids: Tensor, _past: int = 0, position_ids: Tensor | None = None) -> Tensor:
        places = torch.arange(ids.shape[1]) if position_ids is None else position_ids
        return self.table(places.expand(len(ids), -1) + self.offset)


def opacus(bench: Bench, mode: str) -> Step:
    """Opacus in one of its modes, on a model that is its own from here on; buffers are let through, no noise."""
    from opacus.grad_sample import wrap_model

    ghost = mode == "ghost"
    options = {"ghost": {"strict": False, "max_grad_norm": CLIP_NORM}, "ew": {}}.get(mode, {"strict": False})
    for module in [*bench.model.modules()]:
        if type(getattr(module, "embed_positions", None)).__name__ == "MBartLearnedPositionalEmbedding":
            module.embed_positions = _Positions(module.embed_positions)
    bench.optimizer = torch.optim.AdamW(bench.model.parameters(), lr=1e-4)
    wrapped: Any = wrap_model(_Losses(bench.case, bench.model), grad_sample_mode=mode, **options)
    optimizer = _opacus_optimizer(bench, ghost)
    rest = {name: value for name, value in bench.batch.items() if name != "pixel_values"}

    def step() -> None:
        losses = wrapped(bench.batch["pixel_values"], rest)
        if ghost:
            _ghost_backward(wrapped, optimizer, losses)
        else:
            losses.mean().backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def _opacus_optimizer(bench: Bench, ghost: bool) -> Any:
    from opacus.optimizers import DPOptimizer, DPOptimizerFastGradientClipping

    make = DPOptimizerFastGradientClipping if ghost else DPOptimizer
    return make(bench.optimizer, noise_multiplier=0.0, max_grad_norm=CLIP_NORM, expected_batch_size=bench.case.rows)


def _ghost_backward(wrapped: nn.Module, optimizer: Any, losses: Tensor) -> None:
    from opacus.utils.fast_gradient_clipping_utils import DPTensorFastGradientClipping

    DPTensorFastGradientClipping(wrapped, optimizer, losses).backward()  # two backward passes


SIDES: dict[str, Callable[[Bench], Step]] = {
    "non-private": non_private,
    "private": private,
    "non-private logical": non_private_logical,
    "private logical": private_logical,
    **COUPLED,
    **{f"opacus {mode}": lambda bench, mode=mode: opacus(bench, mode) for mode in OPACUS_MODES},
}
