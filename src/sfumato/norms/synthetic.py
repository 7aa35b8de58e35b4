"""Synthetic twins of a batch: same structure, shapes and types, none of its values."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from sfumato.base import BadInput


def batch_size(batch: Any) -> int:
    """Return N, the common leading dimension of every tensor in `batch`.

    Raises:
        BadInput: no tensor, or tensors whose leading dimensions differ.
    """
    sizes = {tuple(leaf.shape[:1]) for leaf in pytree.tree_leaves(batch) if isinstance(leaf, Tensor)}
    if len(sizes) != 1 or () in sizes:
        raise BadInput(
            f"every tensor of a batch must lead with the example dimension; leading sizes are {sorted(sizes)}."
        )
    return next(iter(sizes))[0]


def synthetic_twin(batch: Any, num_examples: int, seed: int = 0) -> Any:
    """Return a batch of `num_examples` rows like `batch`: only shapes, types and devices are read from it.

    Floats are standard normal. Integers and booleans are ones followed by zeros, the number of ones differing from row
    to row: as token ids they are in every vocabulary, as masks they are ragged, which uncovers models that pack tokens.
    """
    generator = torch.Generator().manual_seed(seed)

    def twin(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        shape = (num_examples, *leaf.shape[1:])
        if leaf.is_floating_point():
            return torch.randn(shape, generator=generator, dtype=torch.float64).to(leaf.dtype).to(leaf.device)
        return _staircase(shape, generator).to(leaf.dtype).to(leaf.device)

    return pytree.tree_map(twin, batch)


def row_of(batch: Any, place: int) -> Any:
    """Return the batch of one row alone."""
    return pytree.tree_map(lambda leaf: leaf[place : place + 1] if isinstance(leaf, Tensor) else leaf, batch)


def has_floats(batch: Any) -> bool:
    """Return whether a batch holds a tensor of floats."""
    return any(isinstance(leaf, Tensor) and leaf.is_floating_point() for leaf in pytree.tree_leaves(batch))


def joined(rows: Sequence[Any]) -> Any:
    """Return one batch of batches of single rows."""
    return pytree.tree_map(lambda *leaves: torch.cat(leaves) if isinstance(leaves[0], Tensor) else leaves[0], *rows)


def _staircase(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    if len(shape) == 1:
        return torch.arange(shape[0]) % 2
    length = shape[-1]
    shortest = (length + 1) // 2  # every row keeps tokens enough for shifted labels
    lengths = shortest + torch.randperm(max(shape[0], length - shortest + 1), generator=generator)[: shape[0]]
    lengths = lengths.clamp(max=length).view(-1, *[1] * (len(shape) - 1))
    return (torch.arange(length) < lengths).expand(shape).long()
