"""The memory of tensors, and the names of functions that write into it."""

from functools import lru_cache
from typing import Any

from torch import Tensor
from torch._C import _functorch as functorch  # pyright: ignore[reportAttributeAccessIssue]

_WRITES = frozenset(
    (
        "__setitem__",
        "__set__",
        "__iadd__",
        "__isub__",
        "__imul__",
        "__itruediv__",
        "__ifloordiv__",
        "__imod__",
        "__ipow__",
        "__imatmul__",
        "__iand__",
        "__ior__",
        "__ixor__",
        "__ilshift__",
        "__irshift__",
    )
)


@lru_cache(maxsize=4096)
def writes(name: str) -> bool:
    """Return whether a torch function of this name, or an operator's overload, writes into its first argument.

    >>> [writes(name) for name in ("add_", "mul_.Scalar", "__iadd__", "__setitem__", "add", "__add__")]
    [True, True, True, True, False, False]
    """
    name = name.partition(".")[0]
    return name in _WRITES or (name.endswith("_") and not name.endswith("__"))


def bare(tensor: Tensor) -> Tensor:
    """Return a tensor without the transforms around it (vmap, grad): what they compute with, all of it."""
    while functorch.is_functorch_wrapped_tensor(tensor):
        tensor = functorch.get_unwrapped(tensor)
    return tensor


def storage(tensor: Any) -> Any:
    """Return the memory of a tensor, under a transform too; None for one that has none of its own (sparse)."""
    try:
        return bare(tensor).untyped_storage() if isinstance(tensor, Tensor) else None
    except (RuntimeError, NotImplementedError):
        return None


def address(tensor: Tensor) -> int:
    """Return where the memory of a tensor begins, the same for all views of it; a number below zero, the tensor's own,
    where it has none; 0 for an empty one.
    """
    found = storage(tensor)
    return -1 - id(tensor) if found is None else found.data_ptr()
