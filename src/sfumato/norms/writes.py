"""Writes into a model's parameters and buffers while rows are computed: refused before they happen.

They would carry un-noised facts of rows out of a step, and could not be undone without a copy of the whole model.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.overrides import TorchFunctionMode

from sfumato.base import Refused
from sfumato.norms.contents import tensors_in
from sfumato.norms.memory import address, writes

_WITH_STATISTICS = frozenset(
    ("batch_norm", "instance_norm", "native_batch_norm", "_native_batch_norm_legit", "cudnn_batch_norm")
)


class ReadOnly(TorchFunctionMode):
    """Raises where a torch function would write into the memory of a parameter or buffer of `model`, or where a table
    is renormalised by what is looked up (`max_norm`).
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._model = model
        self._held: dict[int, str] | None = None  # first address of its memory -> what it is; found when it is needed

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        name = getattr(func, "__name__", "")
        if writes(name):
            self._check(args[:1])
        elif name == "embedding":
            _check_table(args, kwargs or {})
        elif name in _WITH_STATISTICS:
            self._check(_statistics(func, args, kwargs or {}))
        if not kwargs:
            return func(*args)
        if kwargs.get("out") is not None:
            self._check(kwargs["out"])
        if kwargs.get("inplace"):  # of torch.nn.functional
            self._check((args[:1], kwargs.get("input")))
        return func(*args, **kwargs)

    def _check(self, targets: Any) -> None:
        for target in tensors_in(targets):
            with torch._C.DisableTorchFunction():
                if self._held is None:
                    self._held = _memory(self._model)
                name = self._held.get(address(target))
            if name is not None:
                raise Refused(changes(name))


def _statistics(func: Callable, args: tuple, kwargs: dict[str, Any]) -> tuple:
    """Return the running statistics that a normalisation writes: those that it is given and does not use."""
    of_function = func in (F.batch_norm, F.instance_norm)  # torch's own have the weight and the bias first
    places = (1, 2) if of_function else (3, 4)
    named = [kwargs.get(name) for name in ("running_mean", "running_var")]
    flags = [kwargs[name] for name in ("training", "train", "use_input_stats") if name in kwargs]
    learns = flags[0] if flags else args[5] if len(args) > 5 else func is F.instance_norm
    return (*(args[place] for place in places if len(args) > place), *named) if learns else ()


def changes(what: str) -> str:
    """Return the sentence of a model that writes into itself: into `the buffer norm.running_mean`, say."""
    return (
        f"{what} changes in the forward pass: it would carry un-noised statistics of private data. Put its module into "
        "eval() or remove the update."
    )


def _check_table(args: tuple, kwargs: dict[str, Any]) -> None:
    limit = args[3] if len(args) > 3 else kwargs.get("max_norm")
    if limit is not None:
        raise Refused(
            "an embedding with max_norm rewrites the rows that are looked up: it would carry un-noised facts of "
            "private data. Set max_norm to None."
        )


def _memory(model: nn.Module) -> dict[int, str]:
    found = {address(parameter): f"the parameter {name}" for name, parameter in model.named_parameters()}
    found |= {address(buffer): f"the buffer {name}" for name, buffer in model.named_buffers()}
    found.pop(0, None)
    return found
