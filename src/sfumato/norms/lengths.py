"""Norms of long float32 tensors.

torch adds the squares of a row up in a few running float32 sums: over 1e7 equal entries its norm is 0.7 % too small. So
squares are added in float32 over blocks alone (to 1e-6), and over the blocks in float64.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

_BLOCK = 1024


def squared_norms(values: Tensor) -> Tensor:
    """Return the squared norm of each of N tensors, (N, ...) -> (N,), float64."""
    flat = values.reshape(len(values), -1)
    whole = flat.shape[1] // _BLOCK * _BLOCK
    blocks = torch.linalg.vector_norm(flat[:, :whole].unflatten(1, (-1, _BLOCK)), dim=2)
    rest = torch.linalg.vector_norm(flat[:, whole:], dim=1)
    return blocks.double().square().sum(1) + rest.double().square()


def length(tensors: Iterable[Tensor]) -> Tensor:
    """Return the norm of several tensors taken as one vector, float64."""
    return torch.stack([squared_norms(tensor[None])[0] for tensor in tensors]).sum().sqrt()
