"""The Jacobian of an embedding by one parameter, for every row: k gradients of each row, in their cheaper form.

Legend: N rows, k directions of the embedding, T positions, P and D sizes of a weight, T x T' pairs of positions.

Gradients of one layer for all directions of one row are sum_t moving_kt common_t^T: the layer's input is the same for
all k. Both inner products that are needed then have two forms. Within a row, with M = common common^T,

    <G_k, G_l> = sum_ts M_ts <moving_kt, moving_ls>;

between row i of the one tower and row j of the other, for sums over directions A = sum_k a_k G_ik, B = sum_l b_l G'_jl,

    <A, B> = sum_ts <sum_k a_k moving_ikt, sum_l b_l moving'_jls> <common_it, common'_js>,

or the gradients are written out. What costs less is a matter of shapes alone.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from sfumato.norms.factors import Outer, Rows, frobenius

# In multiply-adds of a large matrix product, measured on CPU: a sum over k directions is a product with one short side,
# and what it makes is written to memory; a product for each pair of rows is small.
_SHORT_SIDE = 20
_SMALL_PRODUCT = 2
_BLOCK_ELEMENTS = 1 << 21  # of what is made for pairs of rows at a time: about a core's cache
_COLUMNS = 512


@dataclass(frozen=True)
class Written:
    """Gradients written out.

    Attributes:
        values: (N, k, W).
        summed: (N, k), at least the size of all partial sums that they were made of.
    """

    values: Tensor
    summed: Tensor

    @property
    def num_bytes(self) -> int:
        """Memory that it holds."""
        return self.values.numel() * self.values.element_size()

    def gram(self) -> tuple[Tensor, Tensor]:
        """Return <G_k, G_l> of every row, (N, k, k), and the squares of what it is rounded in proportion to, (N, k)."""
        found = self.values @ self.values.mT
        return found, found.diagonal(dim1=1, dim2=2)

    def take(self, rows: slice) -> "Written":
        """Return the rows of a slice."""
        return Written(self.values[rows], self.summed[rows])


@dataclass(frozen=True)
class Product:
    """Gradients sum_t moving_kt common_t^T.

    Attributes:
        moving: (N, k, P, T).
        common: (N, T, D); of a table lookup the looked-up entries, integers (N, T).
        shape: of the parameter.
        common_first: whether `common` goes along the parameter's first dimension, as in x W.
    """

    moving: Tensor
    common: Tensor
    shape: torch.Size
    common_first: bool

    @property
    def is_lookup(self) -> bool:
        return not self.common.is_floating_point()

    @property
    def num_bytes(self) -> int:
        """Memory that it holds."""
        return sum(x.numel() * x.element_size() for x in (self.moving, self.common))

    def written(self) -> Written:
        """Return the gradients written out, in the parameter's own order."""
        count, k, width, steps = self.moving.shape
        if self.is_lookup:
            table = self.moving.new_zeros(count, k, width, self.shape[0])
            table.scatter_add_(3, self.common[:, None, None].expand(count, k, width, steps), self.moving)
            return Written(table.mT.flatten(2), self.sizes())
        values = (self.moving.flatten(1, 2) @ self.common).view(count, k, width, -1)
        return Written((values.mT if self.common_first else values).flatten(2), self.sizes())

    def gram(self) -> tuple[Tensor, Tensor]:
        """As of `Written`."""
        _, k, width, steps = self.moving.shape
        depth = 1 if self.is_lookup else self.common.shape[2]
        by_positions = steps * steps * (depth + k * width) + k * k * width * steps
        if not self.is_lookup and k * width * depth * (steps + k) < by_positions:
            return self.written().gram()
        spread = self.moving.flatten(1, 2) @ self._among(self, one_row=True)
        return spread.view_as(self.moving).flatten(2) @ self.moving.flatten(2).mT, self.sizes().square()

    def sizes(self) -> Tensor:
        """Return sum_t |moving_kt| |common_t|, (N, k): sums over positions are rounded in proportion to it."""
        each = self.moving.square().sum(2).sqrt()
        return (
            each.sum(2) if self.is_lookup else (each @ torch.linalg.vector_norm(self.common, dim=2)[..., None])[..., 0]
        )

    @property
    def summed(self) -> Tensor:
        """What no partial sum exceeds where the gradients are written out, (N, k)."""
        return self.sizes()

    def _among(self, other: "Product", one_row: bool = False) -> Tensor:
        """Return <common_it, common'_js> as (I, J, T, T'); of each row with itself (N, T, T)."""
        if self.is_lookup and one_row:
            return (self.common[:, :, None] == other.common[:, None]).to(self.moving.dtype)
        if self.is_lookup:
            return (self.common[:, None, :, None] == other.common[None, :, None]).to(self.moving.dtype)
        if one_row:
            return self.common @ other.common.mT
        found = self.common.flatten(0, 1) @ other.common.flatten(0, 1).mT
        return found.view(len(self.common), self.common.shape[1], len(other.common), -1).transpose(1, 2)

    def take(self, rows: slice) -> "Product":
        """Return the rows of a slice."""
        return Product(self.moving[rows], self.common[rows], self.shape, self.common_first)


Stack = Written | Product


def stacked(factors: list[list[Outer | Rows]]) -> Stack:
    """Return the gradients of one parameter from its uses, for each direction a list of them."""
    found = [_of_use(list(use)) for use in zip(*factors, strict=True)]
    if len(found) == 1:
        return found[0]
    products = [one for one in found if isinstance(one, Product) and not one.is_lookup]
    alike = {(one.moving.shape[2], one.common.shape[2], one.common_first) for one in products}
    if len(products) == len(found) and len(alike) == 1:  # several uses are more positions
        moving, common = (torch.cat([getattr(p, n) for p in products], i) for n, i in (("moving", 3), ("common", 1)))
        return Product(moving, common, products[0].shape, products[0].common_first)
    uses = [written(one) for one in found]
    return Written(torch.stack([use.values for use in uses]).sum(0), torch.stack([use.summed for use in uses]).sum(0))


def written(stack: Stack) -> Written:
    """Return the gradients written out."""
    return stack if isinstance(stack, Written) else stack.written()


def _of_use(factors: list[Outer | Rows]) -> Stack:
    outers = [factor for factor in factors if isinstance(factor, Outer)]
    if len(outers) < len(factors):
        rows = [factor.explicit() if isinstance(factor, Outer) else factor for factor in factors]
        return _stacked(rows)
    first = outers[0]
    for common_first in (first.is_lookup, not first.is_lookup):
        moving, common = ("right", "left") if common_first else ("left", "right")
        if all(_same(getattr(one, common), getattr(first, common)) for one in outers):
            sides = torch.stack([getattr(one, moving).mT for one in outers], 1)
            return Product(sides, getattr(first, common).detach(), first.shape, common_first)  # else it holds the graph
    return _stacked([one.explicit() for one in outers])


def _stacked(rows: list[Rows]) -> Written:
    """Return gradients of one parameter, also of a scalar, direction by direction."""
    values = torch.stack([row.values.reshape(len(row.values), -1) for row in rows], 1)
    sizes = [frobenius(row.values) if row.summed is None else row.summed for row in rows]
    return Written(values, torch.stack(sizes, 1))


def _same(a: Tensor, b: Tensor) -> bool:
    alike = a.shape == b.shape and a.dtype == b.dtype
    return a is b or (alike and ((a.data_ptr() == b.data_ptr() and a.stride() == b.stride()) or torch.equal(a, b)))


# ---------------------------------------------------------------- between rows of two towers


def alike(one: Stack, other: Stack) -> tuple[Stack, Stack]:
    """Return both in one form, the one in which `cross` costs less."""
    if isinstance(one, Product) and isinstance(other, Product) and one.is_lookup == other.is_lookup:
        (_, k, width, steps), others = one.moving.shape, other.moving.shape[3]
        depth = 1 if one.is_lookup else one.common.shape[2]
        of_pairs = steps * others * (depth + _SMALL_PRODUCT * width) + (k + _SHORT_SIDE) * width * (steps + others)
        if one.common_first == other.common_first and of_pairs < one.shape.numel() * _per_element(k):
            return one, other
    return written(one), written(other)


def _per_element(k: int) -> int:
    return min(k * k, 2 * (k + _SHORT_SIDE))


def cross(one: Stack, other: Stack, a: Tensor, b: Tensor) -> Tensor:
    """Return <sum_k a_ijk G_ik, sum_l b_jil G'_jl>, (I, J), from a (I, J, k) and b (J, I, k)."""
    if isinstance(one, Product) and isinstance(other, Product):
        return _cross_of_products(one, other, a, b)
    assert isinstance(one, Written)
    assert isinstance(other, Written)
    k = a.shape[2]
    if k * k <= _per_element(k):
        table = (one.values.flatten(0, 1) @ other.values.flatten(0, 1).mT).view(len(a), k, len(b), -1)
        return ((table * b.transpose(0, 1)[:, None]).sum(3).mT * a).sum(2)
    found = torch.zeros_like(a)
    for start in range(0, one.values.shape[2], _COLUMNS):
        columns = slice(start, start + _COLUMNS)
        found += (b @ other.values[..., columns]).transpose(0, 1) @ one.values[..., columns].mT
    return (found * a).sum(2)


def _cross_of_products(one: Product, other: Product, a: Tensor, b: Tensor) -> Tensor:
    found = a.new_empty(a.shape[:2])
    steps, others = one.moving.shape[3], other.moving.shape[3]
    each = one.moving.shape[2] * (steps + others) + steps * others
    most = max(1.0, (_BLOCK_ELEMENTS / each) ** 0.5)
    size, width = (math.ceil(count / math.ceil(count / most)) for count in a.shape[:2])  # even pieces
    for i in range(0, len(a), size):
        for j in range(0, len(b), width):
            rows, columns = slice(i, i + size), slice(j, j + width)
            found[rows, columns] = _cross_block(one.take(rows), other.take(columns), a[rows, columns], b[columns, rows])
    return found


def _cross_block(one: Product, other: Product, a: Tensor, b: Tensor) -> Tensor:
    left = (a @ one.moving.flatten(2)).view(*a.shape[:2], *one.moving.shape[2:])  # (I, J, P, T)
    right = (b @ other.moving.flatten(2)).view(*b.shape[:2], *other.moving.shape[2:]).transpose(0, 1)
    inner = (left.mT.flatten(0, 1) @ right.flatten(0, 1)).view(*a.shape[:2], *left.shape[3:], right.shape[3])
    return (inner * one._among(other)).flatten(2).sum(2)
