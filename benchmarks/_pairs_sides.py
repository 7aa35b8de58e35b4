"""What pairs.py compares: each side makes a step, a function of nothing that returns the gradient by parameter."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import torch
from _pairs_models import embed, make
from torch import Tensor, nn

from sfumato.losses import Contrast
from sfumato.losses.contrast import rows
from sfumato.mechanisms import Computation, MeasureOnce, MicroBatch, Ranks, clip_batch, clip_factor
from sfumato.mechanisms.clip import MARGIN
from sfumato.plan import InfoNCE, Pair

Gradient = dict[str, Tensor]
Step = Callable[[], Gradient]
LOSS = InfoNCE(temperature=0.2)
CLIP_NORMS = {"conv": 0.05, "resnet18": 0.5}  # about the median over pairs at the random start
_MICRO_BATCH = {"conv": 2048, "resnet18": 64}  # rows times directions in one micro-batch
_TILE = {"conv": 512, "resnet18": 8}  # pairs whose gradients the recipe holds at a time


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One entry of the table: model, n and d."""

    model: str
    num_rows: int
    dim: int

    @property
    def name(self) -> str:
        """As it stands in the JSON."""
        return f"{self.model}, n = {self.num_rows}, d = {self.dim}"

    @property
    def clip_norm(self) -> float:
        """At which about half of the pairs are clipped."""
        return CLIP_NORMS[self.model]


@dataclass
class Bench:
    """A cell's model and records; its sides share them."""

    cell: Cell
    model: nn.Module = field(init=False)
    batch: dict[str, Tensor] = field(init=False)

    def __post_init__(self) -> None:
        self.model, self.batch = make(self.cell.model, self.cell.dim, self.cell.num_rows)

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """The model's, by name."""
        return dict(self.model.named_parameters())


def non_private(bench: Bench) -> Step:
    """The gradient of InfoNCE over the same rows, plain autograd."""
    everyone = torch.ones(bench.cell.num_rows, bench.cell.num_rows, dtype=torch.bool)

    def step() -> Gradient:
        u, v = embed(bench.model, bench.batch)
        loss = rows(LOSS, u @ v.mT, everyone).sum()
        found = torch.autograd.grad(loss, list(bench.parameters.values()))
        return dict(zip(bench.parameters, found, strict=True))

    return step


def ours(bench: Bench, norms: Literal["exact", "bound"]) -> Step:
    """The pair unit, in micro-batches; the check on synthetic rows comes once, in the first step."""
    cell = bench.cell
    unit = Pair(clip_norm=cell.clip_norm, loss=LOSS, norms=norms, largest_draw=cell.num_rows)
    computation = Computation(model=bench.model, loss_fn=Contrast(embed=embed, loss=LOSS))
    measure = MeasureOnce(computation)
    size = max(1, min(_MICRO_BATCH[cell.model] // cell.dim, cell.num_rows))
    micro_batches = [
        MicroBatch(batch=dict(zip(bench.batch, parts, strict=True)), valid=torch.ones(len(parts[0]), dtype=torch.bool))
        for parts in zip(*(value.split(size) for value in bench.batch.values()), strict=True)
    ]

    def step() -> Gradient:
        clipped, _ = clip_batch(
            computation, micro_batches, unit, clip_factor(unit), measure=measure, reduce=lambda flat: None,
            reseed=lambda chunk: None, ranks=Ranks(), batch_size=float(cell.num_rows),
        )  # fmt: skip
        return dict(clipped.sums)

    return step


def similarity(bench: Bench) -> Callable[[Any, Tensor, Tensor], Tensor]:
    """Return (parameters, picture, picture) -> the cosine of the two embeddings."""

    def of_pair(parameters: Any, x: Tensor, y: Tensor) -> Tensor:
        first, second = (torch.func.functional_call(bench.model, parameters, (one[None],))[0] for one in (x, y))
        return (first / first.norm()) @ (second / second.norm())

    return of_pair


def derivative(bench: Bench) -> Tensor:
    """Return D = dL / dZ (n, n)."""
    with torch.no_grad():
        u, v = embed(bench.model, bench.batch)
    contrast = Contrast(embed=embed, loss=LOSS)
    return contrast.weights(u @ v.mT, torch.ones(len(u), len(u), dtype=torch.bool))[0]


def tiles(bench: Bench) -> list[tuple[Tensor, Tensor]]:
    """Return the places (i, j) of all n^2 pairs, tile by tile."""
    n = bench.cell.num_rows
    return [(pairs // n, pairs % n) for pairs in torch.arange(n * n).split(_TILE[bench.cell.model])]


def recipe(bench: Bench, tile_limit: int | None = None) -> Step:
    """The published recipe: the gradient of every similarity materialised, clipped, weighted by D and added up."""
    gradients = torch.func.vmap(torch.func.grad(similarity(bench)), in_dims=(None, 0, 0))
    x, y, bound = bench.batch["x"], bench.batch["y"], bench.cell.clip_norm * (1 - MARGIN)

    def step() -> Gradient:
        parameters = {name: value.detach() for name, value in bench.parameters.items()}
        total = {name: torch.zeros_like(value) for name, value in parameters.items()}
        by_pair = derivative(bench)
        for i, j in tiles(bench)[:tile_limit]:
            found = gradients(parameters, x[i], y[j])
            squares = sum(value.flatten(1).square().sum(1) for value in found.values())
            assert isinstance(squares, Tensor)
            scale = (bound / squares.sqrt().clamp(min=1e-30)).clamp(max=1.0) * by_pair[i, j]
            for name, value in found.items():
                total[name] += torch.tensordot(scale, value, dims=1)
        return total

    return step


def floor(bench: Bench) -> Step:
    """One forward pass and min(n, d) passes of activation gradients over the rows of both views; no weight gradient."""
    own = Bench(bench.cell)
    for parameter in own.model.parameters():
        parameter.requires_grad_(False)
    starts: list[Tensor] = []
    first = next(module for module in own.model.modules() if isinstance(module, nn.Conv2d))

    def start(module: nn.Module, inputs: Any, out: Tensor) -> Tensor:
        starts.append(out.detach().requires_grad_())
        return starts[-1]

    first.register_forward_hook(start)

    def step() -> Gradient:
        starts.clear()
        both = embed(own.model, own.batch)
        for k in range(min(own.cell.num_rows, own.cell.dim)):
            unit = torch.zeros_like(both[0])
            unit[:, k] = 1.0
            torch.autograd.grad(both, starts, (unit, unit), retain_graph=True)
        return {}

    return step


SIDES: dict[str, Callable[[Bench], Step]] = {
    "non-private": non_private,
    "exact": partial(ours, norms="exact"),
    "bound": partial(ours, norms="bound"),
    "floor": floor,
    "recipe, torch": recipe,
}
