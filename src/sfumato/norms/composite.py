"""Functions that need a word before the rules: those that call others inside, and those that mix examples."""

import types
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from sfumato.base import Refused


def _open(function: types.FunctionType) -> Callable:
    """Return `function` without its own dispatch to the mode, so that the mode sees the calls inside it."""
    never = {"has_torch_function": lambda *_: False}
    body = {**function.__globals__, **never, "overrides": types.SimpleNamespace(**never)}
    opened = types.FunctionType(function.__code__, body, function.__name__, function.__defaults__, function.__closure__)
    opened.__kwdefaults__ = function.__kwdefaults__
    return opened


# The backward pass is among them because gradient checkpointing runs parts of the forward pass again inside it.
COMPOSITE: Mapping[Callable, Callable] = {
    function: _open(function) for function in (F.multi_head_attention_forward, torch.autograd.grad)
}

_TRAINING_ARGUMENT = {"batch_norm": 5, "native_batch_norm": 5}


def refuse_row_mixing(name: str, args: tuple, kwargs: Mapping[str, Any]) -> None:
    """Raise where a function ties the examples of a batch together.

    Raises:
        Refused: batch normalisation in training mode.
    """
    if name in _TRAINING_ARGUMENT:
        place = _TRAINING_ARGUMENT[name]
        if kwargs.get("training", args[place] if len(args) > place else False):
            raise Refused(
                "BatchNorm in training mode normalises each example with the others of its batch, so one record moves "
                "every gradient. Put the BatchNorm modules into eval() (frozen statistics) or use GroupNorm."
            )


class RefuseMixing(TorchFunctionMode):
    """Raises Refused where a function ties the examples of a batch together."""

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if func in COMPOSITE:
            with self:
                return COMPOSITE[func](*args, **(kwargs or {}))
        refuse_row_mixing(getattr(func, "__name__", ""), args, kwargs or {})
        return func(*args, **(kwargs or {}))
