"""Random numbers that rows share are refused: what they do to a record that joins, and what passes."""

import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sfumato.base import Refused
from sfumato.norms import clipped_sum, prepare


class Net(nn.Module):
    """Two layers with something random between them."""

    def __init__(self, between) -> None:
        super().__init__()
        self.first, self.last, self.between = nn.Linear(4, 5), nn.Linear(5, 2), between

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.between(self, self.first(x).tanh()))


def loss_fn(model: nn.Module, x: Tensor) -> Tensor:
    return model(x).square().sum(1)


def layer_drop(share):
    return lambda net, h: h if torch.rand([]) < share else 2 * h


SHARED = {
    "dropout of a weight": lambda net, h: F.linear(h, F.dropout(net.first.weight @ net.first.weight.T, 0.5)),
    "one mask for all": lambda net, h: h * F.dropout(torch.ones(5)),
    "depth of the batch": lambda net, h: h * torch.empty(1, 1).bernoulli_(0.5),
    "layer drop": layer_drop(0.1),
    "noise in place": lambda net, h: h + torch.empty(5).normal_(),
}
ALONE = {
    "dropout": lambda net, h: F.dropout(h, 0.5),
    "depth of each row": lambda net, h: h * torch.empty(len(h), 1).bernoulli_(0.5),
    "noise": lambda net, h: h + torch.randn_like(h),
    "layer drop of 0": layer_drop(0.0),
    "nothing": lambda net, h: h,
}


@pytest.mark.parametrize("between", SHARED.values(), ids=SHARED)
def test_what_rows_share_is_refused(between) -> None:
    with pytest.raises(Refused, match="once for a whole micro-batch"):
        prepare(Net(between), loss_fn, torch.randn(4, 4))


@pytest.mark.parametrize("between", ALONE.values(), ids=ALONE)
def test_what_each_row_has_of_its_own_passes(between) -> None:
    net, batch, before = Net(between), torch.zeros(4, 4), torch.get_rng_state()
    prepare(net, loss_fn, batch)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(("name", "draw"), [("random", random.random), ("numpy", np.random.rand)])
def test_other_generators_are_refused_by_name(name, draw) -> None:
    with pytest.raises(Refused, match=f"from {name}"):
        prepare(Net(lambda net, h: h if draw() > 2 else 2 * h), loss_fn, torch.randn(4, 4))


def test_draws_that_take_as_many_numbers_as_values_ask_for_are_refused() -> None:
    net = Net(lambda net, h: F.dropout(h * torch.poisson(h.detach().abs() + 0.5), 0.5))
    with pytest.raises(Refused, match="poisson"):
        prepare(net, loss_fn, torch.randn(4, 4))


def test_another_path_for_another_size_is_refused() -> None:
    def row_by_row(net, h):
        return h * torch.stack([torch.rand(5) for _ in h])

    with pytest.raises(Refused, match="in another way for another batch size"):
        prepare(Net(row_by_row), loss_fn, torch.randn(4, 4))


def test_a_shared_mask_does_break_the_distance() -> None:
    """Why: a record of zero gradient that moves the others on to another micro-batch moves the sum past C."""
    clip_norm = 1.0
    net = Net(lambda net, h: h * torch.empty(1, 1).bernoulli_(0.5))
    rows = torch.randn(24, 4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sfumato.norms.recorder.check_draws", lambda *_: None)
        measured = prepare(net, loss_fn, rows[:2])

    def total(drawn: Tensor) -> Tensor:
        found = torch.zeros(0)
        for chunk, start in enumerate(range(0, len(drawn), 2)):
            torch.manual_seed(chunk)
            part, valid = drawn[start : start + 2], torch.ones(2, dtype=torch.bool)
            if len(part) < 2:
                part, valid = part.expand(2, -1), torch.tensor([True, False])
            done = clipped_sum(
                net, loss_fn, part, measured, lambda n: (clip_norm / n).clamp(max=1.0), valid=valid
            )  # fmt: skip
            flat = torch.cat([g.flatten() for g in done.grads.values()])
            found = found + flat if len(found) else flat
        return found

    joined = torch.cat([torch.zeros(1, 4), rows])
    assert (total(joined) - total(rows)).norm() > clip_norm
