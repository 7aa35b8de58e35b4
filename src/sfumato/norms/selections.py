"""The functions of torch that address by values: what of a call decides, and along which dimensions it does."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from sfumato.norms.contents import arrays_in, digest, tensors_in

Looked = bytes | int | str | None
"""A digest of what is addressed, the number of entries that a mask selects of each row, `INSIDE`, or None."""


def names(text: str) -> tuple[str, ...]:
    """Return the names in a text."""
    return tuple(text.split())


def _argument(args: tuple, kwargs: dict[str, Any], place: int, *names: str) -> Any:
    if len(args) > place:
        return args[place]
    return next((kwargs[name] for name in names if name in kwargs), None)


MASKS = (torch.bool, torch.uint8)


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
        if not any(part.dim() == 0 or part.dtype in MASKS for part in tensors) and _counts_up(first, num_rows):
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
    return [one for one in integers(args[1:], kwargs) if one.numel() == 1]


def integers(args: tuple, kwargs: dict[str, Any]) -> list[Tensor]:
    """Return the tensors of integers and booleans among the arguments."""
    return [one for one in tensors_in((args, kwargs)) if not one.is_floating_point() and not one.is_complex()]


def deciding(args: tuple, kwargs: dict[str, Any]) -> list[Tensor]:
    """Return what may decide in a function that is not listed: single integers; beside floats all that are."""
    mixed = any(one.is_floating_point() for one in tensors_in((args, kwargs)))
    return integers(args, kwargs) if mixed else _single_integers(args, kwargs)


def others(args: tuple, kwargs: dict[str, Any], out: Any, num_rows: int) -> Looked:
    found = deciding(args, kwargs)
    return digest(*found) if found else None


def positional(args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
    """Return arguments with the first one in its place: `gather(input=x, ...)` too."""
    if args or "input" not in kwargs:
        return args, kwargs
    return (kwargs["input"],), {name: value for name, value in kwargs.items() if name != "input"}


def _result(args: tuple, kwargs: dict[str, Any], out: Any, num_rows: int) -> Looked:
    return digest(*(out if isinstance(out, (tuple, list)) else (out,)))


def _places_in_between(args: tuple, kwargs: dict[str, Any], out: Any, num_rows: int) -> Looked:
    """grid_sample: places are floats."""
    return digest(*tensors_in((args[1:], kwargs)))


def _where(args: tuple, kwargs: dict[str, Any], out: Any, num_rows: int) -> Looked:
    return _result(args, kwargs, out, num_rows) if len(args) + len(kwargs) == 1 else None


_Look = Callable[[tuple, dict[str, Any], Any, int], Looked]
_Dimension = Callable[[tuple, dict[str, Any]], list[tuple[Tensor, int | None]]]


def no_look(args: tuple, kwargs: dict[str, Any], out: Any, num_rows: int) -> Looked:
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


CLASSES = names("cross_entropy nll_loss nll_loss_nd multi_margin_loss multilabel_margin_loss")


def _classes(args: tuple, kwargs: dict[str, Any]) -> list[tuple[Tensor, int | None]]:
    """Losses that look the entry of a class up."""
    return [(args[0], min(1, args[0].dim() - 1))] if args and isinstance(args[0], Tensor) else []


DIMENSIONS: dict[str, _Dimension] = {
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
    **dict.fromkeys(CLASSES, _classes),
    "grid_sample": lambda args, kwargs: [(args[0], dim) for dim in range(2, args[0].dim())],
}
"""What a call selects from or writes into, and the dimensions along which it does."""

_BY_ENTRY = names(
    "scaled_dot_product_attention mse_loss l1_loss smooth_l1_loss huber_loss kl_div binary_cross_entropy "
    "binary_cross_entropy_with_logits soft_margin_loss margin_ranking_loss hinge_embedding_loss cosine_embedding_loss "
    "poisson_nll_loss gaussian_nll_loss __eq__ __ne__ __lt__ __le__ __gt__ __ge__"
)
"""Functions in which integers and masks stand beside floats, entry by entry."""

_ARITHMETIC = names(
    "add sub mul div true_divide floor_divide remainder fmod pow rsub eq ne lt le gt ge equal allclose isclose clamp "
    "clamp_min clamp_max clip maximum minimum fmax fmin logical_and logical_or logical_xor bitwise_and bitwise_or "
    "bitwise_xor where masked_fill stack cat concat concatenate hstack vstack full_like fill fill_ copy_ lerp addcmul "
    "addcdiv type_as view_as expand_as reshape_as to broadcast_tensors isin __torch_function__ searchsorted bucketize"
)
"""Functions in which a tensor with one entry stands for itself, not for a size or a place."""

LOOKS: dict[str, _Look] = {
    **dict.fromkeys((*_ARITHMETIC, *(f"{name}_" for name in _ARITHMETIC)), no_look),
    **dict.fromkeys(
        (f"__{one}{name}__" for one in ("", "r", "i") for name in (*_ARITHMETIC[:9], "and", "or")), no_look
    ),
    **dict.fromkeys(("__truediv__", "__rtruediv__", "__itruediv__", "__floordiv__", "__rfloordiv__"), no_look),
    **dict.fromkeys(("__mod__", "__rmod__", "__xor__", "__rxor__", "__matmul__", "__contains__"), no_look),
    **dict.fromkeys(_BY_ENTRY, no_look),
    **dict.fromkeys(CLASSES, _index),
    "grid_sample": _places_in_between,
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


def selects(name: str) -> bool:
    """Return whether a function may address by values."""
    return LOOKS.get(name.partition(".")[0], no_look) is not no_look


ALWAYS = {
    name
    for name, look in LOOKS.items()
    if look in (_index_put, _masked, _index, _places, _ordered, _arguments, _result) and name != "embedding_bag"
}
