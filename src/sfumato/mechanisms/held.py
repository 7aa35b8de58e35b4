"""The user's loss, held to what one pass may do: it gets its own copy of the rows, changes nothing of the model, and
ends no process.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from sfumato.base import Refused
from sfumato.mechanisms.state import State
from sfumato.norms import ReadOnly, changes, not_ended


class Held:
    """(model, batch) -> what `function` makes of them.

    Raises:
        Refused: something of the model changed; buffers and flags are put back.
        Ended: instead of SystemExit and the like.
    """

    def __init__(self, function: Callable[[Any, Any], Any]) -> None:
        self._function = function
        self._state: tuple[nn.Module, State] | None = None

    def __call__(self, model: Any, batch: Any) -> Any:
        if torch._C._get_tracing_state() is not None or not isinstance(model, nn.Module):
            return self._function(model, batch)
        if self._state is None or self._state[0] is not model:
            self._state = (model, State(model))
        state = self._state[1]
        state.note()
        changed = None
        try:
            with not_ended(), ReadOnly(model):
                out = self._function(model, _copied(batch))
        finally:
            changed = state.undo()
        if changed is not None:
            raise Refused(changes(changed))
        return out


def _copied(batch: Any) -> Any:
    """Return the rows in memory of their own: what a model writes into them reaches no other pass."""
    return pytree.tree_map(lambda leaf: leaf.clone() if isinstance(leaf, Tensor) else leaf, batch)
