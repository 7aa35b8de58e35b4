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
    modules = tuple((type(module), module.training) for module in computation.model.modules())
    return (
        modules,
        weights.hexdigest(),
        held._function,
        of_pairs,
        shapes,
        computation.engine,
        computation.autocast,
        seed,
    )


@contextmanager
def certified_once(where: str, *, any_weights: bool = False) -> Iterator[None]:
    """What was certified inside of equal weights (or any), loss and shapes is not certified again, within one test
    (`where`).
    """
    before = _scope[0]
    _scope[0] = (where, any_weights)
    try:
        yield
    finally:
        _scope[0] = before


_scope: list[tuple[str, bool] | None] = [None]
_measure = Computation.measure


def _measured_once(self: Computation, micro_batch: Any, seed: int = 0) -> Any:
    scope = _scope[0]
    if scope is None:
        return _measure(self, micro_batch, seed)
    key = (scope, *_key(self, micro_batch.batch, seed, scope[1]))
    if key not in _known:
        _known[key] = _measure(self, micro_batch, seed)
    return _known[key]


Computation.measure = _measured_once  # type: ignore[method-assign]
