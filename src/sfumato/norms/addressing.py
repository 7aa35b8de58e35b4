"""Calls whose values decide which entries their result holds: selections, gathers, sorts.

Shapes alone do not show whose entries are where after `h[labels != -100]`, `h[order]` or `masked_scatter`: two batches
with as many selected entries in all have equal shapes, and other rows in other places. Such a call is compared by its
shapes only where each row visibly keeps to itself: a mask that selects equally many entries of each row, a gather
inside rows, `x[arange(N), index]`. Everywhere else what it addresses is part of the path: equal for constants of the
model (tables of relative positions), another path for each batch that addresses otherwise.
"""

import hashlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Looked = bytes | int | None
"""A digest of what is addressed, the number of entries that a mask selects of each row, or None: shapes say enough."""


def addressed(name: str, args: tuple, kwargs: dict[str, Any], out: Any, num_rows: int) -> Looked:
    """Return a digest of what a call addresses by values; None, or a number, where each row keeps to itself."""
    look = _LOOKS.get(name)
    if look is None:
        return None
    with torch._C.DisableTorchFunction():
        return look(args, kwargs, out, num_rows)


def _digest(*tensors: Any) -> bytes:
    total = hashlib.blake2b(digest_size=16)
    for tensor in tensors:
        if isinstance(tensor, Tensor):
            total.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
            total.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return total.digest()


def _argument(args: tuple, kwargs: dict[str, Any], place: int, *names: str) -> Any:
    if len(args) > place:
        return args[place]
    return next((kwargs[name] for name in names if name in kwargs), None)


def _of_each_row(mask: Tensor, num_rows: int) -> int | None:
    """Return how many entries a mask that leads with the rows selects of each; None where their numbers differ."""
    if mask.dim() == 0 or mask.shape[0] != num_rows:
        return None
    counts = mask.reshape(num_rows, -1).sum(1)
    return int(counts[0]) if bool((counts == counts[0]).all()) else None


def _getitem(args: tuple, kwargs: dict[str, Any], out: Any, num_rows: int) -> Looked:
    return _indexed(args[1], num_rows)


def _indexed(index: Any, num_rows: int) -> Looked:
    parts = list(index) if isinstance(index, (tuple, list)) else [index]
    tensors = [part for part in parts if isinstance(part, Tensor)]
    if not tensors:
        return None
    first = tensors[0]
    if any(part.dim() == 0 and part.dtype != torch.bool for part in tensors):
        return _digest(*tensors)
    if len(tensors) == 1 and first is parts[0] and first.dtype == torch.bool:
        count = _of_each_row(first, num_rows)
        return _digest(first) if count is None else count
    if first is parts[0] and first.dtype != torch.bool and _counts_up(first, num_rows):
        return None
    return _digest(*tensors)


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
    return _digest(mask) if count is None else count


def _inside_rows(args: tuple, kwargs: dict[str, Any], out: Any, num_rows: int) -> Looked:
    """gather and scatter: along another dimension than the first, each row addresses its own entries."""
    dim, index = _argument(args, kwargs, 1, "dim"), _argument(args, kwargs, 2, "index", "indices")
    if isinstance(dim, Tensor):  # take_along_dim(input, indices, dim)
        dim, index = index, dim
    if isinstance(index, Tensor) and isinstance(dim, int) and dim % max(index.dim(), 1) != 0:
        return None
    return _digest(index)


def _along(place: int, default: int | None) -> Callable[..., Looked]:
    """Sorts, and what returns places: inside rows along another dimension than the first."""

    def look(args: tuple, kwargs: dict[str, Any], out: Any, num_rows: int) -> Looked:
        dim = _argument(args, kwargs, place, "dim")
        if isinstance(dim, Tensor):  # max(a, b), entry by entry
            return None
        dim = default if dim is None else dim
        if isinstance(dim, int) and args and args[0].dim() > 1 and dim % args[0].dim() != 0:
            return None
        places = out if isinstance(out, Tensor) else out[-1]
        return _digest(places) if isinstance(places, Tensor) and not places.is_floating_point() else None

    return look


def _places(args: tuple, kwargs: dict[str, Any], out: Any, num_rows: int) -> Looked:
    """max and the like, where they return places besides values."""
    return None if isinstance(out, Tensor) else _along(1, -1)(args, kwargs, out, num_rows)


def _arguments(args: tuple, kwargs: dict[str, Any], out: Any, num_rows: int) -> Looked:
    given = [value for value in (*args[1:], *kwargs.values()) if isinstance(value, Tensor)]
    return _digest(*(value for value in given if not value.is_floating_point()))


def _result(args: tuple, kwargs: dict[str, Any], out: Any, num_rows: int) -> Looked:
    return _digest(*(out if isinstance(out, (tuple, list)) else (out,)))


def _where(args: tuple, kwargs: dict[str, Any], out: Any, num_rows: int) -> Looked:
    return _result(args, kwargs, out, num_rows) if len(args) + len(kwargs) == 1 else None


_LOOKS: dict[str, Callable[[tuple, dict[str, Any], Any, int], Looked]] = {
    "__getitem__": _getitem,
    "__setitem__": _setitem,
    "where": _where,
    **dict.fromkeys(("index_put", "index_put_", "_unsafe_index_put"), _index_put),
    **dict.fromkeys(("masked_select", "masked_scatter", "masked_scatter_"), _masked),
    **dict.fromkeys(("gather", "scatter", "scatter_", "scatter_add", "scatter_add_"), _inside_rows),
    **dict.fromkeys(("scatter_reduce", "scatter_reduce_", "take_along_dim"), _inside_rows),
    **dict.fromkeys(("sort", "argsort", "msort"), _along(1, -1)),
    **dict.fromkeys(("topk", "kthvalue"), _along(2, -1)),
    **dict.fromkeys(("argmax", "argmin"), _along(1, None)),
    **dict.fromkeys(("max", "min", "median", "mode", "cummax", "cummin"), _places),
    **dict.fromkeys(("index_select", "index_add", "index_add_", "index_copy", "index_copy_"), _arguments),
    **dict.fromkeys(("index_fill", "index_fill_", "take", "put_", "repeat_interleave", "tensor_split"), _arguments),
    **dict.fromkeys(("nonzero", "argwhere", "unique", "unique_consecutive", "bincount"), _result),
}
