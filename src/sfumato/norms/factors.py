"""Per-example gradients in the form in which they are cheapest: norms, inner products and weighted sums.

Legend: N examples, T positions (tokens, pixels), P rows and D columns of a weight, V entries of a table.

A weight W (P, D) that acts on positions has the per-example gradient G_n = sum_t l_nt r_nt^T, the sum of outer
products of output gradients l and inputs r (Goodfellow 2015, arXiv 1510.01799; Lee & Kifer 2021,
arXiv 2009.03106). `Outer` holds l and r and never needs G_n:

    <G_n, H_n> = sum_{t,s} (L L'^T)_ts (R R'^T)_ts         for G = L^T R, H = L'^T R'                (ghost norm)
    sum_n c_n G_n = (c L)^T R                                                                        (book-keeping)

A row of an embedding table is an outer product with a one-hot l, so tied and repeated weights need no further case.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from sfumato.norms.lengths import squared_norms
from sfumato.norms.scratch import Scratch

# Multiply-adds that fit into the time in which one element of an explicit per-example gradient is written and read
# back, measured on CPU; a bandwidth-bound element is that much dearer than an element of a matrix product.
_TRAFFIC = 24
# What is not kept is formed for so many elements at a time: few enough for a core's cache on a CPU, where fresh memory
# costs three times the arithmetic; on other devices enough to keep them busy.
_PIECE_ELEMENTS = {"cpu": 1 << 18}
_LARGE_PIECE = 1 << 25
_ONE_DOT = 1 << 15  # entries of a dot product that may go through a few running sums: over 2^24 equal ones 1 % is lost


def pieces(tensor: Tensor, elements_each: int) -> list[slice]:
    """Return slices over the examples of `tensor` (N, ...), where one example takes `elements_each` elements."""
    count = len(tensor)
    size = max(1, _PIECE_ELEMENTS.get(tensor.device.type, _LARGE_PIECE) // max(elements_each, 1))
    return [slice(start, start + size) for start in range(0, count, size)]


def explicit_is_better(steps: int, rows: int, width: int) -> bool:
    """Whether G (rows x width) from `steps` positions is better written out than kept as a product.

    Written out it costs its memory traffic, but the weighted sum over examples is then nearly free; the ghost norm
    costs T^2 (P + D) on top of the weighted product. It must not take much more memory than the two factors either.
    """
    return _TRAFFIC * rows * width <= steps * steps * (rows + width) and rows * width <= 2 * steps * (rows + width)


@dataclass(frozen=True)
class Sizes:
    """What is known of every example's gradient G of one parameter, (N,) each.

    Attributes:
        squared: ||G||^2, to within rounding: at most about 4 u reach^2 of a unit u.
        reach: sum over positions of |l_t||r_t|, which no partial sum of G exceeds; ||G|| where nothing is summed later.
        largest: of all |l_t|, and of all |r_t|.
        summed: what no partial sum exceeded when G was written out; zero where it was not.
    """

    squared: Tensor
    reach: Tensor
    largest: tuple[Tensor, Tensor]
    summed: Tensor


@dataclass(frozen=True)
class Rows:
    """Per-example gradients written out.

    Attributes:
        values: (N, *parameter shape).
        summed: (N,), at least the size of all partial sums that they were made of; None: they are no sums.
    """

    values: Tensor
    summed: Tensor | None = None

    @classmethod
    def of_sums(cls, values: Tensor, terms: Tensor) -> "Rows":
        """Return gradients whose entries are sums of m of the `terms` (N, ...) each: sum_t |x_t| <= sqrt(m) |x|."""
        several = terms[0].numel() // max(values[0].numel(), 1) if len(terms) else 1
        return cls(values, math.sqrt(several) * frobenius(terms)) if several > 1 else cls(values)

    @property
    def count(self) -> int:
        return len(self.values)

    def take(self, index: Tensor) -> "Rows":
        return Rows(self.values[index], None if self.summed is None else self.summed[index])

    def weighted_sum(self, weights: Tensor) -> Tensor:
        """Return sum_n weights_n G_n, in a new tensor of the parameter's shape."""
        return (weights.to(self.values.dtype) @ self.values.reshape(len(self.values), -1)).view(self.values.shape[1:])

    def sizes(self) -> Sizes:
        squared = squared_norms(self.values)
        zeros = torch.zeros_like(squared)
        return Sizes(squared, squared.sqrt(), (zeros, zeros), zeros if self.summed is None else self.summed)

    def double(self) -> "Rows":
        return Rows(self.values.double(), self.summed)


@dataclass(frozen=True)
class Outer:
    """Per-example gradients sum_t left_t right_t^T, reshaped to `shape`.

    Attributes:
        left: output gradients (N, T, P); or, for a table lookup, the looked-up entries (N, T), integers.
        right: inputs (N, T, D); for a table lookup the output gradients.
        shape: shape of the parameter, P * D elements.
        gram: cache of `R R^T` shared by all layers that read the same input.
    """

    left: Tensor
    right: Tensor
    shape: torch.Size
    gram: "GramCache" = field(default_factory=lambda: GramCache())

    @property
    def count(self) -> int:
        return len(self.right)

    @property
    def is_lookup(self) -> bool:
        return not self.left.is_floating_point()

    @property
    def num_rows(self) -> int:
        return self.shape[0] if self.is_lookup else self.left.shape[-1]

    def take(self, index: Tensor) -> "Outer":
        return Outer(self.left[index], self.right[index], self.shape)

    def weighted_sum(self, weights: Tensor) -> Tensor:
        """Return sum_n weights_n G_n, in a new tensor of the parameter's shape."""
        if self.is_lookup:
            table = self.right.new_zeros(self.num_rows, self.right.shape[-1])
            return self.add_weighted(table, weights).view(self.shape)
        by_position = weights.to(self.left.dtype)[:, None, None]
        left, right = self.left, self.right
        if left.shape[-1] < right.shape[-1]:  # scale the smaller one: the head of a vocabulary is a large left
            left = left * by_position
        else:
            right = right * by_position
        return (left.flatten(0, 1).t() @ right.flatten(0, 1)).view(self.shape)

    def add_weighted(self, total: Tensor, weights: Tensor) -> Tensor:
        """Add sum_n weights_n G_n to `total`, in place; a lookup touches the looked-up rows alone."""
        if not self.is_lookup:
            return total.add_(self.weighted_sum(weights))
        scaled = self.right * weights.to(self.right.dtype)[:, None, None]
        entries, where = self.left.unique(return_inverse=True)
        found = total.new_zeros(len(entries), scaled.shape[-1], dtype=torch.float64)
        for piece in pieces(scaled, scaled[0].numel()):  # one padding token may be most of a batch: see `lengths`
            found.index_add_(0, where[piece].flatten(), scaled[piece].flatten(0, 1).double())
        total.view(self.num_rows, -1).index_add_(0, entries, found.to(total.dtype))
        return total

    def explicit(self, scratch: Scratch | None = None) -> Rows:
        """Return the per-example gradients written out, N * P * D elements, in memory of `scratch` if it is given."""
        count, _, width = self.right.shape
        if self.is_lookup:
            table = self.right.new_zeros(count, self.num_rows, width)
            table.scatter_add_(1, self.left[..., None].expand_as(self.right), self.right)
            return Rows.of_sums(table.view(count, *self.shape), self.right)
        reach = frobenius(self.left) * frobenius(self.right) if self.right.shape[1] > 1 else None
        out = None if scratch is None else scratch.empty((count, self.left.shape[-1], width), self.left)
        return Rows(torch.bmm(self.left.mT, self.right, out=out).view(count, *self.shape), reach)

    def prefers_explicit(self) -> bool:
        """Whether to write G_n out and keep it; see `explicit_is_better`."""
        return not self.is_lookup and explicit_is_better(self.right.shape[1], self.left.shape[-1], self.right.shape[-1])

    def double(self) -> "Outer":
        return Outer(self.left if self.is_lookup else self.left.double(), self.right.double(), self.shape)

    def sizes(self) -> Sizes:
        steps, width = self.right.shape[1:]
        rows = 0 if self.is_lookup else self.left.shape[-1]
        if not self.is_lookup and rows * width < steps * (rows + width) and steps > 1:
            return self._sizes_in_pieces()
        return ghost_sizes([self])

    def _sizes_in_pieces(self) -> Sizes:
        parts = [Outer(self.left[p], self.right[p], self.shape) for p in pieces(self.left, self.shape.numel())]
        squared = torch.cat([part.explicit().sizes().squared for part in parts])
        left, right = torch.linalg.vector_norm(self.left, dim=2), torch.linalg.vector_norm(self.right, dim=2)
        return Sizes(squared, (left * right).sum(1), (left.amax(1), right.amax(1)), torch.zeros_like(squared))


class GramCache:
    """Gram matrices of inputs, so that q, k and v (or all cross-attentions on one memory) share one of them."""

    def __init__(self) -> None:
        self._known: dict[tuple, tuple[Tensor, Tensor]] = {}

    def of(self, rows: Tensor) -> Tensor:
        """Return `rows rows^T`, (N, T, T) for rows (N, T, D); the second call on the same memory is free."""
        key = (rows.data_ptr(), tuple(rows.shape), rows.stride(), rows._version)
        if key not in self._known:
            self._known[key] = (rows, rows @ rows.mT)  # holding `rows` keeps its address from being used again
        return self._known[key][1]


def _left_product(a: Outer, b: Outer) -> Tensor:
    """Return L_a L_b^T, (N, T, S), for dense and one-hot left factors."""
    if a.is_lookup and b.is_lookup:
        return (a.left[:, :, None] == b.left[:, None, :]).to(a.right.dtype)
    if a.is_lookup:
        return _left_product(b, a).mT
    if b.is_lookup:
        return a.left.gather(-1, b.left[:, None, :].expand(-1, a.left.shape[1], -1))
    return a.left @ b.left.mT


def _lengths(gram: Tensor) -> Tensor:
    return gram.diagonal(dim1=1, dim2=2).clamp(min=0).sqrt()


def ghost_sizes(parts: Sequence[Outer]) -> Sizes:
    """Return the sizes of sum_k G_k for the uses k of one weight, with the exact cross terms.

    Rounding. Every entry of the double sum is exact to a few units u of rounding, so the error of the square is at most
    about 4 u S with S = (sum_k sum_t |l_kt||r_kt|)^2.
    """
    total: Tensor | None = None
    lengths: list[tuple[Tensor, Tensor]] = []
    for i, a in enumerate(parts):
        for b in parts[i:]:
            left = _left_product(a, b)
            right = a.gram.of(a.right) if b is a else a.right @ b.right.mT
            term = _dots(left, right)
            if b is a:
                lengths.append((_lengths(left), _lengths(right)))
            else:
                term = 2 * term
            total = term if total is None else total + term
    assert total is not None
    reach = torch.stack([(left * right).sum(1) for left, right in lengths]).sum(0)
    of_left, of_right = (torch.stack([side.amax(1) for side in sides]).amax(0) for sides in zip(*lengths, strict=True))
    return Sizes(total.clamp(min=0), reach, (of_left, of_right), torch.zeros_like(reach))


def _dots(left: Tensor, right: Tensor) -> Tensor:
    """Return the dot product of each example's two matrices, (N, T, S) each; of long ones row by row."""
    if left[0].numel() <= _ONE_DOT:
        return (left.flatten(1)[:, None] @ right.flatten(1)[..., None]).view(-1)
    rows = left.flatten(0, 1)[:, None] @ right.flatten(0, 1)[..., None]
    return rows.view(left.shape[:2]).double().sum(1).to(left.dtype)


def frobenius(values: Tensor) -> Tensor:
    """Return the size of each of N tensors, (N, ...) -> (N,), to a percent or so."""
    return values.abs() if values.dim() == 1 else torch.linalg.vector_norm(values, dim=list(range(1, values.dim())))


def combine(parts: Sequence[Outer | Rows]) -> "Outer | Rows | tuple[Outer, ...]":
    """Merge all uses of one parameter into what norms and weighted sums are read from."""
    if len(parts) == 1:
        part = parts[0]
        return part.explicit() if isinstance(part, Outer) and part.prefers_explicit() else part
    outers = [part for part in parts if isinstance(part, Outer)]
    if len(outers) == len(parts) and _same_columns(outers) and _ghost_is_cheaper(outers):
        return tuple(outers)
    rows = [part.explicit() if isinstance(part, Outer) else part for part in parts]
    return added(rows)


def joined(parts: Sequence[Rows]) -> Rows:
    """Return the gradients of all examples from those of pieces."""
    sizes = [part.summed for part in parts if part.summed is not None]
    return Rows(torch.cat([part.values for part in parts]), torch.cat(sizes) if sizes else None)


def added(rows: Sequence[Rows]) -> Rows:
    """Return the sums of gradients of several uses."""
    sizes = [frobenius(row.values) if row.summed is None else row.summed for row in rows]
    return Rows(torch.stack([row.values for row in rows]).sum(0), torch.stack(sizes).sum(0))


def _same_columns(outers: Sequence[Outer]) -> bool:
    return len({(outer.num_rows, outer.right.shape[-1]) for outer in outers}) == 1


def _ghost_is_cheaper(outers: Sequence[Outer]) -> bool:
    steps = sum(outer.right.shape[1] for outer in outers)
    rows, width = outers[0].num_rows, outers[0].right.shape[-1]
    return steps * steps * (rows + width) < _TRAFFIC * rows * width


def sizes(merged: Outer | Rows | tuple[Outer, ...]) -> Sizes:
    """Return the sizes of every per-example gradient."""
    return ghost_sizes(merged) if isinstance(merged, tuple) else merged.sizes()


def double(merged: Outer | Rows | tuple[Outer, ...]) -> Outer | Rows | tuple[Outer, ...]:
    """Return the same in float64."""
    return tuple(part.double() for part in merged) if isinstance(merged, tuple) else merged.double()


def weighted_sum(merged: Outer | Rows | tuple[Outer, ...], weights: Tensor) -> Tensor:
    """Return sum_n weights_n G_n in the shape of the parameter."""
    if isinstance(merged, Outer | Rows):
        return merged.weighted_sum(weights)
    first, *others = sorted(merged, key=lambda part: part.is_lookup)  # a whole matrix first, then rows into it
    total = first.weighted_sum(weights)
    for part in others:
        part.add_weighted(total, weights)
    return total


def take(merged: Outer | Rows | tuple[Outer, ...], index: Tensor) -> Outer | Rows | tuple[Outer, ...]:
    """Keep only the examples of `index`."""
    return tuple(part.take(index) for part in merged) if isinstance(merged, tuple) else merged.take(index)
