"""The tape: sees every use of every trainable parameter during one forward pass, and collects gradients per example.

A `TorchFunctionMode` (`Watch`) is active inside the `with`; nothing is stored on the model. Whenever a torch function
is called with a trainable parameter, the rule of that function runs it on the *detached* parameter and leaves a `_Tap`
on the result. Autograd then never forms a weight gradient, and the one backward pass brings every tap the gradient B
of its result; from B and what the tap saved (through autograd's own mechanism, so that gradient checkpointing holds)
the rule states the per-example gradient as a `Rows` or an `Outer`.

Working on functions instead of modules sees what module hooks miss: projections called functionally, parameters owned
by any module, weights tied or used twice. A parameter that reaches the loss past the rules keeps its autograd edge and
is caught after the backward pass, by name.
"""

import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sfumato.base import Refused
from sfumato.norms.composite import refuse_row_mixing
from sfumato.norms.factors import GramCache, Outer, Rows
from sfumato.norms.follow import Watch, called
from sfumato.norms.layout import Axis, Layout
from sfumato.norms.path import Path, Walk
from sfumato.norms.scratch import Scratch
from sfumato.norms.tracked import Tracked, looked_up, results
from sfumato.norms.units import Units

Factor = Outer | Rows
Gradients = Callable[[Tensor, tuple[Tensor, ...]], list[tuple[Tensor, Factor]]]
Rule = Callable[["Tape", "Call"], Any]

_RULES: dict[str, Rule] = {}
_WIDE = (torch.float32, torch.float64)
INPUT = object()  # stands in a finished call for a tensor that is not tracked


def register_rule(*function_names: str) -> Callable[[Rule], Rule]:
    """Register how a torch function treats a trainable parameter, by the function's `__name__`; the last one wins.

    A rule is `rule(tape, call) -> result`. It runs `call` on `call.detached` arguments and returns
    `tape.tap(call, out, saved, gradients)`, where `gradients(out_grad, saved)` lists (operand, per-example gradient),
    the latter made by `tape.rows` or `tape.outer`.
    """

    def register(rule: Rule) -> Rule:
        _RULES.update(dict.fromkeys(function_names, rule))
        return rule

    return register


def has_rule(function_name: str) -> bool:
    """Whether uses of a parameter in the torch function of this name are measured."""
    return function_name in _RULES


def wide(tensor: Tensor) -> Tensor:
    """Return `tensor` in at least float32: per-example gradients are neither measured nor summed in less."""
    return tensor if tensor.dtype in _WIDE else tensor.float()


def _short(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"


@dataclass
class Call:
    """One call of a torch function on a tracked tensor: a parameter, or one computed from parameters alone."""

    func: Callable
    args: tuple
    kwargs: dict[str, Any]
    operands: list[Tensor]
    layout: Layout
    label: str
    position: int

    @property
    def name(self) -> str:
        return self.func.__name__

    def is_tracked(self, value: Any) -> bool:
        return any(value is operand for operand in self.operands)

    def detach(self, value: Any) -> Any:
        """Return `value` without its edge to the parameter; other values as they are."""
        if isinstance(value, (list, tuple)):
            return type(value)(self.detach(item) for item in value)
        return value.detach() if self.is_tracked(value) else value

    def run(self) -> Any:
        """Run the function on detached parameters."""
        return self.func(*self.detach(self.args), **{key: self.detach(value) for key, value in self.kwargs.items()})

    def drop_inputs(self) -> None:
        """Put `INPUT` in the place of every tensor that is not tracked: held here, all activations would live on."""
        self.args = self._dropped(self.args)
        self.kwargs = {key: self._dropped(value) for key, value in self.kwargs.items()}

    def _dropped(self, value: Any) -> Any:
        if isinstance(value, (list, tuple)):
            return type(value)(self._dropped(item) for item in value)
        return INPUT if isinstance(value, Tensor) and not self.is_tracked(value) else value

    def bind(self, *names: str, **defaults: Any) -> list[Any]:
        """Return the arguments in the order of `names`."""
        bound = {**defaults, **dict(zip(names, self.args, strict=False)), **self.kwargs}
        return [bound.get(name) for name in names]

    def refuse(self, reason: str) -> Refused:
        return Refused(f"{self.label}: {reason}")


class _Tap(torch.autograd.Function):
    """Identity on `out`; its backward hands the gradient and the saved tensors to slot `index` of the tape.

    The result is a detached alias, not a view, so that in-place activations may follow. `anchor` is a leaf that makes
    every tap a stop on the way of the backward pass, also where nothing below it needs a gradient. The tape is held
    weakly: autograd's graph and what refers to it would otherwise keep each other alive, unseen by the collector.
    """

    @staticmethod
    def forward(ctx: Any, anchor: Tensor, out: Tensor, tape: Any, index: int, *saved: Tensor) -> Tensor:
        ctx.tape, ctx.index = tape, index
        ctx.save_for_backward(*saved)
        return out.detach()

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        saved = ctx.saved_tensors
        tape = ctx.tape()
        assert tape is not None, "the tape is needed until the backward pass is over."
        tape.receive(ctx.index, grads[0], saved)
        return (None, grads[0], None, None, *(None for _ in saved))


@dataclass
class Slot:
    """One use of tracked tensors, what states its per-example gradients, and whether a gradient has arrived."""

    call: Call
    gradients: Gradients
    fired: bool = False


class Tape(Watch):
    """Records the uses of `parameters` while active, and their per-example gradients during the backward pass.

    Args:
        parameters: the trainable parameters, by name.
        paths: of which the forward pass must follow one; they say where the examples are (see `certify`).
        num_examples: N of this micro-batch.
        observe: called with (slot, out_grad) as gradients arrive; used by the probes.
        units: groups of examples that are clipped together; None: every example by itself.
        scratch: memory for gradients that are written out.
        open_end: whether calls on no parameter may follow behind a path.
    """

    many_passes = False  # whether several backward passes follow one forward pass

    def __init__(
        self,
        parameters: Mapping[str, Tensor],
        paths: Sequence[Path],
        num_examples: int,
        observe: Callable[[Slot, Tensor], None] | None = None,
        units: Units | None = None,
        scratch: Scratch | None = None,
        open_end: bool = False,
    ) -> None:
        super().__init__()
        device = next(iter(parameters.values())).device
        self.anchor = torch.zeros((), requires_grad=True, device=device)
        self.parameters = dict(parameters)
        self.tracked = Tracked(parameters)
        self.factors: dict[int, list[Factor]] = {}
        self.slots: list[Slot] = []
        self.unruled: dict[str, str] = {}
        self.replaying = False  # in the backward pass, where calls come from gradient checkpointing
        self._walk = Walk(paths, num_examples, open_end=open_end)
        self._num_examples = num_examples
        self._position = 0
        self._observe = observe
        self._units = units
        self._scratch = scratch
        self._grams = GramCache()
        self._widened: dict[tuple, tuple[Tensor, Tensor]] = {}

    def call(self, func: Callable, name: str, args: tuple, kwargs: dict[str, Any]) -> Any:
        refuse_row_mixing(name, args, kwargs)
        operands = self.tracked.among(args, kwargs)
        if not operands or not torch.is_grad_enabled():
            ruled = func
        elif name in _RULES:
            ruled = lambda *args, **kwargs: self._by_rule(func, name, args, kwargs, operands)  # noqa: E731
        else:
            ruled = lambda *args, **kwargs: self._without_rule(func, name, args, kwargs, operands)  # noqa: E731
        return called(ruled, name, args, kwargs, self._walk.backward if self.replaying else self._walk.step)

    def finish(self, *, whole: bool = True) -> None:
        """End the forward pass: what is called from here on belongs to the backward pass.

        Raises:
            OffPath: the forward pass did not follow a certified path to its end.
        """
        self._walk.finish(whole=whole)
        self.replaying = True

    def _by_rule(self, func: Callable, name: str, args: tuple, kwargs: dict, operands: list[Tensor]) -> Any:
        names = self.tracked.names(operands)
        axis = self._next_axis(names, name)
        if axis is None:
            return self._derive(func(*args, **kwargs), operands, lookup=looked_up(name, args, kwargs))
        label = f"{', '.join(sorted(names))} (used in {name})"
        call = Call(func, args, kwargs, operands, Layout(axis, self._num_examples), label, self._position - 1)
        try:
            return _RULES[name](self, call)
        except Refused:
            raise
        except Exception as error:
            if self.replaying:  # gradient checkpointing ends what it computes again by an exception
                raise
            raise call.refuse(f"no rule measures this use ({_short(error)}).") from error

    def _without_rule(self, func: Callable, name: str, args: tuple, kwargs: dict, operands: list[Tensor]) -> Any:
        out = func(*args, **kwargs)
        if not any(tensor.requires_grad for tensor in results(out)):
            return out  # a shape, a data type, a detached copy
        names = self.tracked.names(operands)
        if self._next_axis(names, name) is None:
            return self._derive(out, operands)
        for parameter in names:  # keeps its edge to the parameter, so that the backward pass finds it
            self.unruled.setdefault(parameter, name)
        return out

    def _derive(self, out: Any, operands: list[Tensor], lookup: Tensor | None = None) -> Any:
        for tensor in results(out):
            if tensor.requires_grad:
                self.tracked.add(tensor, operands, lookup)
        return out

    def _next_axis(self, names: frozenset[str], function: str) -> Axis | None:
        position = None if self.replaying else self._position
        self._position += not self.replaying
        return self._walk.axis(names, function, position)

    def tap(self, call: Call, out: Tensor, saved: tuple[Tensor, ...], gradients: Gradients) -> Tensor:
        """Return `out` with a stop where `gradients(out_grad, saved)` states the per-example gradients.

        What `gradients` needs of the forward pass goes through `saved`, so that it is freed after its use.
        """
        self.slots.append(Slot(call, gradients))
        call.drop_inputs()
        return _Tap.apply(self.anchor, out, weakref.ref(self), len(self.slots) - 1, *saved)  # type: ignore[return-value]

    def receive(self, index: int, out_grad: Tensor, saved: tuple[Tensor, ...]) -> None:
        """Take in the gradient of the result of slot `index`; called in the backward pass."""
        slot = self.slots[index]
        with torch._C.DisableTorchFunction():
            slot.fired = True
            if self._observe is not None:
                return self._observe(slot, out_grad)
            try:
                found = slot.gradients(out_grad, saved)
            except Refused:
                raise
            except Exception as error:
                raise slot.call.refuse(f"no rule measures this use ({_short(error)}).") from error
            for operand, factor in found:
                if factor.count != self.num_units:
                    raise slot.call.refuse(f"its rule states {factor.count} gradients for {self.num_units} units.")
                self.factors.setdefault(id(operand), []).append(factor)

    def once(self, make: Callable[[], Tensor]) -> Tensor:
        """Return what a rule makes of a use's inputs alone: one for all passes, where there are several."""
        return make()

    @property
    def num_units(self) -> int:
        """How many things are clipped: groups, or examples."""
        return self._num_examples if self._units is None else len(self._units.sizes)

    def widen(self, tensor: Tensor) -> Tensor:
        """Return an input in at least float32; one copy for all layers that read the same one."""
        if tensor.dtype in _WIDE:
            return tensor
        key = (tensor.data_ptr(), tuple(tensor.shape), tensor.stride(), tensor._version)
        if key not in self._widened:
            self._widened[key] = (tensor, wide(tensor))
        return self._widened[key][1]

    def outer(self, left: Tensor, right: Tensor, shape: torch.Size) -> Factor:
        """Return sum_t left_t right_t^T of each unit in the cheaper of its two forms; explicit frees both factors at
        once.

        left (N, T, P) and right (N, T, D) are of examples; so are those of `rows`.
        """
        outer = Outer(left, right, shape, self._grams)
        if self._units is not None:
            return self._units.outer(outer, self._scratch)
        return outer.explicit(self._scratch) if outer.prefers_explicit() else outer

    def rows(self, rows: Rows) -> Factor:
        """Return gradients that are written out, of each unit."""
        return rows if self._units is None else self._units.rows(rows)
