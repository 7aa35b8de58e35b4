"""What a tape follows: the parameters, and every tensor that is computed from parameters alone."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor


def flat_tensors(args: tuple, kwargs: Mapping[str, Any]) -> list[Tensor]:
    """Return the tensors among the arguments, looking one level into lists and tuples."""
    found: list[Tensor] = []
    for value in (*args, *kwargs.values()):
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, (list, tuple)):
            found.extend(item for item in value if isinstance(item, Tensor))
    return found


def results(output: Any) -> list[Tensor]:
    """Return the tensors that a function returned."""
    return flat_tensors((output,), {})


def looked_up(name: str, args: tuple, kwargs: Mapping[str, Any]) -> Tensor | None:
    """Return the entries that a call looks up in a table; None for other calls, and for lookups whose gradient is not
    the plain sum over occurrences (`padding_idx`, `scale_grad_by_freq`, `max_norm`).
    """
    if name != "embedding" or kwargs or len(args) < 2:
        return None
    padding, max_norm, _, by_frequency = (*args[2:6], *(None,) * (6 - len(args)))
    return args[0] if padding is None and max_norm is None and not by_frequency else None


class Tracked:
    """The tensors that a tape follows: parameters, and what is computed from parameters alone."""

    def __init__(self, parameters: Mapping[str, Tensor]) -> None:
        self._tensors: dict[int, Tensor] = {id(p): p for p in parameters.values()}  # holding them keeps ids unique
        self._names = {id(p): frozenset([name]) for name, p in parameters.items()}
        self._lookups: dict[int, tuple[Tensor, Tensor]] = {}

    def among(self, args: tuple, kwargs: Mapping[str, Any]) -> list[Tensor]:
        return [tensor for tensor in flat_tensors(args, kwargs) if id(tensor) in self._tensors]

    def names(self, operands: list[Tensor]) -> frozenset[str]:
        return frozenset().union(*(self._names[id(operand)] for operand in operands))

    def add(self, tensor: Tensor, operands: list[Tensor], entries: Tensor | None) -> None:
        """Follow `tensor` too; `entries` where it is a plain lookup in the table that is the first operand."""
        if id(tensor) in self._tensors:
            return
        self._tensors[id(tensor)] = tensor
        self._names[id(tensor)] = self.names(operands)
        if entries is not None:
            self._lookups[id(tensor)] = (operands[0], entries)

    def tensor(self, key: int) -> Tensor:
        return self._tensors[key]

    def lookup_of(self, tensor: Tensor) -> tuple[Tensor, Tensor] | None:
        """Return (table, entries) if `tensor` is a table lookup that does not depend on the batch."""
        return self._lookups.get(id(tensor))
