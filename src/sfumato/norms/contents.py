"""What the arguments of a call hold: its tensors and arrays, and digests of their values."""

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sfumato.norms.memory import bare


@dataclass(frozen=True)
class Raised:
    """Stands for what a call returns, where it raised: a model may catch it and go on otherwise."""

    kind: str


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Yield the tensors in an argument, at any depth of lists, tuples, mappings and slices."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from tensors_in(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from tensors_in(item)
    elif isinstance(value, slice):
        for item in (value.start, value.stop, value.step):
            yield from tensors_in(item)


def arrays_in(value: Any) -> Iterator[np.ndarray]:
    """Yield the arrays of numpy in an argument."""
    if isinstance(value, np.ndarray):
        yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from arrays_in(item)


def digest(*values: Any) -> bytes:
    """Return a digest of tensors by their bytes, of arrays too, and of other values by how they print."""
    total = hashlib.blake2b(digest_size=16)
    with torch._C.DisableTorchFunction(), torch._C._DisableFuncTorch():
        for value in values:
            if isinstance(value, Tensor):
                total.update(f"{value.dtype} {tuple(value.shape)}".encode())
                total.update(_content(value))
            elif isinstance(value, np.ndarray) and not value.dtype.hasobject:
                total.update(f"{value.dtype} {value.shape}".encode())
                total.update(value.tobytes())
            else:
                total.update(f"{type(value).__name__} {value!r}".encode())
    return total.digest()


def _content(tensor: Tensor) -> Any:
    """Return the bytes of a tensor; of one that has none to show, bytes that equal no others."""
    try:
        whole = bare(tensor).detach()
        dense = whole.to_dense() if whole.layout != torch.strided else whole
        host = dense.cpu().resolve_conj().resolve_neg().contiguous().reshape(-1)
        return host.view(torch.uint8).numpy().data
    except (RuntimeError, TypeError, NotImplementedError):
        return os.urandom(16)
