"""Whether what a model draws at random is drawn for each row by itself.

A mask that the rows of a micro-batch share (dropout on a weight, stochastic depth of whole batches, LayerDrop) makes a
record's gradient depend on which micro-batch it is in, and so on who else was drawn: a record that joins moves others
on, and the sum by more than its own clipped gradient. A mask with the batch in its shape is exchangeable: it is drawn
anew for every row, whoever stands beside it.
"""

import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from sfumato.base import Refused

_UNIFORM = "rand"
_EXTREMES = (0.0, 1.0 - 2.0**-24)  # of what `rand` gives
_INSTEAD = "Draw it for each row, with the batch in its shape, or switch it off (eval())."


class Draws(TorchDispatchMode):
    """Lists the random functions of a forward pass, with the shapes of their results.

    Args:
        forced: places in this list of uniform draws that are to be replaced, and the number to replace them by.
    """

    def __init__(self, forced: Sequence[int] = (), by: float = 0.0) -> None:
        super().__init__()
        self.found: list[tuple[str, list[torch.Size]]] = []
        self._forced, self._by = set(forced), by
        self._before = _generators()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if torch.Tag.nondeterministic_seeded not in func.tags:
            return func(*args, **(kwargs or {}))
        before = _states()
        out = func(*args, **(kwargs or {}))
        if any(not torch.equal(now, then) for now, then in zip(_states(), before, strict=True)):
            name = func.overloadpacket.__name__.rstrip("_")
            if name == _UNIFORM and len(self.found) in self._forced:
                out.fill_(self._by)
            shapes = [leaf.shape for leaf in pytree.tree_leaves(out) if isinstance(leaf, Tensor)]
            self.found.append((name, shapes))
        return out

    def check_generators(self) -> None:
        """Refuse draws of Python's or numpy's own generator: they have no rows.

        Raises:
            Refused: one of them was used since this object was made.
        """
        used = [name for name, (now, then) in zip(("random", "numpy"), zip(_generators(), self._before)) if now != then]
        if used:
            raise Refused(f"the model draws random numbers from {used[0]}, once for a whole micro-batch. {_INSTEAD}")


class FixedDraws(TorchDispatchMode):
    """Replaces what is drawn by constants: every row is then computed as if it drew the same, alone or not."""

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__.rstrip("_")
        if torch.Tag.nondeterministic_seeded not in func.tags or name.startswith("_scaled_dot"):
            return out
        if name == "native_dropout":
            out[0].copy_(args[0])
            out[1].fill_(True)
        elif isinstance(out, Tensor):
            out.fill_(_CONSTANTS.get(name, 0))
        return out


_CONSTANTS = {"rand": 0.5, "rand_like": 0.5, "uniform": 0.5, "bernoulli": 1, "exponential": 1, "geometric": 1}


def _states() -> list[Tensor]:
    """Return the states of torch's generators, which move where an op draws (attention without dropout does not)."""
    cuda = [torch.cuda.get_rng_state()] if torch.cuda.is_available() and torch.cuda.is_initialized() else []
    return [torch.get_rng_state(), *cuda]


def _generators() -> tuple[Any, Any]:
    state: Any = np.random.get_state(legacy=False)
    return random.getstate(), (state["state"]["pos"], state["state"]["key"].tobytes())


def check_draws(small: Draws, large: Draws, again: Callable[[Draws], Tensor]) -> None:
    """Refuse what is drawn once for all rows, seen from two forward passes of different numbers of rows.

    Args:
        small, large: of these passes.
        again: a pass like the larger one, from one random state, under another `Draws`; gives the losses.

    Raises:
        Refused: naming the random function. One whose number does not matter (`rand` of LayerDrop at 0) passes.
    """
    large.check_generators()
    if [name for name, _ in small.found] != [name for name, _ in large.found]:
        raise Refused("the model draws random numbers in another way for another batch size: it cannot be told whose.")
    shared = [place for place, (a, b) in enumerate(zip(small.found, large.found, strict=True)) if a[1] == b[1]]
    matters = [place for place in shared if large.found[place][0] != _UNIFORM]
    if shared and not matters and not torch.equal(*(again(Draws(shared, by)) for by in _EXTREMES)):
        matters = shared
    if matters:
        name, shapes = large.found[matters[0]]
        raise Refused(
            f"the model draws random numbers once for a whole micro-batch ({name}, shape {tuple(shapes[0])}): rows "
            f"that share them depend on who else was drawn. {_INSTEAD}"
        )
