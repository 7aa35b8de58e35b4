"""What a pass may not change: parameters, buffers, training flags, and what torch keeps for all models of the process.
They would carry un-noised facts of records out of it.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

_OF_ALL = [
    value for name, value in vars(nn.modules.module).items() if name.startswith("_global_") and isinstance(value, dict)
]
"""Hooks of all modules of the process."""

_SETTINGS: dict[str, tuple[Callable[[], Any], Callable[[Any], object]]] = {
    "default dtype": (torch.get_default_dtype, torch.set_default_dtype),
    "number of threads": (torch.get_num_threads, torch.set_num_threads),
    "choice of deterministic algorithms": (
        lambda: (torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()),
        lambda value: torch.use_deterministic_algorithms(value[0], warn_only=value[1]),
    ),
}


class State:
    """A model's state around a pass. Values are looked at only where torch counted a change.

    Buffers and flags are put back. Parameters are known by their identity, their memory and torch's count of changes: a
    copy of all would double the model, so writes into them are refused before they happen (`norms.ReadOnly`).
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._kept: dict[int, _Buffer] = {}
        self._aliases: dict[int, tuple[Tensor, Tensor]] = {}  # by id: parameter, and its memory under another name
        self._modules: list[tuple[str, nn.Module]] = []
        self._before: list[tuple] = []
        self._hooks: list[dict] = []
        self._settings: dict[str, Any] = {}

    def note(self) -> None:
        """Note what there is, before a pass."""
        with torch._C.DisableTorchFunction():  # none of this is the model's own call
            self._modules = list(self._model.named_modules())
            self._before = [self._seen(module) for _, module in self._modules]
            self._hooks = [dict(hooks) for hooks in _OF_ALL]
            self._settings = {name: get() for name, (get, _) in _SETTINGS.items()}

    def _seen(self, module: nn.Module) -> tuple:
        buffers = {name: self._noted(buffer) for name, buffer in module._buffers.items() if buffer is not None}
        parameters = {name: (p, p._version, self._alias(p)) for name, p in module._parameters.items() if p is not None}
        return module.training, buffers, parameters, [(held, dict(held)) for held in _held(module)]

    def _noted(self, buffer: Tensor) -> "_Buffer":
        known = self._kept.get(id(buffer))
        now = (buffer._version, buffer.data_ptr())
        if known is None or known[0] is not buffer or known[1] != now:
            known = self._kept[id(buffer)] = (buffer, now, buffer.detach().clone())
        return known

    def _alias(self, parameter: Tensor) -> Tensor:
        known = self._aliases.get(id(parameter))
        if known is None or known[0] is not parameter or known[1].data_ptr() != parameter.data_ptr():
            known = self._aliases[id(parameter)] = (parameter, parameter.detach())
        return known[1]

    def undo(self) -> str | None:
        """Put back what changed; return what something of it was, such as `the buffer norm.running_mean`."""
        with torch._C.DisableTorchFunction():
            return self._undone()

    def _undone(self) -> str | None:
        changed = self._of_torch_back()
        for (name, module), (training, buffers, parameters, held) in zip(self._modules, self._before, strict=True):
            own = None
            for now, before in held:
                if now != before:
                    now.clear()
                    now.update(before)
                    changed = changed or f"what modules or hooks there are in {name or 'the model'}"
            if module.training != training:
                module.training, own = training, ("training flag", "training")
            own = _buffers_back(module, buffers) or own
            own = _parameters_back(module, parameters) or own
            if own is not None:
                changed = changed or f"the {own[0]} {name}.{own[1]}".replace(" .", " ")
        return changed

    def _of_torch_back(self) -> str | None:
        """Put back what torch keeps for all models."""
        changed = None
        for hooks, before in zip(_OF_ALL, self._hooks, strict=True):
            if hooks != before:
                hooks.clear()
                hooks.update(before)
                changed = "what hooks all modules have"
        for name, (get, set_) in _SETTINGS.items():
            if get() != self._settings[name]:
                set_(self._settings[name])
                changed = f"torch's {name}"
        return changed


def _held(module: nn.Module) -> tuple[dict, ...]:
    """Return what a module holds besides tensors: modules inside it, and hooks, where there may be some."""
    return (
        module._modules,
        module._forward_hooks,
        module._forward_pre_hooks,
        module._backward_hooks,
        module._backward_pre_hooks,
    )


_Buffer = tuple[Tensor, tuple[int, int], Tensor]
"""A buffer, its version and where its memory is, and a copy."""


def _buffers_back(module: nn.Module, kept: dict[str, _Buffer]) -> tuple[str, str] | None:
    changed = None
    for name, (buffer, before, copy) in kept.items():
        now = module._buffers.get(name)
        if now is buffer and (buffer._version, buffer.data_ptr()) == before and buffer.shape == copy.shape:
            continue
        if now is not buffer or buffer.shape != copy.shape or not _equal(buffer, copy):
            buffer.data = copy.clone()
            module._buffers[name] = buffer
            changed = ("buffer", name)
    for name in [name for name, buffer in module._buffers.items() if buffer is not None and name not in kept]:
        del module._buffers[name]
        changed = ("buffer", name)
    return changed


def _parameters_back(module: nn.Module, kept: dict[str, tuple[nn.Parameter, int, Tensor]]) -> tuple[str, str] | None:
    changed = None
    for name, (parameter, version, alias) in kept.items():
        if module._parameters.get(name) is not parameter:
            module._parameters[name] = parameter
            changed = ("parameter", name)
        if parameter.data_ptr() != alias.data_ptr() or parameter.shape != alias.shape:  # other memory was put into it
            parameter.data = alias
            changed = ("parameter", name)
        if parameter._version != version:
            changed = ("parameter", name)
    for name in [name for name, p in module._parameters.items() if p is not None and name not in kept]:
        del module._parameters[name]
        changed = ("parameter", name)
    return changed


def _equal(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors of one shape hold the same values, NaN included."""
    return bool(((one == other) | ((one != one) & (other != other))).all())
