"""Calls whose values decide which entries their result holds: selections, gathers, sorts.

Shapes alone do not show whose entries are where after `h[labels != -100]`, `h[order]` or `masked_scatter`: two batches
with as many selected entries in all have equal shapes, and other rows in other places. Such a call is compared by its
shapes only where each row is known to keep to itself: a gather along a dimension that does not hold rows, a look-up in
a table that does not depend on the batch, a mask that selects equally many entries of each row, `x[arange(N), index]`.
Which dimension holds rows is seen at certification, from a second pass of one row more (`Sizes`). Everywhere else what
is addressed is part of the path: equal for constants of the model, another path for each batch that addresses
otherwise.
"""

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from sfumato.norms.contents import arrays_in, digest, tensors_in

Looked = bytes | int | str | None
"""A digest of what is addressed, the number of entries that a mask selects of each row, `INSIDE`, or None."""

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

    def leads(self, tensor: Tensor) -> bool:
        """Whether its first dimension, and no other, holds the rows, one entry each."""
        ...


def addressed(name: str, args: tuple, kwargs: dict[str, Any], out: Any, num_rows: int, leads: bool) -> Looked:
    """Return a digest of what a call addresses by values; None, or a number, where each row keeps to itself.

    Args:
        leads: whether what is addressed is known to lead with the rows.
    """
    with torch._C.DisableTorchFunction():
        return _LOOKS.get(name, _counters)(args, kwargs, out, num_rows if leads else -1)


def keeps_inside(name: str, args: tuple, kwargs: dict[str, Any], sizes: Sizes) -> bool:
    """Whether each row keeps to itself in a call, whatever the values that it addresses by are."""
    with torch._C.DisableTorchFunction():
        look = _LOOKS.get(name, _counters)
        if look is _no_look:
            return True
        if look is _counters:
            return all(sizes.clean(tensor) for tensor in _single_integers(args, kwargs))
        if name == "__getitem__":
            index = list(tensors_in(args[1]))
            whole = not any(one.dtype in _MASKS for one in index) and not any(True for _ in arrays_in(args[1]))
            return (not index and whole) or (whole and sizes.clean(args[0]))
        dimension = _DIMENSIONS.get(name)
        if dimension is None:
            return False
        return all(sizes.inside(tensor, dim) for tensor, dim in dimension(args, kwargs))


def leads(name: str, args: tuple, sizes: Sizes) -> bool:
    """Whether what a call addresses leads with the rows."""
    return name in _LOOKS and bool(args) and isinstance(args[0], Tensor) and sizes.leads(args[0])


def of_one_row(name: str) -> bool:
    """Whether a call on one row can only address along dimensions of that row."""
    return name in _DIMENSIONS or _LOOKS.get(name, _counters) in (_counters, _no_look)


def hidden(name: str) -> bool:
    """Whether a function addresses by values, whatever its arguments are."""
    return name in _ALWAYS


def names(text: str) -> tuple[str, ...]:
    """Return the names in a text."""
    return tuple(text.split())


def _argument(args: tuple, kwargs: dict[str, Any], place: int, *names: str) -> Any:
    if len(args) > place:
        return args[place]
    return next((kwargs[name] for name in names if name in kwargs), None)


_MASKS = (torch.bool, torch.uint8)


def _of_each_row(mask: Tensor, num_rows: int) -> int | None:
    """Return how many entries a mask that leads with the rows selects of each; None where their numbers differ."""
    if mask.dim() == 0 or mask.shape[0] != num_rows:
        return None
    counts = mask.reshape(num_rows, -1).sum(1)
    return int(counts[0]) if bool((counts == counts[0]).all()) else None


def _getitem(args: tuple, kwargs: dict[str, Any], out: Any, num_rows: int) -> Looked:
    return _indexed(args[1], num_rows)


def _indexed(index: Any, num_rows: int) -> Looked:
    parts = list(index) if isinstance(index, tuple) else [index]
    tensors, arrays = list(tensors_in(index)), list(arrays_in(index))
    if not tensors and not arrays:
        return None
    first = parts[0]
    if isinstance(first, Tensor) and not arrays and len(tensors) == sum(isinstance(part, Tensor) for part in parts):
        if len(tensors) == 1 and first.dtype == torch.bool:
            count = _of_each_row(first, num_rows)
            return digest(first) if count is None else count
        if not any(part.dim() == 0 or part.dtype in _MASKS for part in tensors) and _counts_up(first, num_rows):
            return None
    return digest(*tensors, *arrays)


def _counts_up(index: Tensor, num_rows: int) -> bool:
    """Whether an index names row after row, (N,) or (N, 1, ...)."""
    return (
        index.numel() == num_rows
        and index.shape[0] == num_rows
        and torch.equal(index.flatten(), torch.arange(num_rows, dtype=index.dtype, device=index.device))
    )


def _setitem(args: tuple, kwargs: dict[str, Any], out: Any, num_rows: int) -> Looked:
    index, value = args[1], args[2]
    if not isinstance(value, Tensor) or value.dim() == 0:
        alone = [index] if isinstance(index, Tensor) else []
        return None if alone and alone[0].dtype == torch.bool else _indexed(index, num_rows)
    return _indexed(index, num_rows)


def _index_put(args: tuple, kwargs: dict[str, Any], out: Any, num_rows: int) -> Looked:
    index = _argument(args, kwargs, 1, "indices")
    return _indexed(tuple(index), num_rows)


def _masked(args: tuple, kwargs: dict[str, Any], out: Any, num_rows: int) -> Looked:
    mask = _argument(args, kwargs, 1, "mask")
    target = args[0]
    whole = mask.expand(target.shape) if mask.dim() < target.dim() or mask.shape != target.shape else mask
    count = _of_each_row(whole, num_rows)
    return digest(mask) if count is None else count


def _index(args: tuple, kwargs: dict[str, Any], out: Any, num_rows: int) -> Looked:
    """gather, scatter and embedding: every tensor of integers among the arguments."""
    return digest(*(one for one in tensors_in((args, kwargs)) if not one.is_floating_point()))


def _places(args: tuple, kwargs: dict[str, Any], out: Any, num_rows: int) -> Looked:
    """Sorts, and what returns places, alone or last in a tuple."""
    places = out if isinstance(out, Tensor) else out[-1]
    return digest(places) if isinstance(places, Tensor) and not places.is_floating_point() else None


def _places_beside(args: tuple, kwargs: dict[str, Any], out: Any, num_rows: int) -> Looked:
    """max and the like, where they return places besides values."""
    return None if isinstance(out, Tensor) else _places(args, kwargs, out, num_rows)


def _ordered(args: tuple, kwargs: dict[str, Any], out: Any, num_rows: int) -> Looked:
    """A sort that returns no places: they are found again."""
    return digest(args[0].detach().argsort(dim=0, stable=True))


def _arguments(args: tuple, kwargs: dict[str, Any], out: Any, num_rows: int) -> Looked:
    given = list(tensors_in((args[1:], kwargs)))
    return digest(*(value for value in given if not value.is_floating_point()))


def _single_integers(args: tuple, kwargs: dict[str, Any]) -> list[Tensor]:
    """Return what may stand for a plain number: `roll(x, shift)`, `narrow(0, start, 4)`."""
    given = tensors_in((args[1:], kwargs))
    return [one for one in given if not one.is_floating_point() and not one.is_complex() and one.numel() == 1]


def _counters(args: tuple, kwargs: dict[str, Any], out: Any, num_rows: int) -> Looked:
    found = _single_integers(args, kwargs)
    return digest(*found) if found else None


def _result(args: tuple, kwargs: dict[str, Any], out: Any, num_rows: int) -> Looked:
    return digest(*(out if isinstance(out, (tuple, list)) else (out,)))


def _where(args: tuple, kwargs: dict[str, Any], out: Any, num_rows: int) -> Looked:
    return _result(args, kwargs, out, num_rows) if len(args) + len(kwargs) == 1 else None


_Look = Callable[[tuple, dict[str, Any], Any, int], Looked]
_Dimension = Callable[[tuple, dict[str, Any]], list[tuple[Tensor, int | None]]]


def _no_look(args: tuple, kwargs: dict[str, Any], out: Any, num_rows: int) -> Looked:
    return None


def _along(place: int, default: int | None, *, written: bool = False) -> _Dimension:
    """The dimension of the first argument that `dim` names; for functions that write, also of what is written."""

    def dimension(args: tuple, kwargs: dict[str, Any]) -> list[tuple[Tensor, int | None]]:
        given = kwargs["dim"] if "dim" in kwargs else args[place] if len(args) > place else default
        dim = given if isinstance(given, int) and not isinstance(given, bool) else None
        if not args or not isinstance(args[0], Tensor):
            return [(one, None) for one in tensors_in((args, kwargs))]
        others = [one for one in tensors_in((args[1:], kwargs)) if one.dim()]
        found = [(one, dim) for one in (args[0], *(others if written else ()))]
        return [(one, None if dim is None or not one.dim() else dim % one.dim()) for one, dim in found]

    return dimension


def _beside(args: tuple, kwargs: dict[str, Any]) -> list[tuple[Tensor, int | None]]:
    """max and the like: entry by entry of two tensors, or over everything, they address nothing."""
    if isinstance(_argument(args, kwargs, 1, "dim", "other"), Tensor) or not (args[1:] or kwargs):
        return []
    return _along(1, -1)(args, kwargs)


def _table(args: tuple, kwargs: dict[str, Any]) -> list[tuple[Tensor, int | None]]:
    """embedding: F.embedding(entries, table), torch.embedding(table, entries)."""
    given = list(tensors_in((args, kwargs)))
    tables = [one for one in given if one.is_floating_point()]
    if len(given) != 2:  # offsets of bags
        return [(one, None) for one in given]
    return [(one, 0) for one in tables or given]


_DIMENSIONS: dict[str, _Dimension] = {
    **dict.fromkeys(("gather", "index_select"), _along(1, None)),
    **dict.fromkeys(("take_along_dim",), _along(2, None)),
    **dict.fromkeys(("scatter", "scatter_", "scatter_add", "scatter_add_"), _along(1, None, written=True)),
    **dict.fromkeys(("scatter_reduce", "scatter_reduce_"), _along(1, None, written=True)),
    **dict.fromkeys(("index_add", "index_add_", "index_copy", "index_copy_"), _along(1, None, written=True)),
    **dict.fromkeys(("index_fill", "index_fill_"), _along(1, None, written=True)),
    **dict.fromkeys(("index_reduce", "index_reduce_"), _along(1, None, written=True)),
    **dict.fromkeys(("sort", "argsort"), _along(1, -1)),
    **dict.fromkeys(("topk", "kthvalue"), _along(2, -1)),
    **dict.fromkeys(("argmax", "argmin"), _along(1, None)),
    **dict.fromkeys(("cummax", "cummin"), _along(1, None)),
    **dict.fromkeys(("max", "min", "median", "nanmedian", "mode"), _beside),
    **dict.fromkeys(("msort",), _along(9, 0)),
    **dict.fromkeys(("embedding", "embedding_bag"), _table),
}
"""What a call selects from or writes into, and the dimensions along which it does."""

_ARITHMETIC = names(
    "add sub mul div true_divide floor_divide remainder fmod pow rsub eq ne lt le gt ge equal allclose isclose clamp "
    "clamp_min clamp_max clip maximum minimum fmax fmin logical_and logical_or logical_xor bitwise_and bitwise_or "
    "bitwise_xor where masked_fill stack cat concat concatenate hstack vstack full_like fill fill_ copy_ lerp addcmul "
    "addcdiv type_as view_as expand_as reshape_as to broadcast_tensors isin __torch_function__ searchsorted bucketize"
)
"""Functions in which a tensor with one entry stands for itself, not for a size or a place."""

_LOOKS: dict[str, _Look] = {
    **dict.fromkeys((*_ARITHMETIC, *(f"{name}_" for name in _ARITHMETIC)), _no_look),
    **dict.fromkeys(
        (f"__{one}{name}__" for one in ("", "r", "i") for name in (*_ARITHMETIC[:9], "and", "or")), _no_look
    ),
    **dict.fromkeys(("__truediv__", "__rtruediv__", "__itruediv__", "__floordiv__", "__rfloordiv__"), _no_look),
    **dict.fromkeys(("__mod__", "__rmod__", "__xor__", "__rxor__", "__matmul__", "__contains__"), _no_look),
    "__getitem__": _getitem,
    "__setitem__": _setitem,
    "where": _where,
    **dict.fromkeys(("index_put", "index_put_", "_unsafe_index_put", "index", "_unsafe_index"), _index_put),
    **dict.fromkeys(("_index_put_impl_",), _index_put),
    **dict.fromkeys(("masked_select", "masked_scatter", "masked_scatter_"), _masked),
    **dict.fromkeys(("gather", "scatter", "scatter_", "scatter_add", "scatter_add_", "index_select"), _index),
    **dict.fromkeys(("scatter_reduce", "scatter_reduce_", "take_along_dim", "embedding", "embedding_bag"), _index),
    **dict.fromkeys(("sort", "argsort", "topk", "kthvalue", "argmax", "argmin", "cummax", "cummin"), _places),
    **dict.fromkeys(("max", "min", "median", "nanmedian", "mode"), _places_beside),
    "msort": _ordered,
    **dict.fromkeys(
        ("index_add", "index_add_", "index_copy", "index_copy_", "index_reduce", "index_reduce_"), _arguments
    ),
    **dict.fromkeys(("index_fill", "index_fill_", "take", "put", "put_", "repeat_interleave"), _arguments),
    **dict.fromkeys(("tensor_split", "segment_reduce", "_pack_padded_sequence", "_pad_packed_sequence"), _arguments),
    **dict.fromkeys(("nonzero", "argwhere", "unique", "unique_consecutive", "bincount"), _result),
    **dict.fromkeys(("_unique", "_unique2", "nonzero_static", "unique_dim"), _result),
}

_ALWAYS = {
    name
    for name, look in _LOOKS.items()
    if look in (_index_put, _masked, _index, _places, _ordered, _arguments, _result) and name != "embedding_bag"
}
