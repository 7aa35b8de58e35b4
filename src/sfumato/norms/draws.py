"""Whether what a model draws at random is drawn for each row by itself.

A mask that the rows of a micro-batch share (dropout on a weight, stochastic depth of whole batches, LayerDrop) makes a
record's gradient depend on which micro-batch it is in, and so on who else was drawn: a record that joins moves others
on, and the sum by more than its own clipped gradient. A mask with the batch in its shape is exchangeable: it is drawn
anew for every row, whoever stands beside it.
"""

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from sfumato.base import Refused

_UNIFORM = "rand"
_BY_VALUE = ("poisson", "binomial", "_standard_gamma", "_sample_dirichlet")
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
            return _run(func, args, kwargs)
        before = _states()
        out = _run(func, args, kwargs)
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


SETTINGS = ("kept", "mixed", "low", "split")
"""What `FixedDraws` makes of random numbers:

kept: uniform numbers close to 1, normal ones far above 0, the largest integers; Bernoulli draws are 1,
    dropout keeps all;
mixed: as they are distributed, other ones for each row, draw and place;
low: uniform numbers close to 0, normal ones far below 0, the smallest integers; of Bernoulli draws one half are 1;
split: the extremes of "kept" for one half of the rows and those of "low" for the others.
"""

Shapes = dict[int, tuple[str, list[int]]]


class FixedDraws(TorchDispatchMode):
    """Replaces what is drawn by a function of the row, whoever stands beside it: alone and jointly it draws the same.

    Each draw has a key, taken from torch's generator on the host, which moves on by one number per draw whatever the
    number of rows. So a part of the forward pass that is run again (checkpointing) finds its draws again.

    Args:
        setting: one of `SETTINGS`.
        numbers: of the rows; rows of one number draw alike.
        axes: from `draw_axes`. A draw that is not in it gives one value for all entries.
    """

    def __init__(self, setting: str, numbers: Sequence[int], axes: "Axes") -> None:
        super().__init__()
        self.seen: Shapes = {}
        self._setting, self._numbers, self._axes = setting, list(numbers), axes

    def __enter__(self) -> Any:
        torch.default_generator.manual_seed(0)  # the keys come from the host; torch.manual_seed takes a millisecond
        return super().__enter__()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        name = func.overloadpacket.__name__.rstrip("_")
        if torch.Tag.nondeterministic_seeded not in func.tags or name.startswith("_scaled_dot"):
            return _run(func, args, kwargs)
        with torch._C.DisableTorchFunction():
            key = int(torch.randint(2**31, ()))
            state = torch.get_rng_state()
            given = {argument.name: argument.default_value for argument in func._schema.arguments}
            given |= dict(zip(given, args, strict=False)) | (kwargs or {})
            odds = given["self"].clone() if name == "bernoulli" and given.get("p") is None else given.get("p")
            out = func(*args, **(kwargs or {}))
            torch.set_rng_state(state)
            first = out if isinstance(out, Tensor) else out[0]
            self.seen[key] = (name, list(first.shape))
            base = self._base(key, name, first)
            if name == "native_dropout":
                share = 1 - given["p"]
                kept = self._coins(base, share).expand_as(first)
                out[1].copy_(kept)
                out[0].copy_(given["input"] * kept / max(share, 1e-30))
            elif name == "bernoulli":
                out.copy_(self._coins(base, odds))
            elif isinstance(out, Tensor):
                out.copy_(_values(name, self._moved(base, key), given, out))
        return out

    def _base(self, key: int, name: str, out: Tensor) -> Tensor:
        """Return numbers in (0, 1) that broadcast to `out`: a function of the draw, the row and the place inside it."""
        shape = list(out.shape)
        axis = self._axes.get(key)
        hashed = torch.zeros([1] * len(shape), dtype=torch.long)
        self._rows = torch.zeros([1] * len(shape), dtype=torch.long)
        if axis is not None and axis.fits(name, shape, len(self._numbers)):
            inner = [1 if place == axis.dim else size for place, size in enumerate(shape)]
            hashed = _hash(torch.arange(math.prod(inner)).view(inner) + 1)
            if axis.dim is not None and shape[axis.dim] == len(self._numbers):
                self._rows = torch.tensor(self._numbers).view([-1 if d == axis.dim else 1 for d in range(len(shape))])
        hashed = _hash(hashed ^ _hash(self._rows + key))
        return ((hashed + 0.5) / 2**31).to(out.device)

    def _moved(self, base: Tensor, key: int) -> Tensor:
        low, high = base * 2.0**-12, 1 - base * 2.0**-12
        if self._setting == "split":
            return torch.where(((self._rows + key) % 2 == 0).to(base.device), low, high)
        return {"kept": high, "mixed": base, "low": low}[self._setting]

    def _coins(self, base: Tensor, odds: Any) -> Tensor:
        odds = torch.as_tensor(odds, device=base.device).double()
        if self._setting == "kept":
            return (odds > 0) & (base >= 0)
        if self._setting == "low":
            odds = torch.where((odds > 0) & (odds < 1), 0.5, odds)
        return base < odds


@dataclass(frozen=True)
class DrawAxis:
    """Where the rows are in what one draw gives: the dimension (None: nowhere), and the sizes for one row."""

    name: str
    dim: int | None
    sizes: tuple[int, ...]

    def fits(self, name: str, shape: Sequence[int], num_rows: int) -> bool:
        """Return whether a draw of `num_rows` rows has this form."""
        wanted = [size * num_rows if place == self.dim else size for place, size in enumerate(self.sizes)]
        return name == self.name and list(shape) == wanted


Axes = dict[int, DrawAxis]


def draw_axes(two: Shapes, three: Shapes) -> Axes:
    """Return where the rows are in each draw, from forward passes of two and of three rows."""
    found: Axes = {}
    for key, (name, small) in two.items():
        other, large = three.get(key, ("", []))
        grown = [place for place, (a, b) in enumerate(zip(small, large, strict=False)) if a != b]
        if other != name or len(small) != len(large) or len(grown) > 1:
            continue
        dim = grown[0] if grown else None
        if dim is None or (small[dim] % 2 == 0 and small[dim] * 3 == large[dim] * 2):
            found[key] = DrawAxis(name, dim, tuple(s // 2 if place == dim else s for place, s in enumerate(small)))
    return found


def _hash(numbers: Tensor) -> Tensor:
    """Return numbers of 31 bits that look independent of each other."""
    for shift, factor in ((16, 0x45D9F3B), (15, 0x2C1B3C6D), (16, 0x297A2D39)):
        numbers = ((numbers ^ (numbers >> shift)) * factor) & 0x7FFFFFFF
    return numbers


def _values(name: str, u: Tensor, given: dict[str, Any], out: Tensor) -> Tensor:
    """Return what a random function gives where its uniform numbers are `u`."""
    if name in ("rand", "rand_like"):
        return _below_one(u, out)
    if name == "uniform":
        return given["from"] + _below_one(u, out) * (given["to"] - given["from"])
    if name in ("randn", "randn_like", "normal", "normal_functional", "log_normal"):
        found = _or(given.get("mean"), 0.0) + _or(given.get("std"), 1.0) * torch.special.ndtri(u)
        return found.exp() if name == "log_normal" else found
    if name in ("randint", "randint_like", "random"):
        low = _or(given.get("low", given.get("from")), 0)
        most = 2 if out.dtype == torch.bool else 2**24 if out.is_floating_point() else torch.iinfo(out.dtype).max
        high = _or(given.get("high", given.get("to")), min(most, 2**24))
        return (low + (u * (high - low)).floor()).clamp(max=high - 1)
    if name == "randperm":
        return torch.arange(len(out), device=out.device).flip(0)
    if name == "multinomial":
        size = given["self"].shape[-1]
        return ((u[..., :1] * size).floor() + torch.arange(out.shape[-1], device=out.device)) % size
    if name in ("exponential", "_standard_gamma"):
        return -torch.log1p(-u) / _or(given.get("lambd"), 1.0)
    if name == "geometric":
        return 1 + (3 * u).floor()
    if name == "cauchy":
        return given["median"] + given["sigma"] * torch.tan(math.pi * (u - 0.5))
    if name == "poisson":
        return (2 * u * given["self"]).round()
    if name == "binomial":
        return (u * given["count"]).round()
    return torch.zeros_like(out)


def _below_one(u: Tensor, out: Tensor) -> Tensor:
    return u.clamp(max=1 - torch.finfo(out.dtype).eps)


def _or(value: Any, default: float) -> Any:
    return default if value is None else value


def _run(func: Any, args: tuple, kwargs: dict | None) -> Any:
    """Run a function unseen by modes for torch functions, which do not see it either where nothing lists draws."""
    with torch._C.DisableTorchFunction():
        return func(*args, **(kwargs or {}))


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
    by_value = [name for name, _ in large.found if name in _BY_VALUE]
    if by_value:
        raise Refused(
            f"the model draws with {by_value[0]}, which takes as many random numbers as its values ask for: what other "
            "rows draw after it would depend on them. Draw it in the data set, or switch it off (eval())."
        )
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
