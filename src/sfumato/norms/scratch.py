"""Memory for written-out gradients that the next micro-batch uses again.

The system takes large blocks back as soon as they are freed, and clears every page that it hands out anew: of products
that are bound by memory this costs a CPU about a third of their time. Other devices have allocators for it.
"""

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor


class Scratch:
    """Tensors that are lent for one micro-batch at a time. It holds what one micro-batch needed, and no values."""

    def __init__(self) -> None:
        self._free: dict[tuple, list[Tensor]] = defaultdict(list)
        self._lent: list[Tensor] | None = None

    @contextmanager
    def lending(self) -> Iterator[None]:
        """Inside, `empty` lends; at the end everything is taken back, and whoever still holds it must not read it."""
        self._lent = []
        try:
            yield
        finally:
            for tensor in self._lent:
                self._free[_kind(tensor.shape, tensor)].append(tensor)
            self._lent = None

    def empty(self, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """Return a tensor of any content in the type and on the device of `like`; lent on CPUs, else new."""
        if self._lent is None or like.device.type != "cpu":
            return like.new_empty(shape)
        free = self._free[_kind(shape, like)]
        tensor = free.pop() if free else like.new_empty(shape)
        self._lent.append(tensor)
        return tensor

    def __deepcopy__(self, memo: dict) -> "Scratch":
        return Scratch()

    def __reduce__(self) -> tuple:
        return (Scratch, ())


def _kind(shape: tuple[int, ...], like: Tensor) -> tuple:
    return tuple(shape), like.dtype
