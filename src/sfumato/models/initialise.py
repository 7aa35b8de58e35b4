"""Initial weights as a function of (key, parameter name): no global random state is read or moved."""

import hashlib
import math

import torch
from torch import nn

from sfumato.base.seeds import SEED_BYTES, derive


def as_key(seed: bytes | int) -> bytes:
    """Return the key of a seed: 32 bytes are a key already, anything else is hashed to one."""
    if isinstance(seed, bytes) and len(seed) == SEED_BYTES:
        return seed
    return hashlib.blake2b(repr(seed).encode(), digest_size=SEED_BYTES).digest()


def torch_seed(key: bytes, *path: str | int) -> int:
    """Return a 63-bit seed for `torch.Generator.manual_seed` at `path` below `key`."""
    return int.from_bytes(derive(key, *path)[:8], "big") >> 1


@torch.no_grad()
def initialise(model: nn.Module, key: bytes, std: float | None) -> None:
    """Set every parameter of `model`, each from its own stream (key, name).

    Matrices and convolutions: normal with `std`, or 1 / sqrt(fan-in) where it is None. Embeddings and parameters that a
    module owns directly (class token, positions): normal with std .02, padding row zero. Norms: one and zero; biases
    zero.

    Args:
        model: made of Linear, Conv2d, Embedding, LayerNorm, GroupNorm and directly owned parameters.
        key: 32 bytes.
        std: standard deviation, or None for the layer's own.
    """
    for prefix, module in model.named_modules():
        for name, param in module.named_parameters(recurse=False):
            generator = torch.Generator().manual_seed(torch_seed(key, "init", f"{prefix}.{name}"))
            if name == "bias":
                param.zero_()
            elif isinstance(module, nn.LayerNorm | nn.GroupNorm):
                param.fill_(1.0)
            else:
                param.normal_(0.0, _std(module, param, std), generator=generator)
        if isinstance(module, nn.Embedding) and module.padding_idx is not None:
            module.weight[module.padding_idx].zero_()


def _std(module: nn.Module, param: torch.Tensor, std: float | None) -> float:
    if not isinstance(module, nn.Linear | nn.Conv2d):
        return 0.02
    return std if std is not None else 1.0 / math.sqrt(param[0].numel())
