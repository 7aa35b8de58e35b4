"""Made-up rows of many kinds: what a model meets when it is certified.

A coupling of rows, or a path that depends on values, shows only for some values. So rows differ in what a model may
look at: integers over the whole range that it takes, masks (all ones, ragged, one entry), ignored labels, ties. Hostile
rows (huge, infinite, not a number, the largest integers) stand among ordinary ones, to show whether they reach them:
NaN passes through almost every function whatever its thresholds, infinity passes every threshold.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from sfumato.norms.synthetic import has_floats, row_of

IGNORED = -100  # the label that torch's losses leave out by default
_SEEDS = 4  # rows of the base batch that others are made from
_ORDINARY = ("random", "ragged", "ones", "single", "ignored", "base", "wide")
_WIDE = 255  # the largest integer of an ordinary row where no table says more
_GROWING = (2, 10, 255, 1000, 65535, 10**9)
_WORK = 10**6  # entries that a model may compute in any case
_HOSTILE = (torch.nan, torch.inf, -torch.inf, 1e3, 1e6, 1e30)


@dataclass(frozen=True)
class Range:
    """Which integers one tensor of a batch may hold.

    Attributes:
        high: the largest one that the model's tables suggest; ordinary rows hold 0 to `high`.
        ignored: whether `IGNORED`.
        most, least: the largest and the smallest one that the model was seen to take.
    """

    high: int = 1
    ignored: bool = False
    most: int = 1
    least: int = 0


Ranges = list[Range | None]


def base_rows(make: Callable[[int], Any]) -> list[Any]:
    """Return single rows of the batch that the others are variations of."""
    batch = make(2 * _SEEDS)
    return [row_of(batch, place) for place in range(_SEEDS)]


def ordinary_rows(base: Sequence[Any], ranges: Ranges, seed: int) -> list[Any]:
    """Return rows with ordinary floats (one of them all zeros) and integers of many kinds."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    wide = any(allowed is not None and allowed.most > allowed.high for allowed in ranges)
    for number, kind in enumerate(_ORDINARY if wide else _ORDINARY[:-1]):
        floats = _normal(0.3 + 0.3 * number) if kind != "base" else lambda leaf, generator: torch.zeros_like(leaf)
        found.append(_vary(base[number % len(base)], ranges, kind, floats, generator))
    return found


def hostile_rows(base: Sequence[Any], ranges: Ranges, seed: int) -> list[Any]:
    """Return rows whose floats are huge, infinite or not a number, and rows of the largest and smallest integers."""
    generator = torch.Generator().manual_seed(seed + 1)
    none: Ranges = [None] * len(pytree.tree_leaves(base[0]))
    found = []
    if any(allowed is not None and allowed.most > allowed.high for allowed in ranges):
        found += [_vary(base[0], ranges, kind, _normal(1.0), generator) for kind in ("most", "least")]
    for number, value in enumerate(_HOSTILE if has_floats(base[0]) else ()):
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
        largest = torch.iinfo(leaf.dtype).max
        highs = [size - 1 for size in sorted(tables.sizes, reverse=True) if size > 2 and size - 1 <= largest]
        high = next((high for high in highs if tried(place, torch.full_like(leaf, high))), 1)
        late = leaf.clone()
        late[..., (leaf.shape[-1] + 1) // 2 if leaf.dim() > 1 else 0 :] = IGNORED if largest > 100 else 0
        ignored = leaf.dtype.is_signed and tried(place, late)
        most = _largest(leaf, high, lambda changed, place=place: tried(place, changed))
        least = -most if leaf.dtype.is_signed and most > high and tried(place, torch.full_like(leaf, -most)) else 0
        found.append(Range(high, ignored, most, least))
    return found


def _largest(leaf: Tensor, high: int, tried: Callable[[Tensor], bool]) -> int:
    """Return the largest integer that the model is seen to take in `leaf`.

    An integer may count positions, and the work grow with it: a larger one is tried only if by what it grew so far,
    squared, the work would stay below twice that of `high`.
    """
    with InRange() as before:
        tried(torch.full_like(leaf, high))
    most, work, first = high, before.work, before.work
    largest = torch.iinfo(leaf.dtype).max
    values = sorted(value for value in {*_GROWING, min(largest, _WIDE)} if high < value <= largest)
    for value, following in zip(values, [*values[1:], 0]):
        with InRange() as now:
            if not tried(torch.full_like(leaf, value)):
                break
        most = value
        if abs(now.work - work) * (following / value) ** 2 > max(first, _WORK):
            break
        work = now.work
    return most


_LOOKED_UP = {  # aten function -> the arguments that hold the table and the places, and the dimension
    "embedding": ("weight", "indices", 0),
    "_embedding_bag": ("weight", "indices", 0),
    "_embedding_bag_forward_only": ("weight", "indices", 0),
    "nll_loss_forward": ("self", "target", -1),
    "nll_loss2d_forward": ("self", "target", 1),
    "multi_margin_loss": ("self", "target", -1),
    "_ctc_loss": ("log_probs", "targets", -1),
    **dict.fromkeys(("index_select", "gather", "index_add", "index_copy", "index_fill"), ("self", "index", None)),
    **dict.fromkeys(("scatter", "scatter_add", "scatter_reduce"), ("self", "index", None)),
}


class InRange(TorchDispatchMode):
    """Refuses on the host what is looked up out of the range of a table, for on a CUDA device it would end the process;
    counts the entries of all results.
    """

    def __init__(self) -> None:
        super().__init__()
        self.work = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        name = func.overloadpacket.__name__.rstrip("_")
        given = dict(zip((argument.name for argument in func._schema.arguments), args, strict=False)) | (kwargs or {})
        with torch._C.DisableTorchFunction():
            if name in _LOOKED_UP:
                table, places, dim = _LOOKED_UP[name]
                self._check(given[places], given[table], given["dim"] if dim is None else dim, given)
            elif name in ("index", "index_put", "_unsafe_index", "_unsafe_index_put"):
                self._check_index(given["self"], given["indices"])
            elif name == "take":
                self._check(given["index"], given["self"].flatten(), 0, given, wraps=True)
            out = func(*args, **(kwargs or {}))
        self.work += sum(leaf.numel() for leaf in pytree.tree_leaves(out) if isinstance(leaf, Tensor))
        return out

    def _check(self, places: Tensor, table: Tensor, dim: int, given: dict[str, Any], *, wraps: bool = False) -> None:
        if not places.numel() or places.is_floating_point():
            return
        size = table.shape[dim] if table.dim() else 1
        outside = (places < (-size if wraps else 0)) | (places >= size)
        if "ignore_index" in given:
            outside &= places != given["ignore_index"]
        if bool(outside.any()):
            raise IndexError("an integer is out of the range of a table.")

    def _check_index(self, table: Tensor, indices: Sequence[Tensor | None]) -> None:
        dim = 0
        for index in indices:
            if index is not None and index.dtype not in (torch.bool, torch.uint8):
                self._check(index, table, dim, {}, wraps=True)
            dim += index.dim() if index is not None and index.dtype in (torch.bool, torch.uint8) else 1


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
                largest = torch.finfo(out.dtype).max  # float16 takes no 1e6
                value = min(self._value, largest) if abs(self._value) < torch.inf else self._value
                return out.masked_fill(rows, value)
        return out


# ---------------------------------------------------------------- one leaf


def _is_float(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and leaf.is_floating_point()


def _is_integer(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and not leaf.is_floating_point() and leaf.dtype != torch.bool


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
    if kind in ("most", "least"):
        return torch.full_like(leaf, allowed.most if kind == "most" else allowed.least)
    high = max(allowed.high, min(allowed.most, _WIDE)) if kind == "wide" else allowed.high
    found = torch.randint(0, high + 1, leaf.shape, generator=generator).to(leaf)
    if kind in ("ragged", "ignored") and allowed.ignored and leaf.dim() > 1:
        chosen = torch.rand(leaf.shape, generator=generator).to(leaf.device) < (0.4 if kind == "ragged" else 0.8)
        chosen[..., 0] = kind == "ignored"
        chosen[..., -1] = False
        found = found.masked_fill(chosen, IGNORED)
    return found
