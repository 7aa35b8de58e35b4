"""Where the examples are: two recorded forward passes, one of the number of rows that trains and one of a row more."""

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from sfumato.base import Refused
from sfumato.norms.composite import COMPOSITE, refuse_row_mixing
from sfumato.norms.contract import Autocast, Staged, per_example
from sfumato.norms.draws import Draws, check_draws
from sfumato.norms.layout import Axis, Layouts
from sfumato.norms.path import Path, Visit, visit
from sfumato.norms.tape import has_rule
from sfumato.norms.tracked import flat_tensors, results


class _Recorder(TorchFunctionMode):
    """Lists every call, and with the shapes of their results those that touch a parameter or what comes of one."""

    def __init__(self, parameters: Mapping[str, Tensor], num_rows: int) -> None:
        super().__init__()
        self.visits: list[Visit] = []
        self._num_rows = num_rows
        self._tainted: dict[int, tuple[Tensor, frozenset]] = {
            id(p): (p, frozenset([name])) for name, p in parameters.items()
        }
        self.calls: list[tuple[str, frozenset, list[torch.Size], bool]] = []

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if func in COMPOSITE:
            with self:
                return COMPOSITE[func](*args, **kwargs)
        refuse_row_mixing(name, args, kwargs)
        origins = [self._tainted[id(t)][1] for t in flat_tensors(args, kwargs) if id(t) in self._tainted]
        out = func(*args, **kwargs)
        seen = visit(name, args, kwargs, out, self._num_rows)
        if seen is not None:
            self.visits.append(seen)
        made = [tensor for tensor in results(out) if tensor.requires_grad]
        if origins and torch.is_grad_enabled() and (made or has_rule(name)):
            index = len(self.calls)
            self.calls.append((name, frozenset().union(*origins), [t.shape for t in results(out)], bool(made)))
            for tensor in made:
                self._tainted.setdefault(id(tensor), (tensor, frozenset([index])))
        return out


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
        recorder, watch = _Recorder(parameters, count), Draws()
        with context():
            with watch if draws else nullcontext(), recorder:
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
    return Path(tuple(recordings[0].visits), _layouts(small, large, pair.num_rows))


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
