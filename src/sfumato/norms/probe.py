"""Before training: which parameters are measured, where the examples are, and whether rows are independent.

Everything here runs on synthetic inputs (DESIGN section 6, decision 5).

1. Two forward passes with different batch sizes: the dimension of a result that grows with the batch carries it.
2. One forward pass on the tape, and a backward pass for each row alone: its gradient must be zero at all entries of
   other rows, at every use of every parameter and at the inputs.
3. One row is exchanged: no other row's loss may move (this sees what gradients do not: detached or discrete coupling).
"""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from sfumato.base import BadInput, Refused
from sfumato.norms.composite import COMPOSITE, refuse_row_mixing
from sfumato.norms.layout import Axis, Layout, Layouts
from sfumato.norms.synthetic import batch_size, synthetic_twin
from sfumato.norms.tape import Call, Slot, Tape, flat_tensors, has_rule, results

log = logging.getLogger(__name__)

LossFn = Callable[[Any, Any], Tensor]
Autocast = Callable[[], AbstractContextManager]

_SMALL, _LARGE = 3, 4  # probe batch sizes; any two different ones do


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What `prepare` found out about a model and its loss.

    Attributes:
        names: the trainable parameters, all of which are measured exactly.
        layouts: where the examples are, for every use of a parameter.
        unused: trainable parameters that no gradient reaches (only with `unused="zero"`).
    """

    names: tuple[str, ...]
    layouts: Layouts
    unused: tuple[str, ...] = ()

    def parameters(self, model: nn.Module) -> dict[str, nn.Parameter]:
        """Return the trainable parameters of `model` by name, ties once.

        Raises:
            BadInput: they are not those that were measured.
        """
        found = trainable(model)
        if tuple(found) != self.names:
            changed = sorted(set(found) ^ set(self.names))
            raise BadInput(f"trainable parameters changed since they were measured: {', '.join(changed[:5])}.")
        return found


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters of `model` that require a gradient, by name, tied ones once."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def prepare(
    model: nn.Module,
    loss_fn: LossFn,
    batch: Any,
    *,
    autocast: Autocast | None = None,
    synthetic: Callable[[int], Any] | None = None,
    unused: str = "refuse",
) -> Measured:
    """Check that `loss_fn(model, batch)` can be trained under per-example clipping, and measure where examples are.

    Args:
        model: any module; left as it was, its random state too.
        loss_fn: (model, batch) -> one loss per example, shape (N,).
        batch: a micro-batch, read for its structure, shapes and types alone.
        autocast: makes the context under which the loss is computed.
        synthetic: n -> a synthetic batch of n rows, where ones and zeros are no valid integers for the model.
        unused: "refuse" or "zero": what to do with trainable parameters that no gradient reaches.

    Raises:
        Refused: the loss is not one value per row, a row depends on another row, a parameter's use has no rule, a
            buffer learns from the data, or a trainable parameter gets no gradient. The message names it.
    """
    parameters = trainable(model)
    if not parameters:
        raise BadInput("the model has no parameter with requires_grad=True.")
    batch_size(batch)
    make = synthetic or (lambda n: synthetic_twin(batch, n))
    context = autocast or nullcontext
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    with torch.random.fork_rng(devices=_cuda_devices(parameters)), torch.enable_grad(), _shaken(parameters):
        layouts = _find_layouts(model, loss_fn, make, parameters, context)
        layouts, fired = _check_rows_apart(model, loss_fn, make(_SMALL), parameters, layouts, context)
        _check_exchange(model, loss_fn, make(_SMALL), context)
    _check_buffers(model, buffers)
    missing = tuple(name for name in parameters if name not in fired)
    if missing and unused == "refuse":
        raise Refused(
            f"no gradient reaches {_list(missing)}: freeze with requires_grad_(False), or remove the module "
            "(with gradient checkpointing use use_reentrant=False)."
        )
    return Measured(names=tuple(parameters), layouts=layouts, unused=missing)


def per_example(losses: Any, num_examples: int) -> Tensor:
    """Return `losses` if it is one value per example.

    Raises:
        Refused: it is anything else, such as a reduced loss.
    """
    if not isinstance(losses, Tensor) or losses.shape != (num_examples,):
        got = tuple(losses.shape) if isinstance(losses, Tensor) else type(losses).__name__
        raise Refused(
            f"the loss must be one value per example, shape ({num_examples},), got {got}: compute it with "
            "reduction='none' and average within each example only."
        )
    return losses


def _list(names: tuple[str, ...]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _cuda_devices(parameters: Mapping[str, Tensor]) -> list[int]:
    return sorted({p.device.index or 0 for p in parameters.values() if p.device.type == "cuda"})


@contextmanager
def _shaken(parameters: Mapping[str, Tensor]) -> Iterator[None]:
    """Add noise to all parameters for a while: behind a layer that starts at zero no gradient could be seen."""
    kept = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    generator = torch.Generator().manual_seed(0)
    try:
        with torch.no_grad():
            for parameter in parameters.values():
                noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float32)
                parameter.add_(0.02 * noise.to(parameter))
        yield
    finally:
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(kept[name])


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
        if name in COMPOSITE:
            with self:
                return COMPOSITE[name](*args, **kwargs)
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


def _find_layouts(model: Any, loss_fn: LossFn, make: Any, parameters: Mapping[str, Tensor], context: Any) -> Layouts:
    recordings = []
    for count in (_SMALL, _LARGE):
        recorder = _Recorder(parameters)
        batch = make(count)
        with context(), recorder:
            losses = loss_fn(model, batch)
        per_example(losses, count)
        recordings.append(recorder.calls)
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


def _check_rows_apart(
    model: Any, loss_fn: LossFn, batch: Any, parameters: Mapping[str, Tensor], layouts: Layouts, context: Any
) -> tuple[Layouts, set[str]]:
    """Back-propagate each row alone; return the layouts, entries' order settled, and the parameters reached."""
    arrivals: list[tuple[Slot, Tensor]] = []
    orders: dict[int, _Order] = {}
    fired: set[str] = set()
    tape = Tape(parameters, layouts, _SMALL, observe=lambda slot, grad: arrivals.append((slot, grad)))
    batch = pytree.tree_map(lambda t: t.requires_grad_() if _is_float(t) else t, batch)
    inputs = [leaf for leaf in pytree.tree_leaves(batch) if _is_float(leaf)]
    with tape, context():
        losses = per_example(loss_fn(model, batch), _SMALL)
        if not losses.requires_grad:
            raise Refused("the loss does not depend on any trainable parameter.")
        tape.replaying = True
        for row in range(_SMALL):
            wanted = [tape.anchor, *inputs, *parameters.values()]
            grads = torch.autograd.grad(losses[row], wanted, retain_graph=True, allow_unused=True)
            refuse_unmeasured(tape.unruled, dict(zip(parameters, grads[1 + len(inputs) :], strict=True)))
            for slot, grad in arrivals:
                fired |= tape.tracked.names(slot.call.operands)
                orders.setdefault(slot.call.position, _Order(slot.call)).see(grad, row)
            arrivals.clear()
            for grad in grads[1 : 1 + len(inputs)]:
                if grad is not None and bool(torch.cat([grad[:row], grad[row + 1 :]]).ne(0).any()):
                    raise _leak(row, "the inputs")
    lost = [slot.call.label for slot in tape.slots if slot.call.name.endswith("_") and not slot.fired]
    if lost:
        raise Refused(f"{lost[0]}: the result of an in-place function must be used, as in x = x.add_(p).")
    calls = list(layouts.calls)
    for position, order in orders.items():
        calls[position] = (*calls[position][:2], order.axis())
    return Layouts(tuple(calls)), fired


class _Order:
    """Whether the entries of an example follow each other or are interleaved, from where gradients arrive."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self._possible = [Axis(call.layout.dim), Axis(call.layout.dim, interleaved=True)]
        self._seen = False
        self._single = False

    def see(self, grad: Tensor, row: int) -> None:
        self._single = grad.shape[self._call.layout.dim] == _SMALL
        self._seen |= bool(grad.ne(0).any())
        others = [other for other in range(_SMALL) if other != row]
        layouts = [Layout(axis, _SMALL) for axis in self._possible]
        self._possible = [lay.axis for lay in layouts if not bool(lay.to_rows(grad)[others].ne(0).any())]
        if not self._possible:
            raise _leak(row, self._call.label)

    def axis(self) -> Axis:
        if len(self._possible) > 1 and not self._single:
            raise Refused(f"{self._call.label}: no gradient arrives, so the order of the examples cannot be told.")
        return self._possible[0]


def _leak(row: int, label: str) -> Refused:
    return Refused(
        f"the loss of row {row} has a gradient at other rows in {label}: rows depend on each other (a loss across "
        "examples, or a layer that mixes the batch), so clipping per example bounds nothing. Contrastive losses need a "
        "group or pair unit."
    )


def _is_float(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and leaf.is_floating_point()


def refuse_unmeasured(unruled: Mapping[str, str], grads: Mapping[str, Tensor | None]) -> None:
    """Raise for every parameter that autograd reached past the rules.

    Raises:
        Refused: naming the parameter and the function that has no rule.
    """
    for name, grad in grads.items():
        if grad is not None:
            function = unruled.get(name, "a function outside torch's dispatch")
            raise Refused(
                f"{name} (used in {function}): no rule measures its gradient per example. Freeze it with "
                "requires_grad_(False), write its use with linear, matmul, expand or elementwise functions, or "
                "register a rule with sfumato.norms.register_rule."
            )


def _check_exchange(model: Any, loss_fn: LossFn, batch: Any, context: Any) -> None:
    """Exchange row 0 by other values; with equal random states every other loss must stay."""

    def exchange(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        changed = leaf.detach().clone()
        if leaf.is_floating_point():
            changed[0] = 3 * changed[0] + 1
        elif leaf.dim() > 1:  # the row of another length that the generator made
            changed[0] = changed[-1]
        else:
            changed[0] = 1 - changed[0]
        return changed

    losses = []
    for variant in (batch, pytree.tree_map(exchange, batch)):
        torch.manual_seed(0)
        with context(), torch.no_grad():
            losses.append(loss_fn(model, variant).double())
    before, after = losses
    moved = (before[1:] - after[1:]).abs() > 1e-3 * (1 + before[1:].abs())
    if bool(moved.any()):
        raise Refused(
            "the loss of a row changes when another row's input changes: rows depend on each other (a batch statistic, "
            "hard negatives, a queue), so clipping per example bounds nothing."
        )


def _check_buffers(model: nn.Module, before: Mapping[str, Tensor]) -> None:
    for name, buffer in model.named_buffers():
        if name in before and not torch.equal(buffer, before[name]):
            buffer.copy_(before[name])
            raise Refused(
                f"the buffer {name} changes in the forward pass: it would carry un-noised statistics of private data. "
                "Put its module into eval() or remove the update."
            )
