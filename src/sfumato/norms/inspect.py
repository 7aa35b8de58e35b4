"""What the engine would do with each parameter, before anything is trained: measured by which rule, or why not.

The verdict is that of `prepare`, which training asks too, in its own words. Where it refuses, it stops at the first
reason; what is listed here besides is found by looking at the model on synthetic rows.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode

from sfumato.base import Refused
from sfumato.norms.composite import COMPOSITE
from sfumato.norms.contract import Autocast, LossFn
from sfumato.norms.measured import Measured, trainable
from sfumato.norms.probe import prepare
from sfumato.norms.synthetic import synthetic_twin
from sfumato.norms.tape import has_rule
from sfumato.norms.tracked import flat_tensors, results

_SIZES = (3, 4)  # rows of two batches: what grows from one to the other holds examples


@dataclass(frozen=True, kw_only=True)
class Use:
    """How one trainable parameter is used.

    Attributes:
        name, numel: of the parameter.
        functions: torch functions where it meets the batch, or where a batch-free result of it does.
        without_rule: those of them that no rule measures.
        count: how many calls these are in one forward pass; more than one adds cross terms to the norm.
        derived: other tensors are computed from it alone first (a slice, a scale): the chain rule goes on from there.
    """

    name: str
    numel: int
    functions: tuple[str, ...]
    without_rule: tuple[str, ...]
    count: int
    derived: bool


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """What the engine would do with a model and its loss.

    Attributes:
        uses: of the trainable parameters, in their order.
        frozen: names and sizes of the others.
        tied: names that stand for one parameter, each group of them.
        unreached: trainable parameters that no gradient reaches.
        batch_norms: BatchNorm modules in training mode.
        learning: buffers that change in the forward pass.
        refusal: the sentence with which training would refuse; None where it would not.
        measured: what training would go on with; None under a refusal.
    """

    uses: tuple[Use, ...]
    frozen: Mapping[str, int]
    tied: tuple[tuple[str, ...], ...]
    unreached: tuple[str, ...] = ()
    batch_norms: tuple[str, ...] = ()
    learning: tuple[str, ...] = ()
    refusal: str | None = None
    measured: Measured | None = None

    @property
    def num_trainable(self) -> int:
        """How many numbers train."""
        return sum(use.numel for use in self.uses)


def inspect(
    model: nn.Module,
    loss_fn: LossFn,
    batch: Any,
    *,
    autocast: Autocast | None = None,
    synthetic: Callable[[int], Any] | None = None,
) -> Inspection:
    """Return what the engine would do with each parameter; arguments as of `prepare`.

    The model is left as it was, its buffers and random state too.

    Raises:
        BadInput: there is no trainable parameter, or the batch does not lead with its rows.
    """
    make = synthetic or (lambda n: synthetic_twin(batch, n))
    refusal, measured = None, None
    with untouched(model):
        try:
            measured = prepare(model, loss_fn, batch, autocast=autocast, synthetic=synthetic)
        except Refused as refused:
            refusal = str(refused)
    with untouched(model):
        uses = _uses(model, loss_fn, make, autocast)
    with untouched(model):
        unreached = () if measured else _unreached(model, loss_fn, make, autocast)
    return Inspection(
        uses=uses,
        frozen={name: p.numel() for name, p in model.named_parameters() if not p.requires_grad},
        tied=_tied(model),
        unreached=unreached,
        batch_norms=batch_norms_in_training(model),
        learning=() if measured else learning_buffers(model, loss_fn, make, autocast),
        refusal=refusal,
        measured=measured,
    )


@contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """Bring buffers and torch's random state on the CPU back afterwards; gradients are on inside."""
    kept = {name: buffer.clone() for name, buffer in model.named_buffers()}
    try:
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            yield
    finally:
        for name, buffer in model.named_buffers():
            if name in kept and not _same(buffer, kept[name]):
                buffer.data.copy_(kept[name])


def batch_norms_in_training(model: nn.Module) -> tuple[str, ...]:
    """Return the names of the BatchNorm modules that would normalise rows with each other."""
    return tuple(name for name, module in model.named_modules() if isinstance(module, _BatchNorm) and module.training)


def learning_buffers(
    model: nn.Module, loss_fn: LossFn, make: Callable[[int], Any], autocast: Autocast | None = None
) -> tuple[str, ...]:
    """Return the names of the buffers that one forward pass changes."""
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    with untouched(model):
        with torch.no_grad(), (autocast or nullcontext)():
            loss_fn(model, make(_SIZES[0]))
        return tuple(name for name, b in model.named_buffers() if name in before and not _same(b, before[name]))


def _same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and bool(torch.equal(a.nan_to_num(), b.nan_to_num()))


def _tied(model: nn.Module) -> tuple[tuple[str, ...], ...]:
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return tuple(tuple(group) for group in names.values() if len(group) > 1)


def _unreached(
    model: nn.Module, loss_fn: LossFn, make: Callable[[int], Any], autocast: Autocast | None
) -> tuple[str, ...]:
    """Return the trainable parameters without an edge to the loss; none where the loss is nothing to differentiate."""
    parameters = trainable(model)
    with (autocast or nullcontext)():
        losses = loss_fn(model, make(_SIZES[0]))
    if not isinstance(losses, Tensor) or not losses.requires_grad:
        return ()
    grads = torch.autograd.grad(losses.sum(), list(parameters.values()), allow_unused=True)
    return tuple(name for name, grad in zip(parameters, grads, strict=True) if grad is None)


# ---------------------------------------------------------------- uses of parameters

Seen = tuple[str, frozenset, list[torch.Size]]
"""A call: function, what it was called on (names of parameters, numbers of calls), shapes of its results."""


class _Looker(TorchFunctionMode):
    """Lists every call on a parameter or on what was computed from one; refuses nothing."""

    def __init__(self, parameters: Mapping[str, Tensor]) -> None:
        super().__init__()
        self._origins: dict[int, tuple[Tensor, frozenset]] = {
            id(p): (p, frozenset([name])) for name, p in parameters.items()
        }
        self.calls: list[Seen] = []

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if func in COMPOSITE:
            with self:
                return COMPOSITE[func](*args, **kwargs)
        behind = [self._origins[id(t)][1] for t in flat_tensors(args, kwargs) if id(t) in self._origins]
        out = func(*args, **kwargs)
        made = [tensor for tensor in results(out) if tensor.requires_grad]
        if behind and made and torch.is_grad_enabled():
            index = len(self.calls)
            shapes = [tensor.shape for tensor in results(out)]
            self.calls.append((getattr(func, "__name__", "?"), frozenset().union(*behind), shapes))
            for tensor in made:
                self._origins.setdefault(id(tensor), (tensor, frozenset([index])))
        return out


def _uses(model: nn.Module, loss_fn: LossFn, make: Callable[[int], Any], autocast: Autocast | None) -> tuple[Use, ...]:
    """Return every trainable parameter's uses, from forward passes at two batch sizes.

    A result whose shape is the same at both holds no examples, and is followed to where it meets them.
    """
    parameters = trainable(model)
    recordings = []
    for count in _SIZES:
        looker = _Looker(parameters)
        with (autocast or nullcontext)(), looker:
            loss_fn(model, make(count))
        recordings.append(looker.calls)
    small, large = recordings
    alike = [call[:2] for call in small] == [call[:2] for call in large]
    behind: dict[int, frozenset[str]] = {}  # calls without examples -> the parameters they were computed from
    meets: dict[str, list[str]] = {name: [] for name in parameters}
    for index, (function, origins, shapes) in enumerate(small):
        named = [frozenset([o]) if isinstance(o, str) else behind.get(o, frozenset()) for o in origins]
        names = frozenset().union(*named)
        if alike and shapes == large[index][2]:
            behind[index] = names
            continue
        for name in names:
            meets[name].append(function)
    derived = frozenset().union(*behind.values()) if behind else frozenset()
    return tuple(_use(name, p.numel(), meets[name], name in derived) for name, p in parameters.items())


def _use(name: str, numel: int, functions: list[str], derived: bool) -> Use:
    kinds = tuple(dict.fromkeys(functions))
    without = tuple(function for function in kinds if not has_rule(function))
    return Use(name=name, numel=numel, functions=kinds, without_rule=without, count=len(functions), derived=derived)
