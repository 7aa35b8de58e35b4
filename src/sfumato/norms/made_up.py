"""Made-up rows of many kinds: what a model meets when it is certified.

A coupling of rows, or a path that depends on values, shows only for some values. So rows differ in what a model may
look at: integers over the whole range that it takes, masks (all ones, ragged, one entry), ignored labels, ties. Hostile
rows (huge, infinite, not a number) stand among ordinary ones, to show whether they reach them: NaN passes through
almost every function whatever its thresholds, infinity passes every threshold.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from sfumato.norms.synthetic import row_of

IGNORED = -100  # the label that torch's losses leave out by default
_SEEDS = 4  # rows of the base batch that others are made from
_ORDINARY = ("random", "ragged", "ones", "single", "ignored", "base")
_HOSTILE = (torch.nan, torch.inf, -torch.inf, 1e3, 1e6, 1e30)


@dataclass(frozen=True)
class Range:
    """Which integers one tensor of a batch may hold: 0 to `high`, and whether `IGNORED`."""

    high: int = 1
    ignored: bool = False


Ranges = list[Range | None]


def base_rows(make: Callable[[int], Any]) -> list[Any]:
    """Return single rows of the batch that the others are variations of."""
    batch = make(2 * _SEEDS)
    return [row_of(batch, place) for place in range(_SEEDS)]


def ordinary_rows(base: Sequence[Any], ranges: Ranges, seed: int) -> list[Any]:
    """Return rows with ordinary floats (one of them all zeros) and integers of many kinds."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for number, kind in enumerate(_ORDINARY):
        floats = _normal(0.3 + 0.3 * number) if kind != "base" else lambda leaf, generator: torch.zeros_like(leaf)
        found.append(_vary(base[number % len(base)], ranges, kind, floats, generator))
    return found


def hostile_rows(base: Sequence[Any], seed: int) -> list[Any]:
    """Return rows whose floats are huge, infinite or not a number; none where there are no floats."""
    generator = torch.Generator().manual_seed(seed + 1)
    if not any(_is_float(leaf) for leaf in pytree.tree_leaves(base[0])):
        return []
    none: Ranges = [None] * len(pytree.tree_leaves(base[0]))
    found = []
    for number, value in enumerate(_HOSTILE):
        floats = _normal(value) if value == value and abs(value) < torch.inf else _filled(value)
        found.append(_vary(base[number % len(base)], none, "base", floats, generator))
    return found


def find_ranges(row: Any, works: Callable[[Any], bool]) -> Ranges:
    """Return which integers each tensor of a batch may hold, by trying.

    Args:
        row: a batch of one row that works.
        works: whether the model takes a batch of one row; notes the sizes of tables while it runs (`TableSizes`).
    """
    with TableSizes() as tables:
        works(row)
    leaves, structure = pytree.tree_flatten(row)

    def tried(place: int, changed: Tensor) -> bool:
        with TableSizes():
            return works(pytree.tree_unflatten([*leaves[:place], changed, *leaves[place + 1 :]], structure))

    found: Ranges = []
    for place, leaf in enumerate(leaves):
        if not _is_integer(leaf):
            found.append(None)
            continue
        highs = [size - 1 for size in sorted(tables.sizes, reverse=True) if size > 2 and _fits(size, leaf.dtype)]
        high = next((high for high in highs if tried(place, torch.full_like(leaf, high))), 1)
        late = leaf.clone()
        late[..., (leaf.shape[-1] + 1) // 2 if leaf.dim() > 1 else 0 :] = IGNORED if _fits(101, leaf.dtype) else 0
        found.append(Range(high, leaf.dtype.is_signed and tried(place, late)))
    return found


class TableSizes(TorchFunctionMode):
    """Notes how many entries looked-up tables have and how many classes losses; refuses what is out of their range on
    the host, for on a CUDA device it would end the process.
    """

    def __init__(self) -> None:
        super().__init__()
        self.sizes: set[int] = set()

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        name, kwargs = getattr(func, "__name__", ""), kwargs or {}
        if name == "embedding" and len(args) > 1:
            self._look(args[0], args[1].shape[0], ())
        elif name in ("cross_entropy", "nll_loss") and len(args) > 1 and args[0].dim() > 1:
            self._look(args[1], args[0].shape[1], (kwargs.get("ignore_index", IGNORED),))
        return func(*args, **kwargs)

    def _look(self, entries: Tensor, size: int, besides: tuple[int, ...]) -> None:
        self.sizes.add(int(size))
        with torch._C.DisableTorchFunction():
            if entries.is_floating_point() or not entries.numel():
                return
            outside = (entries < 0) | (entries >= size)
            for value in besides:
                outside &= entries != value
            if bool(outside.any()):
                raise IndexError("an integer is out of the range of a table.")


class Poison(TorchFunctionMode):
    """Replaces what is looked up for some rows: hostile values for models that read integers alone."""

    def __init__(self, rows: Tensor, value: float) -> None:
        super().__init__()
        self._rows, self._value = rows, value

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if getattr(func, "__name__", "") == "embedding" and out.shape[0] == len(self._rows):
            with torch._C.DisableTorchFunction():
                rows = self._rows.to(out.device).view(-1, *[1] * (out.dim() - 1))
                return out.masked_fill(rows, self._value)
        return out


# ---------------------------------------------------------------- one leaf


def _is_float(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and leaf.is_floating_point()


def _is_integer(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and not leaf.is_floating_point() and leaf.dtype != torch.bool


def _fits(size: int, dtype: torch.dtype) -> bool:
    return size - 1 <= torch.iinfo(dtype).max


def _normal(scale: float) -> Callable[[Tensor, torch.Generator], Tensor]:
    def floats(leaf: Tensor, generator: torch.Generator) -> Tensor:
        return (scale * torch.randn(leaf.shape, generator=generator, dtype=torch.float64)).to(leaf)

    return floats


def _filled(value: float) -> Callable[[Tensor, torch.Generator], Tensor]:
    return lambda leaf, generator: torch.full_like(leaf, value)


def _vary(
    row: Any,
    ranges: Ranges,
    kind: str,
    floats: Callable[[Tensor, torch.Generator], Tensor],
    generator: torch.Generator,
) -> Any:
    leaves, structure = pytree.tree_flatten(row)
    made = []
    for leaf, allowed in zip(leaves, ranges, strict=True):
        if _is_float(leaf):
            made.append(floats(leaf, generator))
        elif isinstance(leaf, Tensor):
            made.append(_integers(leaf, allowed, kind, generator))
        else:
            made.append(leaf)
    return pytree.tree_unflatten(made, structure)


def _integers(leaf: Tensor, allowed: Range | None, kind: str, generator: torch.Generator) -> Tensor:
    """Return integers or a mask of one kind in the shape of `leaf` (1, ..., length)."""
    if kind == "base" or leaf.numel() == 0 or (allowed is None and leaf.dtype != torch.bool):
        return leaf
    length = leaf.shape[-1] if leaf.dim() > 1 else 1
    if kind in ("ones", "single"):
        ones = torch.ones_like(leaf)
        return ones if kind == "ones" or leaf.dim() == 1 else ones * (torch.arange(length, device=leaf.device) < 1)
    if leaf.dtype == torch.bool or allowed is None:
        return torch.randint(0, 2, leaf.shape, generator=generator).to(leaf)
    found = torch.randint(0, allowed.high + 1, leaf.shape, generator=generator).to(leaf)
    if kind in ("ragged", "ignored") and allowed.ignored and leaf.dim() > 1:
        chosen = torch.rand(leaf.shape, generator=generator).to(leaf.device) < (0.4 if kind == "ragged" else 0.8)
        chosen[..., 0] = kind == "ignored"
        chosen[..., -1] = False
        found = found.masked_fill(chosen, IGNORED)
    return found
