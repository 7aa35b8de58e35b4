"""Calls whose values decide which entries their result holds: selections, gathers, sorts.

Shapes alone do not show whose entries are where after `h[labels != -100]`, `h[order]` or `masked_scatter`: two batches
with as many selected entries in all have equal shapes, and other rows in other places. Such a call is compared by its
shapes only where each row is known to keep to itself: a gather along a dimension that does not hold rows, a look-up in
a table that does not depend on the batch, a mask that selects equally many entries of each row, `x[arange(N), index]`.
Which dimension holds rows is seen at certification, from a second pass of one row more (`Sizes`). Everywhere else what
is addressed is part of the path: equal for constants of the model, another path for each batch that addresses
otherwise.
"""

from typing import Any, Protocol

import torch
from torch import Tensor

from sfumato.norms.contents import Raised, arrays_in, digest, tensors_in
from sfumato.norms.selections import (
    ALWAYS,
    CLASSES,
    DIMENSIONS,
    LOOKS,
    MASKS,
    Looked,
    deciding,
    integers,
    no_look,
    others,
    positional,
)

INSIDE = "inside rows"
"""Each row keeps to itself whatever the values are: nothing is looked at."""


class Sizes(Protocol):
    """Where rows are in the tensors of a call, seen from two passes of different numbers of rows."""

    def clean(self, tensor: Tensor) -> bool:
        """Whether nothing of the batch is in it."""
        ...

    def inside(self, tensor: Tensor, dim: int | None) -> bool:
        """Whether dimension `dim` (None: all of them as one) holds entries of single rows, or nothing of the batch."""
        ...

    def grown(self, tensor: Tensor) -> int | None:
        """Return the one dimension that grows by the rows; None where there is no such one."""
        ...

    def leads(self, tensor: Tensor) -> bool:
        """Whether its first dimension, and no other, holds the rows, one entry each."""
        ...


def addressed(name: str, args: tuple, kwargs: dict[str, Any], out: Any, num_rows: int, leads: bool) -> Looked:
    """Return a digest of what a call addresses by values; None, or a number, where each row keeps to itself.

    Args:
        leads: whether what is addressed is known to lead with the rows.
    """
    if isinstance(out, Raised):
        return None
    with torch._C.DisableTorchFunction():
        args, kwargs = positional(args, kwargs)
        odd = [one for one in tensors_in((args, kwargs)) if one.layout is not torch.strided]
        if odd:  # where the entries of a sparse tensor are is a value
            return digest(*odd, *integers(args, kwargs))
        return LOOKS.get(name, others)(args, kwargs, out, num_rows if leads else -1)


def keeps_inside(name: str, args: tuple, kwargs: dict[str, Any], sizes: Sizes) -> bool:
    """Whether each row keeps to itself in a call, whatever the values that it addresses by are."""
    with torch._C.DisableTorchFunction():
        args, kwargs = positional(args, kwargs)
        look = LOOKS.get(name, others)
        if any(one.layout is not torch.strided for one in tensors_in((args, kwargs))):
            return False
        if look is no_look:
            return True
        if look is others:
            return all(sizes.clean(tensor) for tensor in deciding(args, kwargs))
        if name == "__getitem__":
            index = list(tensors_in(args[1]))
            whole = not any(one.dtype in MASKS for one in index) and not any(True for _ in arrays_in(args[1]))
            return (not index and whole) or (whole and sizes.clean(args[0]))
        dimension = DIMENSIONS.get(name)
        if dimension is None:
            return False
        if name in CLASSES:  # as it looks: what a scripted function made before is known by its shape alone
            return all(sizes.clean(t) or sizes.grown(t) not in (None, dim) for t, dim in dimension(args, kwargs))
        return all(sizes.inside(tensor, dim) for tensor, dim in dimension(args, kwargs))


def leads(name: str, args: tuple, kwargs: dict[str, Any], sizes: Sizes) -> bool:
    """Whether what a call addresses leads with the rows."""
    args, _ = positional(args, kwargs)
    return name in LOOKS and bool(args) and isinstance(args[0], Tensor) and sizes.leads(args[0])


def of_one_row(name: str) -> bool:
    """Whether a call on one row can only address along dimensions of that row."""
    return name in DIMENSIONS or LOOKS.get(name, others) in (others, no_look)


def hidden(name: str) -> bool:
    """Whether a function addresses by values, whatever its arguments are."""
    return name in ALWAYS
