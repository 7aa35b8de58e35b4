"""Where the examples are: two recorded forward passes, one of the number of rows that trains and one of a row more."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from sfumato.base import Refused
from sfumato.norms.addressing import INSIDE, addressed, keeps_inside, leads
from sfumato.norms.composite import refuse_row_mixing
from sfumato.norms.contents import tensors_in
from sfumato.norms.contract import Autocast, Staged, per_example
from sfumato.norms.draws import Draws, check_draws
from sfumato.norms.follow import Unseen, Watch, called
from sfumato.norms.layout import Axis, Layouts
from sfumato.norms.memory import address
from sfumato.norms.path import Head, Path, Sight, Visit
from sfumato.norms.relaid import Orders
from sfumato.norms.selections import Looked
from sfumato.norms.tape import has_rule
from sfumato.norms.tracked import flat_tensors, results


@dataclass
class _Seen:
    """One call as the smaller pass shows it.

    Attributes:
        head: what is compared of it.
        loose, strict: what it addresses, where that is known to lead with the rows and where it is not.
        shapes: of its arguments, and of its results.
    """

    head: Head
    loose: Looked
    strict: Looked
    shapes: tuple[list[torch.Size], list[torch.Size]]
    decided: str = "strict"  # or "loose", or "inside": by the larger pass

    def visit(self) -> Visit:
        looked = {"inside": INSIDE, "loose": self.loose, "strict": self.strict}[self.decided]
        return *self.head, looked


_APART = frozenset(("unbind", "__iter__", "split", "chunk", "tensor_split", "split_with_sizes"))
_Place = tuple[int, int]  # how many calls touched a parameter before, and how many calls came since


class _Growth:
    """What a larger pass shows of one call beside the smaller one: which dimensions of its tensors hold the rows.

    Args:
        given, made: arguments and results.
        shapes: theirs in the smaller pass; None where the passes do not correspond.
        origin: what is in a memory.
        num_rows: of the larger pass.
    """

    def __init__(
        self,
        given: Sequence[Tensor],
        made: Sequence[Tensor],
        shapes: tuple[list[torch.Size], list[torch.Size]] | None,
        origin: "_Origin",
        num_rows: int,
    ) -> None:
        self._shapes: dict[int, torch.Size | None] = {}
        for tensors, known in zip((made, given), (shapes or ([], []))[::-1], strict=True):
            fit = len(tensors) == len(known)
            self._shapes |= {id(tensor): known[place] if fit else None for place, tensor in enumerate(tensors)}
        self._origin, self._rows = origin, num_rows

    def clean(self, tensor: Tensor) -> bool:
        return self._origin.clean(tensor)

    def inside(self, tensor: Tensor, dim: int | None) -> bool:
        if self.clean(tensor):
            return True
        grown = self.grown(tensor)
        return dim is not None and grown not in (None, dim) and not self._origin.mixed(tensor)

    def leads(self, tensor: Tensor) -> bool:
        return (
            tensor.dim() > 0 and tensor.shape[0] == self._rows and self.inside(tensor, -1) and self.grown(tensor) == 0
        )

    def grown(self, tensor: Tensor) -> int | None:
        """Return the one dimension that grows by the rows; None where there is no such one."""
        small, large = self._shapes.get(id(tensor)), tensor.shape
        if small is None or len(small) != len(large):
            return None
        found = [dim for dim in range(len(large)) if small[dim] != large[dim]]
        fits = len(found) == 1 and small[found[0]] * self._rows == large[found[0]] * (self._rows - 1)
        return found[0] if fits else None

    def blurs(self, tensor: Tensor) -> bool:
        """Whether something of the batch is in a tensor, and no dimension of it is seen to hold the rows."""
        if self.clean(tensor) or self._origin.row_of(tensor) is not None:
            return False
        return self._origin.mixed(tensor) or self.grown(tensor) is None

    def rows_of(self, name: str, given: Sequence[Tensor], made: Sequence[Tensor]) -> list[int] | None:
        """Return the one row that each part of a tensor belongs to, where it is taken apart along its rows."""
        if name not in _APART or not given or given[0].dim() == 0 or self.grown(given[0]) != 0:
            return None
        each = len(given[0]) // self._rows
        sizes = [1 if part.dim() < given[0].dim() else len(part) for part in made]
        ends = [sum(sizes[: place + 1]) for place in range(len(sizes))]
        if not sizes or ends[-1] != len(given[0]) or self._origin.mixed(given[0]) or 0 in sizes:
            return None
        found = [((end - size) // each, (end - 1) // each) for end, size in zip(ends, sizes, strict=True)]
        return [first for first, _ in found] if all(first == last for first, last in found) else None


class _Origin:
    """Which memory holds something of the batch, and which of it in a way that rows are not to be told apart."""

    def __init__(self, batch: Any, num_rows: int) -> None:
        self.orders = Orders(num_rows)
        self._mixed: dict[int, bool] = {}
        self._single: dict[int, tuple[Tensor, int]] = {}  # by id: a tensor that holds one row alone, and that row
        for leaf in tensors_in(batch):
            self._mixed[address(leaf)] = False

    def clean(self, tensor: Tensor) -> bool:
        return address(tensor) not in self._mixed

    def mixed(self, tensor: Tensor) -> bool:
        return self._mixed.get(address(tensor), False)

    def row_of(self, tensor: Tensor) -> int | None:
        """Return the one row that a tensor holds, None where it is not known to hold one alone."""
        found = self._single.get(id(tensor))
        return None if found is None else found[1]

    def made(
        self, name: str, tensors: Sequence[Tensor], growth: _Growth, given: Sequence[Tensor], *, relaid: bool
    ) -> None:
        """Take in the results of a call; `relaid` where a dimension that grows does not hold rows."""
        dirty = [one for one in given if not self.clean(one)]
        blurred = relaid or any(map(growth.blurs, dirty))
        held = {address(one) for one in given}
        rows = growth.rows_of(name, given, tensors)
        of = {self.row_of(one) for one in dirty}
        alone = next(iter(of)) if len(of) == 1 else None
        if rows is None and alone is not None:
            rows = [alone] * len(tensors)  # whatever the call does
        for place, tensor in enumerate(tensors):
            where = address(tensor)
            before = self._mixed.get(where, False) if where in held else False  # fresh memory may lie where other lay
            if rows is not None:
                self._single[id(tensor)] = (tensor, rows[place])
                self._mixed[where] = before
            elif dirty:
                self._single.pop(id(tensor), None)
                self._mixed[where] = blurred or growth.grown(tensor) is None or before
            elif where not in held:
                self._mixed.pop(where, None)

    def unseen(self, name: str, out: Any) -> None:
        """Take in what a function made that is not seen: anything may be in it, but for constants of Python."""
        if name == "lift_fresh":
            return
        with torch._C.DisableTorchFunction():
            self._mixed.update((address(tensor), True) for tensor in tensors_in(out))


class _Recorder(Watch):
    """Lists every call, and with the shapes of their results those that touch a parameter or what comes of one.

    Args:
        smaller: the recording of the pass of one row less, whose calls are decided on: may they be compared by shapes?
    """

    def __init__(
        self, parameters: Mapping[str, Tensor], num_rows: int, batch: Any, smaller: "_Recorder | None" = None
    ) -> None:
        super().__init__()
        self.seen: dict[_Place, _Seen] = {}
        self.origin = _Origin(pytree.tree_leaves(batch), num_rows)
        self._sight = Sight()
        self._smaller = smaller
        self._since = 0
        self._num_rows = num_rows
        self._tainted: dict[int, tuple[Tensor, frozenset]] = {
            id(p): (p, frozenset([name])) for name, p in parameters.items()
        }
        self.calls: list[tuple[str, frozenset, list[torch.Size], bool]] = []

    def call(self, func: Callable, name: str, args: tuple, kwargs: dict[str, Any]) -> Any:
        refuse_row_mixing(name, args, kwargs)
        origins = [self._tainted[id(t)][1] for t in flat_tensors(args, kwargs) if id(t) in self._tainted]
        out = called(func, name, args, kwargs, self._see)
        made = [tensor for tensor in results(out) if tensor.requires_grad]
        if origins and torch.is_grad_enabled() and (made or has_rule(name)):
            index = len(self.calls)
            self.calls.append((name, frozenset().union(*origins), [t.shape for t in results(out)], bool(made)))
            self._since = 0
            for tensor in made:
                self._tainted.setdefault(id(tensor), (tensor, frozenset([index])))
        return out

    def _see(self, name: str, args: tuple, kwargs: dict[str, Any], out: Any) -> None:
        head = self._sight.head(name, args, kwargs, out)
        if head is None:
            return
        name = head[0]
        place = (len(self.calls), self._since)
        self._since += 1
        with torch._C.DisableTorchFunction():
            given = list(tensors_in((args, kwargs)))
            made = list(tensors_in(args[0] if name == "__setitem__" else out))
            if self._smaller is None:
                loose = addressed(name, args, kwargs, out, self._num_rows, leads=True)
                strict = addressed(name, args, kwargs, out, self._num_rows, leads=False)
                self.seen[place] = _Seen(head, loose, strict, ([x.shape for x in given], [x.shape for x in made]))
                return
            small = self._smaller.seen.get(place)
            if small is not None and small.head[0] != name:
                small = None
            shapes = None if small is None else small.shapes
            growth = _Growth(given, made, shapes, self.origin, self._num_rows)
            if small is not None:
                inside = keeps_inside(name, args, kwargs, growth)
                small.decided = "inside" if inside else "loose" if leads(name, args, kwargs, growth) else "strict"
            dirty = any(not self.origin.clean(one) for one in given)
            relaid = dirty and self.origin.orders.take(name, args, kwargs, made, growth.grown, self.origin.row_of)
            self.origin.made(name, made, growth, given, relaid=relaid)


@dataclass(frozen=True)
class Pair:
    """Two batches of made-up rows, the second with one row more than the first."""

    small: Any
    large: Any
    num_rows: int


def find_path(
    model: Any, loss: Staged, pair: Pair, parameters: Mapping[str, Tensor], context: Autocast, *, draws: bool = True
) -> Path:
    """Return the path of the smaller batch, and for every call that touches a parameter which dimension of its result
    grows with the batch.

    Args:
        draws: whether to look for random numbers that the rows share.

    Raises:
        Refused: examples are paired, packed or not to be told apart in the result of a call, or share random numbers.
    """
    recordings, drawn = [], []
    for batch, count in ((pair.small, pair.num_rows), (pair.large, pair.num_rows + 1)):
        recorder = _Recorder(parameters, count, batch, recordings[0] if recordings else None)
        watch = Draws()
        with context():
            with watch if draws else nullcontext(), Unseen(recorder, recorder.origin.unseen), recorder:
                made = loss.rows(model, batch)
            per_example(loss.finish(made), count)
        recordings.append(recorder)
        drawn.append(watch)
    if draws:
        check_draws(drawn[0], drawn[1], lambda watch: _losses(model, loss, pair.large, context, watch))
    small, large = (recording.calls for recording in recordings)
    if [call[:2] for call in small] != [call[:2] for call in large]:
        raise Refused(
            f"the model takes another path for {pair.num_rows + 1} rows than for {pair.num_rows}, so examples cannot "
            "be told apart in it."
        )
    return Path(tuple(one.visit() for one in recordings[0].seen.values()), _layouts(small, large, pair.num_rows))


Recorded = tuple[str, frozenset, list[torch.Size], bool]


def _layouts(small: list[Recorded], large: list[Recorded], count: int) -> Layouts:
    roots: dict[int, frozenset[str]] = {}  # calls whose result does not depend on the batch -> parameters behind it
    calls = []
    for index, ((name, origins, shapes, differentiable), (_, _, larger, _)) in enumerate(
        zip(small, large, strict=True)
    ):
        known = [
            frozenset([o]) if isinstance(o, str) else roots[o] for o in origins if isinstance(o, str) or o in roots
        ]
        if not known:
            continue
        names = frozenset().union(*known)
        axis = _batch_axis(shapes, larger, f"{', '.join(sorted(names))} (used in {name})", count)
        calls.append((names, name, axis))
        if axis is None and differentiable:
            roots[index] = names
    return Layouts(tuple(calls))


def _losses(model: Any, loss: Staged, batch: Any, context: Autocast, draws: Draws) -> Tensor:
    torch.manual_seed(0)
    with torch.enable_grad(), context(), draws:
        return loss(model, batch).detach()


def _batch_axis(small: list[torch.Size], large: list[torch.Size], label: str, count: int) -> Axis | None:
    dims = set()
    for a, b in zip(small, large, strict=True):
        if len(a) != len(b):
            raise Refused(f"{label}: the number of dimensions depends on the batch size.")
        grown = [d for d in range(len(a)) if a[d] != b[d]]
        if len(grown) > 1:
            raise Refused(
                f"{label}: the result pairs examples with each other (shape {tuple(a)} for {count} examples)."
            )
        if grown and a[grown[0]] * (count + 1) != b[grown[0]] * count:
            raise Refused(
                f"{label}: the result has {a[grown[0]]} entries for {count} examples and {b[grown[0]]} for "
                f"{count + 1}; "
                "tokens are packed across examples."
            )
        dims.add(grown[0] if grown else None)
    if len(dims) > 1:
        raise Refused(f"{label}: the results carry the examples in different dimensions.")
    dim = next(iter(dims))
    return None if dim is None else Axis(dim)
