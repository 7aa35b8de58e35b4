"""What a step may not change: buffers and training flags, which would carry un-noised facts of records out of it."""

from torch import Tensor, nn

from sfumato.base import Refused

_CHANGED = (
    "a buffer or a training flag of the model changed while private rows were computed; it was put back, and nothing "
    "was released. Put modules that keep statistics into eval(), or remove the update."
)


class StepGuard:
    """Compares buffers and training flags around a step. It looks at values only where torch counted a change.

    Args:
        model: the module that is trained.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._kept: dict[str, tuple[Tensor, int, Tensor]] = {}  # buffer, its version, a copy
        self._flags: list[tuple[nn.Module, bool]] = []

    def before(self) -> None:
        """Note what there is; called before the first row of a step."""
        self._flags = [(module, module.training) for module in self._model.modules()]
        now = dict(self._model.named_buffers())
        self._kept = {name: self._noted(name, buffer) for name, buffer in now.items()}

    def _noted(self, name: str, buffer: Tensor) -> tuple[Tensor, int, Tensor]:
        known = self._kept.get(name)
        if known is not None and known[0] is buffer and known[1] == buffer._version:
            return known
        return buffer, buffer._version, buffer.detach().clone()

    def after(self) -> None:
        """Undo what changed; called after the last row of a step, before anything of it is charged.

        Raises:
            Refused: something did. The sentence is one and the same whatever it was.
        """
        flags = [module for module, training in self._flags if module.training != training]
        for module, training in self._flags:
            module.training = training
        if self._undo() or flags:
            raise Refused(_CHANGED)

    def _undo(self) -> bool:
        """Put buffers back; return whether a value had changed, or one was added, replaced or removed."""
        now = dict(self._model.named_buffers())
        changed = False
        for name, (buffer, version, copy) in self._kept.items():
            if now.get(name) is buffer and buffer._version == version:
                continue
            path, _, own = name.rpartition(".")
            same = now.get(name) is buffer and buffer.shape == copy.shape and _equal(buffer, copy)
            if not same:
                buffer.data = copy.clone()
                self._model.get_submodule(path)._buffers[own] = buffer
                changed = True
            self._kept[name] = (buffer, buffer._version, copy)
        for name in now.keys() - self._kept.keys():
            path, _, own = name.rpartition(".")
            del self._model.get_submodule(path)._buffers[own]
            changed = True
        return changed


def _equal(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors of one shape hold the same values, NaN included."""
    return bool(((one == other) | ((one != one) & (other != other))).all())
