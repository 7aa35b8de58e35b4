import numpy as np
import pytest
import torch

from sfumato.base import BadInput
from sfumato.theory import centred_cross_covariance, contrastive_loss, gradients, minimiser, penalty, trace_loss


def case(rank: int = 3, d1: int = 9, d2: int = 7, rows: int = 12) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(rows)
    shapes = ((rank, d1), (rank, d2), (rows, d1), (rows, d2))
    return tuple(rng.standard_normal(shape) + 0.3 for shape in shapes)


@pytest.mark.parametrize("rows", [2, 3, 12, 200])
def test_the_identity_is_exact(rows: int) -> None:
    g1, g2, x, other = case(rows=rows)
    looped = sum(
        (g1 @ x[i]) @ (g2 @ other[j]) - (g1 @ x[i]) @ (g2 @ other[i]) for i in range(rows) for j in range(rows)
    )
    written = contrastive_loss(g1, g2, x, other)
    assert written == pytest.approx(looped / (rows * (rows - 1)), rel=1e-11)
    assert trace_loss(g1, g2, centred_cross_covariance(x, other)) == pytest.approx(written, rel=1e-12, abs=1e-12)


def test_gradients_are_those_of_autograd_on_the_sum() -> None:
    g1, g2, x, other = case()
    t1, t2 = (torch.tensor(g, requires_grad=True) for g in (g1, g2))
    s = (torch.tensor(x) @ t1.T) @ (torch.tensor(other) @ t2.T).T
    away = s.sum() - len(x) * s.diagonal().sum()
    loss = away / (len(x) * (len(x) - 1)) + 0.35 * (t1.T @ t2).square().sum()
    loss.backward()
    on_1, on_2 = gradients(g1, g2, centred_cross_covariance(x, other), 0.7)
    assert t1.grad is not None
    assert t2.grad is not None
    assert np.allclose(on_1, t1.grad.numpy(), rtol=0, atol=1e-12 * np.abs(on_1).max())
    assert np.allclose(on_2, t2.grad.numpy(), rtol=0, atol=1e-12 * np.abs(on_2).max())
    whole = trace_loss(g1, g2, centred_cross_covariance(x, other)) + penalty(g1, g2, 0.7)
    assert whole == pytest.approx(loss.item(), rel=1e-12)


def test_the_minimiser_has_no_gradient_and_no_better_neighbour() -> None:
    s = np.random.default_rng(1).standard_normal((9, 7))
    g1, g2 = minimiser(s, 3, 0.7)
    values = np.linalg.svd(s, compute_uv=False)
    least = trace_loss(g1, g2, s) + penalty(g1, g2, 0.7)
    assert least == pytest.approx(-np.sum(values[:3] ** 2) / (2 * 0.7), rel=1e-12)
    assert max(np.abs(on).max() for on in gradients(g1, g2, s, 0.7)) < 1e-12
    assert np.allclose(g1 @ g1.T, g2 @ g2.T)
    rng = np.random.default_rng(2)
    for size in (1e-3, 0.1, 1.0) * 20:
        a, b = g1 + size * rng.standard_normal(g1.shape), g2 + size * rng.standard_normal(g2.shape)
        assert trace_loss(a, b, s) + penalty(a, b, 0.7) > least


def test_the_minimum_is_the_same_all_along_an_invertible_change() -> None:
    s = np.random.default_rng(1).standard_normal((9, 7))
    g1, g2 = minimiser(s, 3, 1.0)
    a = np.random.default_rng(3).standard_normal((3, 3))
    moved = (a @ g1, np.linalg.inv(a).T @ g2)
    least = trace_loss(g1, g2, s) + penalty(g1, g2, 1.0)
    assert trace_loss(*moved, s) + penalty(*moved, 1.0) == pytest.approx(least, rel=1e-10)


def test_what_has_no_loss_or_minimum_is_named() -> None:
    g1, g2, x, other = case()
    with pytest.raises(BadInput, match="at least two rows"):
        contrastive_loss(g1, g2, x[:1], other[:1])
    with pytest.raises(BadInput, match="rho"):
        minimiser(np.eye(4), 2, 0.0)
    with pytest.raises(BadInput, match=r"rank must be in 1 \.\. 4"):
        minimiser(np.eye(4), 5, 1.0)
