"""Several rows that are clipped together: from the gradients of rows to the gradients of groups of rows.

N rows, G groups; the rows of a group lie side by side. The gradient of a group is the sum over its rows, and of
outer products sum_t left_t right_t^T the sum over all positions of all its rows: a group is an example with more
positions. So every norm of `factors` holds for groups as it stands.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sfumato.base import BadInput
from sfumato.norms.factors import Outer, Rows, explicit_is_better, frobenius
from sfumato.norms.scratch import Scratch


@dataclass(frozen=True)
class Units:
    """Sizes of the groups, in the order of their rows; each at least 1.

    Raises:
        BadInput: a size is below 1.
    """

    sizes: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.sizes or min(self.sizes) < 1:
            raise BadInput(f"groups of rows have sizes >= 1, got {self.sizes}.")

    @classmethod
    def of(cls, sizes: Sequence[int] | None, num_rows: int) -> "Units | None":
        """Return the groups of `sizes`, or None where every row is a unit of its own.

        Raises:
            BadInput: the sizes do not add up to `num_rows`.
        """
        if sizes is None:
            return None
        if sum(sizes) != num_rows:
            raise BadInput(f"groups of {sum(sizes)} rows in a micro-batch of {num_rows}.")
        return cls(tuple(int(size) for size in sizes))

    @property
    def equal(self) -> bool:
        """Whether all groups have one size: then nothing has to be copied."""
        return len(set(self.sizes)) == 1

    def sum(self, values: Tensor) -> Tensor:
        """Return the sums over the rows of each group, (G, ...), of values (N, ...)."""
        if self.equal:
            return values.reshape(len(self.sizes), self.sizes[0], *values.shape[1:]).sum(1)
        index = torch.repeat_interleave(torch.tensor(self.sizes)).to(values.device)
        return values.new_zeros(len(self.sizes), *values.shape[1:]).index_add_(0, index, values)

    def rows(self, rows: Rows) -> Rows:
        """Return the gradients of groups from those of rows."""
        if max(self.sizes) == 1:
            return rows
        sizes = frobenius(rows.values) if rows.summed is None else rows.summed
        return Rows(self.sum(rows.values), self.sum(sizes))

    def outer(self, outer: Outer, scratch: Scratch | None = None) -> Outer | Rows:
        """Return the gradients of groups from an outer product of rows, in the cheaper of its two forms."""
        left, right, shape = outer.left, outer.right, outer.shape
        if self.equal:
            whole = Outer(_side_by_side(left, self.sizes[0]), _side_by_side(right, self.sizes[0]), shape, outer.gram)
            return whole.explicit(scratch) if whole.prefers_explicit() else whole
        steps = sum(self.sizes) * right.shape[1] // len(self.sizes)
        if outer.is_lookup or not explicit_is_better(steps, left.shape[-1], right.shape[-1]):
            return Outer(self._padded(left), self._padded(right), shape)
        size = (len(self.sizes), left.shape[-1], right.shape[-1])
        written = left.new_empty(size) if scratch is None else scratch.empty(size, left)
        for out, one, other in zip(written, left.split(self.sizes), right.split(self.sizes), strict=True):
            torch.mm(one.flatten(0, 1).t(), other.flatten(0, 1), out=out)
        squares = [self.sum(frobenius(side).square()) for side in (left, right)]
        return Rows(written.view(-1, *shape), (squares[0] * squares[1]).sqrt())

    def _padded(self, rows: Tensor) -> Tensor:
        """Return (G, most rows * T, ...): groups side by side, zeros behind the shorter ones."""
        most = max(self.sizes)
        found = rows.new_zeros(len(self.sizes), most, *rows.shape[1:])
        for place, part in enumerate(rows.split(self.sizes)):
            found[place, : len(part)] = part
        return found.flatten(1, 2)


def _side_by_side(rows: Tensor, size: int) -> Tensor:
    return rows.reshape(len(rows) // size, size * rows.shape[1], *rows.shape[2:])
