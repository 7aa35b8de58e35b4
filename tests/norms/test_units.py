"""Groups of rows as the unit of the norm engine, against a loop over groups."""

import pytest
import torch
from tests.norms import (
    cases,
    cases_models,  # noqa: F401  registers its cases
)
from tests.norms.test_ghost import TOLERANCE, clip, distance
from torch import Tensor, nn

from sfumato import norms
from sfumato.base import BadInput, Refused
from sfumato.norms.units import Units

RAGGED, EVEN, WHOLE = (2, 1, 2), (1, 1, 1, 1, 1), (5,)


def coupled(loss_fn, sizes):
    """A loss of groups in which rows weigh one another."""

    def groups(model, batch):
        return torch.stack(
            [part.sum() + part.square().sum() / (1 + part.sum()) for part in loss_fn(model, batch).split(sizes)]
        )

    return groups


def loop(model: nn.Module, group_loss, batch) -> norms.ClippedSum:
    """The definition: one backward pass for each group."""
    parameters = norms.trainable(model)
    losses = group_loss(model, batch)
    total = {name: torch.zeros_like(p) for name, p in parameters.items()}
    lengths, factors = [], []
    for loss in losses:
        grads = torch.autograd.grad(loss, list(parameters.values()), retain_graph=True, allow_unused=True)
        norm = torch.stack([g.square().sum() for g in grads if g is not None]).sum().sqrt()
        lengths.append(norm)
        factors.append(clip(norm))
        for name, grad in zip(parameters, grads, strict=True):
            if grad is not None:
                total[name] += factors[-1] * grad
    return norms.ClippedSum(total, torch.stack(lengths), torch.stack(factors), losses.detach())


BOTH = [(name, dtype) for dtype in (torch.float64, torch.float32) for name in cases.CASES]


@pytest.mark.every(3)
@pytest.mark.parametrize(("name", "dtype"), BOTH, ids=lambda value: str(value).split(".")[-1])
def test_groups_equal_a_loop_over_groups(name: str, dtype: torch.dtype) -> None:
    model, loss_fn, batch = cases.build(name, dtype)
    count = norms.batch_size(batch)
    measured = norms.prepare(model, loss_fn, batch, unused="zero")
    for given in (RAGGED, WHOLE):
        sizes = (*given[:-1], given[-1] - (sum(given) - count))  # one of the cases has four rows
        torch.manual_seed(1)
        fast = norms.clipped_sum(model, coupled(loss_fn, sizes), batch, measured, clip, units=sizes)
        torch.manual_seed(1)
        slow = loop(model, coupled(loss_fn, sizes), batch)
        norm_error, sum_error = distance(fast, slow)
        assert len(fast.norms) == len(sizes)
        assert norm_error < TOLERANCE[dtype]
        assert sum_error < TOLERANCE[dtype]


def test_groups_of_one_row_are_examples() -> None:
    model, loss_fn, batch = cases.build("mlp" if "mlp" in cases.CASES else next(iter(cases.CASES)), torch.float64)
    measured = norms.prepare(model, loss_fn, batch)
    single = norms.clipped_sum(model, loss_fn, batch, measured, clip)
    grouped = norms.clipped_sum(model, loss_fn, batch, measured, clip, units=EVEN)
    assert torch.equal(single.norms, grouped.norms)


@pytest.mark.parametrize("positions", [2, 300], ids=["ghost", "written out"])
@pytest.mark.parametrize("sizes", [(3, 1, 2), (2, 2, 2)], ids=["ragged", "even"])
def test_both_forms_of_a_linear_layer(positions: int, sizes: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    model = nn.Linear(12, 14).double()
    batch = torch.randn(6, positions, 12, dtype=torch.float64)

    def loss_fn(model: nn.Module, x: Tensor) -> Tensor:
        return model(x).tanh().square().sum((1, 2))

    measured = norms.prepare(model, loss_fn, batch)
    fast = norms.clipped_sum(model, coupled(loss_fn, sizes), batch, measured, clip, units=sizes)
    norm_error, sum_error = distance(fast, loop(model, coupled(loss_fn, sizes), batch))
    assert max(norm_error, sum_error) < 1e-12


def test_sizes_that_do_not_fit_are_named() -> None:
    model, x = nn.Linear(2, 2), torch.randn(4, 2)

    def loss_fn(model, x):
        return model(x).sum(1)

    measured = norms.prepare(model, loss_fn, x)
    with pytest.raises(BadInput, match="groups of 5 rows in a micro-batch of 4"):
        norms.clipped_sum(model, coupled(loss_fn, (2, 3)), x, measured, clip, units=(2, 3))
    with pytest.raises(BadInput, match="sizes >= 1"):
        Units((2, 0))
    with pytest.raises(Refused, match="one value per"):
        norms.clipped_sum(model, loss_fn, x, measured, clip, units=(2, 2))
