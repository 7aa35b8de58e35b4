"""Tests that make the same model train many times certify it once: what they look at comes after certification."""

import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import fields, is_dataclass
from functools import partial
from importlib import import_module
from types import FunctionType, MethodType
from typing import Any, TypeVar

import pytest
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from sfumato.losses import Contrast
from sfumato.mechanisms import Computation
from sfumato.norms import made_up, pool

certify: Any = import_module("sfumato.norms.certify")
T = TypeVar("T")
_MOST = 64  # models that are held
_known: dict[tuple, Any] = {}


ALL = os.environ.get("SFUMATO_ZOO") == "all"
only_whole = pytest.mark.skipif(not ALL, reason="slow, and its parts have tests of their own: SFUMATO_ZOO=all runs it")


def some(table: Sequence[T], step: int) -> list[T]:
    """Every `step`-th entry of a table of cases; with SFUMATO_ZOO=all the whole table."""
    return list(table) if ALL else list(table)[::step]


def _key(computation: Computation, batch: Any, seed: int, any_weights: bool) -> tuple:
    model = computation.model
    weights = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        weights.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        weights.update(b"" if any_weights else tensor.numpy().tobytes())
    loss: Any = computation.loss_fn
    held = loss.embed if isinstance(loss, Contrast) else loss
    shapes = tuple((leaf.shape, leaf.dtype) for leaf in pytree.tree_leaves(batch) if isinstance(leaf, Tensor))
    of_pairs = (repr(loss.loss), loss.log_scale, repr(loss.value)) if isinstance(loss, Contrast) else None
    return (
        tuple(_of_module(module) for module in model.modules()),
        tuple(parameter.requires_grad for parameter in model.parameters()),
        str(getattr(model, "config", "")),
        weights.hexdigest(),
        _of_code(held._function),
        of_pairs,
        shapes,
        computation.engine,
        _of_code(computation.autocast),
        seed,
    )


def _of_module(module: nn.Module) -> tuple:
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    return (
        type(module),
        module.training,
        module.extra_repr(),
        vars(module).get("forward"),
        tuple((name, _of_code(value)) for name, value in vars(module).items() if _decides(name, value)),
        *(hook for kind in hooks for hook in kind.values()),
    )


def _decides(name: str, value: Any) -> bool:
    """Whether an attribute of a module may decide what it computes: numbers, text and functions of its own."""
    return isinstance(value, str | int | float | bool | FunctionType | partial | tuple) and name != "training"


def _of_code(thing: Any) -> Any:
    """Return what tells two functions or losses apart; what is not known is told apart by itself."""
    if isinstance(thing, FunctionType):
        cells = tuple(_of_code(cell.cell_contents) for cell in thing.__closure__ or ())
        return thing.__code__, _of_code(thing.__defaults__), cells
    if isinstance(thing, MethodType):
        return _of_code(thing.__func__), _of_code(thing.__self__)
    if isinstance(thing, partial):
        return _of_code(thing.func), _of_code(thing.args), _of_code(tuple(sorted(thing.keywords.items())))
    if isinstance(thing, nn.Module):
        return type(thing)  # the model itself, as a rule
    if isinstance(thing, tuple):
        return tuple(_of_code(part) for part in thing)
    if is_dataclass(thing) and not isinstance(thing, type):
        return type(thing), tuple(_of_code(getattr(thing, field.name)) for field in fields(thing))
    return thing if isinstance(thing, str | int | float | bool | None) else _Itself(thing)


class _Itself:
    """A thing that equals itself alone, and is held so that no other takes its place."""

    def __init__(self, thing: Any) -> None:
        self._thing = thing

    def __hash__(self) -> int:
        return id(self._thing)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Itself) and other._thing is self._thing


@contextmanager
def certified_once(where: str, *, any_weights: bool = False) -> Iterator[None]:
    """What was certified inside of equal weights (or any), settings, loss and shapes is not certified again, within one
    test or one room of tests (`where`). What was refused is refused anew.
    """
    token = _scope.set((where, any_weights))
    try:
        yield
    finally:
        _scope.reset(token)


@contextmanager
def certified_lightly() -> Iterator[None]:
    """A model is certified on a few kinds of rows: enough to train, for tests of what comes after certification."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(made_up, "_ORDINARY", ("random", "ragged"))
        patch.setattr(made_up, "_GROWING", ())
        patch.setattr(pool, "SETTINGS", pool.SETTINGS[:2])
        patch.setattr(certify, "assemblies", lambda *args: [*pool.assemblies(*args)[:2], pool.assemblies(*args)[-1]])
        patch.setattr(certify, "compare_exactly", lambda *args: True)
        yield


# Of one thread: runs of several ranks overlap, and what one of them put back would hold in every later test.
_scope: ContextVar[tuple[str, bool] | None] = ContextVar("scope", default=None)
_measure = Computation.measure


def _measured_once(self: Computation, micro_batch: Any, seed: int = 0) -> Any:
    scope = _scope.get()
    if scope is None:
        return _measure(self, micro_batch, seed)
    key = (scope, *_key(self, micro_batch.batch, seed, scope[1]))
    if key not in _known:
        if len(_known) >= _MOST:
            _known.pop(next(iter(_known)))
        _known[key] = _measure(self, micro_batch, seed)
    return _known[key]


Computation.measure = _measured_once  # type: ignore[method-assign]
