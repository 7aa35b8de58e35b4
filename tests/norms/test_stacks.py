"""Jacobians by parameter: both forms of every inner product against gradients written out."""

import pytest
import torch
from torch import Tensor

from sfumato.norms.factors import Outer, Rows
from sfumato.norms.stacks import Product, Stack, Written, alike, cross, stacked, written

N, D, P = 5, 6, 4
SHAPE = torch.Size((P, D))


def product(k: int, steps: int, *, common_first: bool = False, seed: int = 0) -> Stack:
    """As the tape gives it: for each direction one outer product, the input being the same tensor."""
    torch.manual_seed(seed)
    common = torch.randn(N, steps, D).double()
    sides = [torch.randn(N, steps, P).double() for _ in range(k)]
    shape = torch.Size((D, P)) if common_first else SHAPE
    return stacked([[Outer(common, x, shape) if common_first else Outer(x, common, shape)] for x in sides])


def lookup(k: int, seed: int) -> Stack:
    torch.manual_seed(seed)
    entries = torch.randint(0, 7, (N, 3))
    return stacked([[Outer(entries, torch.randn(N, 3, P).double(), torch.Size((7, P)))] for _ in range(k)])


def weights(k: int) -> tuple[Tensor, Tensor]:
    return torch.randn(N, N, k).double(), torch.randn(N, N, k).double()


def slow(one: Stack, other: Stack, a: Tensor, b: Tensor) -> Tensor:
    first, second = written(one).values, written(other).values
    return torch.einsum("ijk,ikp,jil,jlp->ij", a, first, b, second)


@pytest.mark.parametrize("common_first", [False, True])
def test_a_stack_written_out_is_the_gradients_in_the_order_of_the_parameter(common_first: bool) -> None:
    torch.manual_seed(0)
    left = [torch.randn(N, 3, P) for _ in range(2)]
    right = torch.randn(N, 3, D)
    shape = torch.Size((D, P)) if common_first else SHAPE
    outers = [Outer(right, x, shape) if common_first else Outer(x, right, shape) for x in left]
    found = stacked([[outer] for outer in outers])
    assert isinstance(found, Product)
    assert found.common_first == common_first
    want = torch.stack([outer.explicit().values.flatten(1) for outer in outers], 1)
    torch.testing.assert_close(written(found).values, want)


@pytest.mark.parametrize("steps", [1, 2, 40])
def test_gram_matrices_are_those_of_the_gradients(steps: int) -> None:
    for stack in (product(3, steps), product(3, steps, common_first=True), lookup(3, 0)):
        values = written(stack).values
        gram, squares = stack.gram()
        torch.testing.assert_close(gram, values @ values.mT)
        assert bool((squares >= values.square().sum(2) - 1e-12).all())
        assert isinstance(stack, Product)
        assert bool((stack.sizes() >= values.norm(dim=2) - 1e-12).all())


@pytest.mark.parametrize("k", [1, 4, 30], ids=["one", "few", "many"])
def test_cross_terms_in_every_form(k: int) -> None:
    a, b = weights(k)
    pairs = [(product(k, 2, seed=1), product(k, 3, seed=2)), (lookup(k, 1), lookup(k, 2))]
    for one, other in pairs:
        want = slow(one, other, a, b)
        torch.testing.assert_close(cross(one, other, a, b), want)
        torch.testing.assert_close(cross(written(one), written(other), a, b), want)


def test_cross_terms_of_products_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = weights(3)
    one, other = product(3, 2, seed=1), product(3, 3, seed=2)
    monkeypatch.setattr("sfumato.norms.stacks._BLOCK_ELEMENTS", 4 * (P * 5 + 6))
    torch.testing.assert_close(cross(one, other, a, b), slow(one, other, a, b))


def test_the_form_follows_the_shapes_alone() -> None:
    few, many = product(4, 1), product(4, 60)
    assert all(isinstance(stack, Product) for stack in alike(few, few))
    assert all(isinstance(stack, Written) for stack in alike(many, many))
    assert all(isinstance(stack, Written) for stack in alike(few, written(few)))


def test_several_uses_of_one_parameter_add_up() -> None:
    torch.manual_seed(3)
    rights = [torch.randn(N, steps, D) for steps in (2, 3)]
    uses = [[Outer(torch.randn(N, right.shape[1], P), right, SHAPE) for right in rights] for _ in range(2)]
    want = torch.stack([sum(outer.explicit().values.flatten(1) for outer in use) for use in uses], 1)
    found = stacked([list(use) for use in uses])
    assert isinstance(found, Product)
    torch.testing.assert_close(written(found).values, want)
    with_rows = stacked([[use[0], Rows(use[1].explicit().values)] for use in uses])
    assert isinstance(with_rows, Written)
    torch.testing.assert_close(with_rows.values, want)


def test_inputs_that_differ_between_directions_are_written_out() -> None:
    torch.manual_seed(4)
    outers = [Outer(torch.randn(N, 3, P), torch.randn(N, 3, D), SHAPE) for _ in range(2)]
    found = stacked([[outer] for outer in outers])
    assert isinstance(found, Written)
    torch.testing.assert_close(found.values[:, 1], outers[1].explicit().values.flatten(1))
