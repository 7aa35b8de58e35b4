"""What a pass may not change: parameters, buffers and training flags, which would carry un-noised facts of records out
of it.
"""

import torch
from torch import Tensor, nn


class State:
    """A model's state around a pass. Values are looked at only where torch counted a change.

    Buffers and flags are put back. Parameters are known by their identity and torch's count of changes: a copy of all
    would double the model, so writes into them are refused before they happen (`norms.ReadOnly`).
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._kept: dict[int, tuple[Tensor, int, Tensor]] = {}  # by id: buffer, its version, a copy
        self._modules: list[tuple[str, nn.Module]] = []
        self._before: list[tuple] = []

    def note(self) -> None:
        """Note what there is, before a pass."""
        with torch._C.DisableTorchFunction():  # none of this is the model's own call
            self._modules = list(self._model.named_modules())
            self._before = [self._seen(module) for _, module in self._modules]

    def _seen(self, module: nn.Module) -> tuple:
        buffers = {name: self._noted(buffer) for name, buffer in module._buffers.items() if buffer is not None}
        parameters = {name: (p, p._version) for name, p in module._parameters.items() if p is not None}
        return module.training, buffers, parameters, [(held, dict(held)) for held in _held(module)]

    def _noted(self, buffer: Tensor) -> tuple[Tensor, int, Tensor]:
        known = self._kept.get(id(buffer))
        if known is None or known[0] is not buffer or known[1] != buffer._version:
            known = self._kept[id(buffer)] = (buffer, buffer._version, buffer.detach().clone())
        return known

    def undo(self) -> str | None:
        """Put back what changed; return what something of it was, such as `the buffer norm.running_mean`."""
        with torch._C.DisableTorchFunction():
            return self._undone()

    def _undone(self) -> str | None:
        changed = None
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


def _held(module: nn.Module) -> tuple[dict, ...]:
    """Return what a module holds besides tensors: modules inside it, and hooks, where there may be some."""
    return (
        module._modules,
        module._forward_hooks,
        module._forward_pre_hooks,
        module._backward_hooks,
        module._backward_pre_hooks,
    )


def _buffers_back(module: nn.Module, kept: dict[str, tuple[Tensor, int, Tensor]]) -> tuple[str, str] | None:
    changed = None
    for name, (buffer, version, copy) in kept.items():
        now = module._buffers.get(name)
        if now is buffer and buffer._version == version:
            continue
        if now is not buffer or buffer.shape != copy.shape or not _equal(buffer, copy):
            buffer.data = copy.clone()
            module._buffers[name] = buffer
            changed = ("buffer", name)
    for name in [name for name, buffer in module._buffers.items() if buffer is not None and name not in kept]:
        del module._buffers[name]
        changed = ("buffer", name)
    return changed


def _parameters_back(module: nn.Module, kept: dict[str, tuple[nn.Parameter, int]]) -> tuple[str, str] | None:
    changed = None
    for name, (parameter, version) in kept.items():
        if module._parameters.get(name) is not parameter:
            module._parameters[name] = parameter
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
