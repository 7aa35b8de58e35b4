"""Norms of all pairs: directions off the embeddings, blocks, and what rounding could hide."""

import pytest
import torch
from torch import nn

from sfumato import norms
from sfumato.norms import gram
from sfumato.norms.stacks import Written


@pytest.mark.parametrize("dim", [1, 2, 5])
def test_directions_are_orthonormal_and_off_the_row(dim: int) -> None:
    torch.manual_seed(0)
    rows = nn.functional.normalize(torch.randn(7, dim).double(), dim=1)
    rows[0] = torch.eye(dim).double()[0]
    rows[1] = -rows[0]
    found = gram.orthogonal(rows)
    torch.testing.assert_close(found.mT @ found, torch.eye(dim - 1).double().expand(7, -1, -1))
    assert float((found.mT @ rows[..., None]).abs().sum()) < 1e-13


def embed(model: nn.Module, batch: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    first, second = batch.chunk(2, 1)
    return nn.functional.normalize(model(first), dim=1), nn.functional.normalize(model(second), dim=1)


def test_norms_in_blocks_and_in_parts_are_those_of_autograd(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model, batch = nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 4)).double(), torch.randn(7, 6).double()
    measured = norms.prepare(model, lambda m, b: sum(embed(m, b)).sum(1), batch)
    parts = [norms.pair_jacobians(model, embed, part, measured) for part in (batch[:3], batch[3:])]
    u, v = embed(model, batch)
    monkeypatch.setattr(gram, "_ROWS", 2)
    found = norms.shared_norms(u.detach(), v.detach(), [one.of_u for one in parts], [one.of_v for one in parts])
    for i in range(7):
        for j in range(7):
            grads = torch.autograd.grad(u[i] @ v[j], list(model.parameters()), retain_graph=True)
            want = torch.cat([grad.flatten() for grad in grads]).norm()
            assert abs(float(found[i, j] - want)) < 1e-10


def test_what_cancels_beyond_rounding_is_over_estimated() -> None:
    """Two gradients that differ by 1e-6 of their length: float32 cannot tell the norm, so it is not under-stated."""
    torch.manual_seed(0)
    values = 1e3 * torch.randn(1, 1, 400)
    u, v = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    a, b = (u @ gram.orthogonal(v)[0]).item(), (v @ gram.orthogonal(u)[0]).item()
    nearly = values * (-b / a) * (1 + 1e-6)
    sides = [
        gram.Side(
            gram=x @ x.mT, sizes=x.norm(dim=2), summed=x.norm(dim=2), stacks={"written": Written(x, x.norm(dim=2))}
        )
        for x in (values, nearly)
    ]
    true = (b * values.double() + a * nearly.double()).norm()
    found = norms.shared_norms(u, v, [sides[0]], [sides[1]])
    assert float(found) >= float(true) > 0
    assert float(found) <= 1e-2 * float(values.norm())
