"""Tests that make the same model train many times certify it once: what they look at comes after certification."""

import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from torch import Tensor
from torch.utils import _pytree as pytree

from sfumato.losses import Contrast
from sfumato.mechanisms import Computation

T = TypeVar("T")
_known: dict[tuple, Any] = {}


def some(table: Sequence[T], step: int) -> list[T]:
    """Every `step`-th entry of a table of cases; with SFUMATO_ZOO=all the whole table."""
    return list(table) if os.environ.get("SFUMATO_ZOO") == "all" else list(table)[::step]


def _key(computation: Computation, batch: Any, seed: int, any_weights: bool) -> tuple:
    weights = hashlib.sha256()
    for name, tensor in computation.model.state_dict().items():
        weights.update(name.encode() + (b"" if any_weights else tensor.numpy().tobytes()))
    loss: Any = computation.loss_fn
    held = loss.embed if isinstance(loss, Contrast) else loss
    shapes = tuple((leaf.shape, leaf.dtype) for leaf in pytree.tree_leaves(batch) if isinstance(leaf, Tensor))
    of_pairs = repr(loss.loss) if isinstance(loss, Contrast) else None
    return weights.hexdigest(), held._function, of_pairs, shapes, computation.engine, computation.autocast, seed


@contextmanager
def certified_once(where: str, *, any_weights: bool = False) -> Iterator[None]:
    """What was certified inside of equal weights (or any), loss and shapes is not certified again, within one test
    (`where`).
    """
    real = Computation.measure

    def measure(self: Computation, micro_batch: Any, seed: int = 0) -> Any:
        key = (where, *_key(self, micro_batch.batch, seed, any_weights))
        if key not in _known:
            _known[key] = real(self, micro_batch, seed)
        return _known[key]

    Computation.measure = measure  # type: ignore[method-assign]
    try:
        yield
    finally:
        Computation.measure = real  # type: ignore[method-assign]
