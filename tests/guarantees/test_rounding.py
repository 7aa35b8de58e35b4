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
