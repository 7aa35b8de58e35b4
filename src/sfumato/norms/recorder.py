"""Where the examples are: two recorded forward passes with different numbers of synthetic rows."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from sfumato.base import Refused
from sfumato.norms.composite import COMPOSITE, refuse_row_mixing
from sfumato.norms.contract import Autocast, LossFn, per_example
from sfumato.norms.draws import Draws, check_draws
from sfumato.norms.layout import Axis, Layouts
from sfumato.norms.tape import flat_tensors, has_rule, results

_SMALL, _LARGE = 3, 4  # numbers of rows; any two different ones do


class _Recorder(TorchFunctionMode):
    """Lists every call that touches a parameter or what was computed from one, with the shapes of its results."""

    def __init__(self, parameters: Mapping[str, Tensor]) -> None:
        super().__init__()
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
        made = [tensor for tensor in results(out) if tensor.requires_grad]
        if origins and torch.is_grad_enabled() and (made or has_rule(name)):
            index = len(self.calls)
            self.calls.append((name, frozenset().union(*origins), [t.shape for t in results(out)], bool(made)))
            for tensor in made:
                self._tainted.setdefault(id(tensor), (tensor, frozenset([index])))
        return out


def find_layouts(
    model: Any,
    loss_fn: LossFn,
    make: Callable[[int], Any],
    parameters: Mapping[str, Tensor],
    context: Autocast,
) -> Layouts:
    """Return for every call that touches a parameter which dimension of its result grows with the batch.

    Raises:
        Refused: examples are paired, packed or not to be told apart in the result of a call, or share random numbers.
    """
    recordings, drawn = [], []
    for count in (_SMALL, _LARGE):
        batch = make(count)
        recorder, draws = _Recorder(parameters), Draws()
        with context(), draws, recorder:
            losses = loss_fn(model, batch)
        per_example(losses, count)
        recordings.append(recorder.calls)
        drawn.append(draws)
    check_draws(drawn[0], drawn[1], lambda draws: _losses(model, loss_fn, make(_LARGE), context, draws))
    small, large = recordings
    if [call[:2] for call in small] != [call[:2] for call in large]:
        raise Refused("the model takes another path for another batch size, so examples cannot be told apart in it.")
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
        axis = _batch_axis(shapes, larger, f"{', '.join(sorted(names))} (used in {name})")
        calls.append((names, name, axis))
        if axis is None and differentiable:
            roots[index] = names
    return Layouts(tuple(calls))


def _losses(model: Any, loss_fn: LossFn, batch: Any, context: Autocast, draws: Draws) -> Tensor:
    torch.manual_seed(0)
    with torch.no_grad(), context(), draws:
        return loss_fn(model, batch)


def _batch_axis(small: list[torch.Size], large: list[torch.Size], label: str) -> Axis | None:
    dims = set()
    for a, b in zip(small, large, strict=True):
        if len(a) != len(b):
            raise Refused(f"{label}: the number of dimensions depends on the batch size.")
        grown = [d for d in range(len(a)) if a[d] != b[d]]
        if len(grown) > 1:
            raise Refused(
                f"{label}: the result pairs examples with each other (shape {tuple(a)} for {_SMALL} examples)."
            )
        if grown and a[grown[0]] * _LARGE != b[grown[0]] * _SMALL:
            raise Refused(
                f"{label}: the result has {a[grown[0]]} entries for {_SMALL} examples and {b[grown[0]]} for {_LARGE}; "
                "tokens are packed across examples."
            )
        dims.add(grown[0] if grown else None)
    if len(dims) > 1:
        raise Refused(f"{label}: the results carry the examples in different dimensions.")
    dim = next(iter(dims))
    return None if dim is None else Axis(dim)
