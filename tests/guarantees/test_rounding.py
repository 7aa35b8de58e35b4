"""Terms that cancel, or leave the range of float32: no record reaches others through rounding."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tests.guarantees.alone import C, Run, close, examples
from torch import Tensor, nn

import sfumato as sf
from sfumato.mechanisms import Computation

N, STEPS, WIDTH, HIDDEN = 32, 12, 64, 8
Row = dict[str, Tensor]


class Pooled(nn.Module):
    """A layer on positions whose gradient is a sum over them, and a head on their mean."""

    def __init__(self, hidden: int = HIDDEN) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.core, self.head = nn.Linear(WIDTH, hidden, bias=False), nn.Linear(hidden, 2, bias=False)


def pooled_loss(model: Any, batch: Row) -> Tensor:
    return F.cross_entropy(model.head(model.core(batch["x"]).mean(1)), batch["y"], reduction="none")


def row(seed: int, big: float = 0.0, label: int | None = None) -> Row:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(1, STEPS, WIDTH, generator=generator)
    if big:
        x[:, 0] = big * torch.randn(WIDTH, generator=generator)  # no product of two of these is exact
        x[:, -1] = -x[:, 0]
    return {"x": x, "y": torch.tensor([seed % 2 if label is None else label])}


def started(loss: Any, model: nn.Module) -> Run:
    return Run(Computation(model=model, loss_fn=loss), sf.Example(clip_norm=C), N, row(0))


@pytest.mark.parametrize("place", [0, N // 2, N - 1])
@pytest.mark.parametrize("big", [0.0, 2.0**6, 2.0**16, 2.0**30, 2.0**40])
def test_terms_that_cancel_reach_no_other_row(big: float, place: int) -> None:
    run = started(pooled_loss, Pooled())
    rows = [row(seed) for seed in range(N)]
    sums = []
    for label in (0, 1):
        rows[place] = row(99, big, label)
        sums.append(run.sums(rows))
        assert close(sums[-1], examples(run.computation.model, pooled_loss, rows), torch.float32)
        assert run.tally.num_alone == (big > 2.0**10)
    assert float((sums[0] - sums[1]).norm()) <= 2 * C


@pytest.mark.parametrize("hidden", [HIDDEN, 64], ids=["norms of gradients", "norms of Gram matrices"])
def test_many_rows_whose_terms_cancel_add_what_they_add_alone(hidden: int) -> None:
    """By a norm rounded up their sum would be a quarter of it, until one record sent all of them another way."""
    run = started(pooled_loss, Pooled(hidden))
    for big in (30.0, 300.0, 3e3, 3e4):
        rows = [row(seed, big, 0) for seed in range(N)]
        wanted = examples(run.computation.model, pooled_loss, rows)
        assert float((run.sums(rows) - wanted).norm()) <= 1e-4 * float(wanted.norm())


LAYERS: dict[str, tuple[Any, tuple[int, ...], tuple[int, ...]]] = {
    "bias": (lambda: nn.Linear(3, 16), (64, 3), (64, 16)),
    "layer norm": (lambda: nn.LayerNorm(16), (64, 16), (64, 16)),
    "written out": (lambda: nn.Linear(4, 4, bias=False), (64, 4), (64, 4)),
    "convolution of few positions": (lambda: nn.Conv1d(4, 8, 1, bias=False), (4, 64), (8, 64)),
    "convolution of many": (lambda: nn.Conv2d(2, 8, 1, bias=False), (2, 16, 16), (8, 16, 16)),
    "table": (lambda: Factors(16), (64, 16), (64, 16)),
}


class Factors(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.factors = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return self.factors * x


def cancelling(name: str, seed: int, big: float) -> Row:
    """Equal inputs at both halves of the positions, and weights that are each other's negatives, plus something."""
    _, of_x, of_w = LAYERS[name]
    generator = torch.Generator().manual_seed(seed)
    x, w = (torch.randn(1, *shape, generator=generator) for shape in (of_x, of_w))
    dim = -1 if "convolution" in name else 1
    half = x.shape[dim] // 2
    twice = [x.narrow(dim, 0, half)] * 2, [big * w.narrow(dim, 0, half), -big * w.narrow(dim, 0, half)]
    x, w = (torch.cat(halves, dim) for halves in twice)
    w.select(dim, 0).add_(torch.randn(w.select(dim, 0).shape, generator=generator))
    return {"x": x, "w": w, "n": torch.tensor([5])}


@pytest.mark.parametrize("big", [1.0, 1e5, 1e10])
@pytest.mark.parametrize("name", list(LAYERS))
def test_rows_that_cancel_add_the_same_whether_others_let_them_go_jointly(name: str, big: float) -> None:
    """One record of gradient zero decides whether rows are sorted, so whether they may go jointly."""

    def sorted_loss(model: Any, batch: Row) -> Tensor:
        order = (batch["n"] == 9).long().argsort(stable=True)
        return (model(batch["x"][order])[order.argsort()] * batch["w"]).flatten(1).sum(1)

    torch.manual_seed(0)
    model, rows = LAYERS[name][0](), [cancelling(name, seed, big) for seed in range(15)]
    run = Run(Computation(model=model, loss_fn=sorted_loss), sf.Example(clip_norm=C), 16, cancelling(name, 99, 1.0))
    empty = {key: torch.zeros_like(value) for key, value in rows[0].items()}
    sums = []
    for length in (5, 9):
        sums.append(run.sums([{**empty, "n": torch.tensor([length])}, *rows]))
    assert run.tally.num_alone == 16
    assert float((sums[0] - sums[1]).norm()) <= 1e-3 * C


class Beside(nn.Module):
    """A layer norm whose gradient cancels, and a layer whose output does not count while its input is huge."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.norm, self.other = nn.LayerNorm(16), nn.Linear(4, 4, bias=False)


def test_a_bound_that_is_not_a_number_hides_no_row_that_cancels() -> None:
    def loss(model: Any, batch: Row) -> Tensor:
        order = (batch["n"] == 9).long().argsort(stable=True)
        seen = (model.norm(batch["x"][order])[order.argsort()] * batch["w"]).flatten(1).sum(1)
        return seen + batch["g"] * model.other(batch["z"]).flatten(1).sum(1)

    def given(seed: int, big: float, huge: float = 1.0, count: float = 1.0) -> Row:
        return {**cancelling("layer norm", seed, big), "z": torch.full((1, 64, 4), huge), "g": torch.tensor([count])}

    run = Run(Computation(model=Beside(), loss_fn=loss), sf.Example(clip_norm=C), 16, given(99, 1.0))
    rows = [given(seed, 1e10, 1e25, 0.0) for seed in range(15)]
    empty = {key: torch.zeros_like(value) for key, value in rows[0].items()}
    sums = [run.sums([{**empty, "n": torch.tensor([length])}, *rows]) for length in (5, 9)]
    assert float((sums[0] - sums[1]).norm()) <= 1e-3 * C


class Bag(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(8, 1)


@pytest.mark.parametrize("steps", [1024, 4096])
def test_a_token_that_is_repeated_does_not_pass_the_clip_norm(steps: int) -> None:
    """Equal terms, as of padding: a long sum in a few float32 numbers loses a percent of them."""

    def of(value: float, token: int = 0) -> Row:
        return {"ids": torch.full((1, steps), token), "w": torch.full((1, steps), value)}

    def loss(model: Any, batch: Row) -> Tensor:
        return (model.table(batch["ids"])[..., 0] * batch["w"]).sum(1)

    run = Run(Computation(model=Bag(), loss_fn=loss), sf.Example(clip_norm=C), 2, of(1.0))
    for number in range(6):
        value = 0.05 * 1.09**number
        ends = [run.sums([of(sign * value), of(0.0, 1)]) for sign in (1.0, -1.0)]
        assert run.tally.num_alone == 0
        assert float((ends[0] - ends[1]).norm()) <= 2 * C


class Views(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.norm, self.one, self.two = nn.LayerNorm(6), nn.Linear(6, 6), nn.Linear(6, 6)


def views(model: Any, batch: Row) -> tuple[Tensor, Tensor]:
    seen = (model.norm(batch["x"]) * batch["w"][..., None]).sum(1)
    return F.normalize(seen + model.one(batch["y"]), dim=1), F.normalize(model.two(batch["y"]), dim=1)


def view(seed: int, big: float = 0.0) -> Row:
    generator = torch.Generator().manual_seed(seed)
    x, w, y = (torch.randn(1, *shape, generator=generator) for shape in ((16, 6), (16,), (6,)))
    w /= 16
    if big:
        x[:, 1::2], w[:, 0::2], w[:, 1::2] = x[:, 0::2].clone(), big, -big
    return {"x": x, "w": w, "y": y}


@pytest.mark.parametrize("norms", ["exact", "bound"])
def test_a_row_whose_jacobian_cancels_moves_pairs_no_further(norms: Any) -> None:
    """The norms of pairs and the sum of their gradients come from two passes, which round differently."""
    loss = sf.InfoNCE(temperature=0.1)
    unit = sf.Pair(clip_norm=C, loss=loss, largest_draw=12, norms=norms)
    run = Run(Computation(model=Views(), loss_fn=sf.Contrast(embed=views, loss=loss)), unit, 12, view(0))
    rows = [view(seed) for seed in range(1, 12)]
    base = run.sums([*rows, view(77)], groups=12)
    for big in (1e4, 1e8, 1e10, 1e12):
        moved = float((run.sums([*rows, view(77, big)], groups=12) - base).norm())
        assert moved <= 0.2 * unit.swap, big


class Scaled(nn.Module):
    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.core = nn.Linear(width, out, bias=False)


def scaled_loss(model: Any, batch: Row) -> Tensor:
    return (model.core(batch["x"]) * batch["y"]).flatten(1).sum(1)


@pytest.mark.parametrize(("small", "large"), [(2e-23, 1e18), (1e20, 1e-20), (1e-20, 1e20), (1e-4, 1e4)])
@pytest.mark.parametrize("clip_norm", [C, 1e-3])
@pytest.mark.parametrize("steps", [1, 16])
def test_entries_out_of_the_range_of_squares_are_measured(
    small: float, large: float, steps: int, clip_norm: float
) -> None:
    model = Scaled(256, 128)

    def pair(seed: int, scale: tuple[float, float]) -> Row:
        generator = torch.Generator().manual_seed(seed)
        x, y = (torch.randn(1, steps, width, generator=generator) for width in (256, 128))
        return {"x": x * scale[0], "y": y * scale[1]}

    run = Run(Computation(model=model, loss_fn=scaled_loss), sf.Example(clip_norm=clip_norm), 8, pair(0, (1.0, 1.0)))
    honest = [pair(seed, (1.0, 1.0)) for seed in range(7)]
    hostile = [pair(8, (small, sign * large)) for sign in (1, -1)]
    sums = [run.sums([*honest, one]) for one in hostile]
    assert float((sums[0] - sums[1]).norm()) <= 2 * clip_norm
    for found, one in zip(sums, hostile, strict=True):
        wanted = examples(model, scaled_loss, [*honest, one], clip_norm)
        assert float((found - wanted).norm()) <= 1e-4 * clip_norm
