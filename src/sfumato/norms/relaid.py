"""Which entries of a dimension belong to which row, where tensors are laid out anew.

A dimension that grows with the rows need not hold them: after (N, T) -> reshape(T, N) the second one grows, and each of
its entries holds parts of several rows. So what lays entries out anew is done once more to numbers of rows: only where
every entry along the grown dimension has the number of one row does it hold rows.
"""

import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

_OF_ONE = frozenset(("reshape", "view", "reshape_as", "view_as", "flatten", "unflatten", "ravel"))
_COPIES = frozenset(("repeat", "tile", "repeat_interleave"))
_JOINS = frozenset(("cat", "concat", "concatenate"))
_OF_MEMORY = frozenset(("as_strided", "_reshape_alias", "_unsafe_view", "set_"))

Grown = Callable[[Tensor], int | None]


class Orders:
    """In which order a dimension of k N entries holds N rows: k entries of one row after another ("blocks"), or all
    rows in turn, k times ("turns").

    Args:
        num_rows: N.
    """

    def __init__(self, num_rows: int) -> None:
        self._rows = num_rows
        self._known: dict[int, tuple[weakref.ref, str]] = {}

    def take(
        self, name: str, args: tuple, kwargs: dict[str, Any], made: Sequence[Tensor], grown: Grown, row_of: Grown
    ) -> bool:
        """Take in the results of a call on something of the batch; return whether a dimension that grows in one of them
        does not hold rows.

        Args:
            grown: tensor of the call -> its one dimension that grows by the rows.
            row_of: tensor -> the one row that it holds, where that is known.
        """
        with torch._C.DisableTorchFunction():
            if name in _OF_MEMORY:
                return True
            if name in _OF_ONE or name in _COPIES or name in _JOINS:
                return self._relaid(name, args, kwargs, made, grown, row_of)
            self._inherit(args, kwargs, made, grown)
            return False

    def _relaid(
        self, name: str, args: tuple, kwargs: dict[str, Any], made: Sequence[Tensor], grown: Grown, row_of: Grown
    ) -> bool:
        given = list(args[0]) if name in _JOINS and args else [args[0] if args else kwargs.get("input")]
        numbers = [
            self._numbers(tensor, grown(tensor), row_of(tensor)) for tensor in given if isinstance(tensor, Tensor)
        ]
        dim = grown(made[0]) if len(made) == 1 else None
        if dim is None:
            return False  # told by what calls this
        known = [one for one in numbers if one is not None]
        if len(known) < len(numbers) or not known:
            return True
        try:
            first = known if name in _JOINS else known[0]
            found = getattr(torch, name)(first, *args[1:], **kwargs) if name in _JOINS else None
            found = getattr(Tensor, name)(first, *args[1:], **kwargs) if found is None else found
        except (RuntimeError, TypeError, AttributeError):  # what is no plain layout, such as view(dtype)
            return True
        if found.shape != made[0].shape:
            return True
        return self._settle(made[0], found.movedim(dim, 0).reshape(found.shape[dim], -1))

    def _settle(self, tensor: Tensor, numbers: Tensor) -> bool:
        if numbers.numel() == 0 or not bool((numbers == numbers[:, :1]).all()):
            return True
        along, each = numbers[:, 0], len(numbers) // self._rows
        if each > 1:
            places = torch.arange(len(along), device=along.device)
            if torch.equal(along, (places // each).to(along)):
                self._note(tensor, "blocks")
            elif torch.equal(along, (places % self._rows).to(along)):
                self._note(tensor, "turns")
        return False

    def _inherit(self, args: tuple, kwargs: dict[str, Any], made: Sequence[Tensor], grown: Grown) -> None:
        parts = [
            part for one in (*args, *kwargs.values()) for part in (one if isinstance(one, (list, tuple)) else [one])
        ]
        known = [(one.shape[dim], self._order(one, dim)) for one in parts if (dim := self._dim(one, grown)) is not None]
        for tensor in made:
            dim = grown(tensor)
            if dim is None or tensor.shape[dim] == self._rows:
                continue
            orders = {order for size, order in known if size == tensor.shape[dim]}
            only = next(iter(orders)) if len(orders) == 1 else None
            if only is not None:
                self._note(tensor, only)

    @staticmethod
    def _dim(value: Any, grown: Grown) -> int | None:
        return grown(value) if isinstance(value, Tensor) else None

    def _note(self, tensor: Tensor, order: str) -> None:
        self._known[id(tensor)] = (weakref.ref(tensor), order)

    def _order(self, tensor: Tensor, dim: int) -> str | None:
        if tensor.shape[dim] == self._rows:
            return "blocks"
        ref, order = self._known.get(id(tensor), (None, None))
        return order if ref is not None and ref() is tensor else None

    def _numbers(self, tensor: Tensor, dim: int | None, row: int | None) -> Tensor | None:
        """Return the number of the row of each entry, in the shape of a tensor; None where that is not known."""
        if row is not None:
            return torch.full(tensor.shape, row, dtype=torch.int32, device=tensor.device)
        order = None if dim is None else self._order(tensor, dim)
        if order is None:
            return None
        assert dim is not None
        size = tensor.shape[dim]
        places = torch.arange(size, device=tensor.device)
        along = places // (size // self._rows) if order == "blocks" else places % self._rows
        return along.to(torch.int32).view([-1 if d == dim else 1 for d in range(tensor.dim())]).expand(tensor.shape)
