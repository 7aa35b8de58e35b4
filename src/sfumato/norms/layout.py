"""Where the examples are in a tensor, and how to bring them to the front."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from sfumato.base import Refused


@dataclass(frozen=True)
class Axis:
    """Dimension `dim` carries the examples, each with the same number of entries: one after the other or interleaved.

    (N, L, D) has dim 0 and one entry each; Swin's windows (N * 4, T, D) have dim 0 and four in a row; a sequence-first
    (L, N, D) has dim 1; flattened to (L * N, D), as before the output projection of torch's attention, it is
    interleaved: entry e belongs to example e mod N.
    """

    dim: int
    interleaved: bool = False


@dataclass(frozen=True)
class Layout:
    """Where the `num_examples` examples of this micro-batch are in a tensor."""

    axis: Axis
    num_examples: int

    @property
    def dim(self) -> int:
        return self.axis.dim

    def to_rows(self, tensor: Tensor) -> Tensor:
        """Return `tensor` as (N, entries, *other dimensions in order)."""
        moved = tensor.movedim(self.dim, 0)
        if moved.shape[0] % self.num_examples:
            raise ValueError(f"{moved.shape[0]} entries cannot be shared evenly by {self.num_examples} examples")
        if self.axis.interleaved:
            return moved.reshape(-1, self.num_examples, *moved.shape[1:]).transpose(0, 1)
        return moved.reshape(self.num_examples, -1, *moved.shape[1:])

    def to_tokens(self, tensor: Tensor) -> Tensor:
        """Return `tensor` (..., features) as (N, T, features), all other dimensions flattened into T."""
        return self.to_rows(tensor).reshape(self.num_examples, -1, tensor.shape[-1])

    def reduce_to(self, tensor: Tensor, shape: torch.Size) -> Tensor:
        """Undo the broadcast of a parameter of `shape` to `tensor`, keeping the examples apart: (N, *shape)."""
        rows = self.to_rows(tensor).movedim(1, self.dim + 1)  # (N, *tensor's dimensions), entries where the batch was
        for _ in range(tensor.dim() - len(shape)):
            rows = rows.sum(1)
        for position, size in enumerate(shape, start=1):
            if rows.shape[position] != size:
                if size != 1:
                    raise ValueError(f"a parameter of shape {tuple(shape)} is indexed by the example")
                rows = rows.sum(position, keepdim=True)
        return rows


@dataclass(frozen=True)
class Layouts:
    """For every call that touches a tracked tensor: where its result carries the examples, or None where it has none.

    Found once by `probe` on synthetic inputs. A call is recognised by the parameters it touches and its function; where
    the same parameters are used by one function in several ways, also by its position in the forward pass.

    Attributes:
        calls: (parameter names, function, axis) in the order of the forward pass.
    """

    calls: tuple[tuple[frozenset[str], str, Axis | None], ...]

    @cached_property
    def _by_use(self) -> dict[tuple[frozenset[str], str], set[Axis | None]]:
        uses: dict[tuple[frozenset[str], str], set[Axis | None]] = {}
        for names, function, axis in self.calls:
            uses.setdefault((names, function), set()).add(axis)
        return uses

    def of(self, names: frozenset[str], function: str, position: int | None) -> Axis | None:
        """Return where a call's result carries the examples, None where it does not depend on the batch.

        Raises:
            Refused: the model takes another path than it took on the synthetic inputs.
        """
        axes = self._by_use.get((names, function), set())
        if len(axes) == 1:
            return next(iter(axes))
        if (
            axes
            and position is not None
            and position < len(self.calls)
            and self.calls[position][:2] == (names, function)
        ):
            return self.calls[position][2]
        raise Refused(
            f"{', '.join(sorted(names))} (used in {function}): the model takes another path here than on the synthetic "
            "inputs, so it is not known which entries belong to which example."
        )
