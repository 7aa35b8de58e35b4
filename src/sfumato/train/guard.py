"""What a step may not change: the state of the model, which would carry un-noised facts of records out of it."""

from torch import nn

from sfumato.base import Refused
from sfumato.mechanisms import State

_CHANGED = (
    "a parameter, a buffer or a training flag of the model changed while private rows were computed; nothing was "
    "released, and buffers and flags were put back. Put modules that keep statistics into eval(), or remove the update."
)


class StepGuard:
    """Compares a model's state around a step: the last net behind the passes, which are compared one by one (`Held`).

    Args:
        model: the module that is trained.
    """

    def __init__(self, model: nn.Module) -> None:
        self._state = State(model)

    def before(self) -> None:
        """Note what there is; called before the first row of a step."""
        self._state.note()

    def after(self) -> None:
        """Undo what changed; called after the last row of a step, before anything of it is charged.

        Raises:
            Refused: something did. The sentence is one and the same whatever it was.
        """
        if self._state.undo() is not None:
            raise Refused(_CHANGED)
