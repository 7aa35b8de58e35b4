"""What a record adds, by its definition: its rows computed by themselves, and an ordinary backward pass.

The joint pass over a micro-batch is an optimisation for the paths that are certified. A micro-batch that follows none
of them, or that the model does not take, is parted by what each row does alone:

- rows that raise contribute nothing;
- units with a row that leaves the certified paths by itself are computed alone, and so are units whose terms cancel so
  far that rounding in a joint sum would reach others (`norms.rounding`), wherever they stand;
- the others are tried jointly once more, with made-up rows in the free places, and alone where that fails. Under low
  precision, where a row adds something else jointly than alone, first those are found by halves that the joint pass
  does not take among made-up rows, and computed alone: the others stay in it.

So no exception of the model leaves a step, and what a record adds does not depend on the values of the others. The
additional time can be observed from outside; the card says so.
"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from sfumato import norms
from sfumato.mechanisms.batch import MicroBatch
from sfumato.mechanisms.clip import ClipFactor
from sfumato.mechanisms.computation import Computation
from sfumato.mechanisms.silence import keep_silent
from sfumato.norms import ClippedSum

Reseed = Callable[[int], None]
Joint = Callable[[MicroBatch, Tensor], ClippedSum]
"""(micro-batch, which units count) -> their clipped sum, from the norm engine."""


class RowsAlone(Protocol):
    """How the loss of a unit is computed from its rows alone. See `group_loss`."""

    @property
    def rows(self) -> Callable[[Any, Any], Any]: ...

    def alone(self, micro_batch: MicroBatch, places: Sequence[int], made: dict[int, Any]) -> Tensor | None: ...


@dataclass(frozen=True, kw_only=True)
class Parted:
    """The clipped sum of a micro-batch, and how it came about.

    Attributes:
        result: of all units.
        failed: rows that raised alone, bool (N,).
        alone: units that were computed alone.
    """

    result: ClippedSum
    failed: Tensor
    alone: int = 0


def row_seed(chunk: int, place: int) -> int:
    """Return the number under which the generators are seeded for one row alone; other than that of any micro-batch."""
    return chunk + ((place + 1) << 32)


def seeds_of_rows(reseed: Reseed, chunk: int) -> Reseed:
    """Return what seeds the generators for a micro-batch (called with -1), or for the row at a place alone."""
    return lambda place: reseed(chunk if place < 0 else row_seed(chunk, place))


def clip_jointly_or_parted(
    computation: Computation,
    loss: RowsAlone,
    micro_batch: MicroBatch,
    units: Sequence[Sequence[int]],
    used: Tensor,
    measured: Any,
    factor: ClipFactor,
    joint: Joint,
    reseed: Reseed,
) -> Parted:
    """Return the clipped sum of a micro-batch from the joint pass, or by `clip_parted`; arguments as there.

    Whatever the model raises is caught: a message may quote a record.
    """
    failed = torch.zeros_like(micro_batch.valid)
    reseed(-1)
    try:
        result = joint(micro_batch, used)
    except Exception as error:
        keep_silent(error)
    else:
        apart = _apart(result, used)
        for number in apart:
            _add_alone(computation, loss, micro_batch, units[number], number, factor, result, failed, reseed)
        return Parted(result=result, failed=failed, alone=len(apart))
    return clip_parted(computation, loss, micro_batch, units, used, measured, factor, joint, reseed)


def single(micro_batch: MicroBatch, place: int) -> MicroBatch:
    """Return one row as a micro-batch of its own."""
    named = {name: getattr(micro_batch, name) for name in ("groups", "records")}
    own = {name: None if value is None else value[place : place + 1] for name, value in named.items()}
    return replace(
        micro_batch,
        batch=norms.row_of(micro_batch.batch, place),
        valid=micro_batch.valid[place : place + 1],
        failures=(),
        **own,
    )


def kinds_of_rows(
    computation: Computation, rows: Callable[[Any, Any], Any], micro_batch: MicroBatch, measured: Any, reseed: Reseed
) -> tuple[Tensor, Tensor]:
    """Return which rows raise alone, and which take alone a path that is not certified, bool (N,) each."""
    failed, odd = torch.zeros_like(micro_batch.valid), torch.zeros_like(micro_batch.valid)
    for place in micro_batch.valid.nonzero().squeeze(1).tolist():
        reseed(place)
        row = norms.row_of(micro_batch.batch, place)
        try:
            with torch.enable_grad(), (computation.autocast or nullcontext)(), norms.following(measured.singles, 1):
                rows(computation.model, row)
        except norms.OffPath:
            odd[place] = True
        except Exception:
            failed[place] = True
    return failed, odd


def clip_parted(
    computation: Computation,
    loss: RowsAlone,
    micro_batch: MicroBatch,
    units: Sequence[Sequence[int]],
    used: Tensor,
    measured: Any,
    factor: ClipFactor,
    joint: Joint,
    reseed: Reseed,
) -> Parted:
    """Return the clipped sum of a micro-batch that the joint pass did not give.

    Args:
        loss: how a unit is computed alone.
        units: the places of the rows of each, all of the micro-batch in order.
        used: bool (number of units), those that count.
        joint: tried again with the units that are ordinary.
        reseed: called with -1 before a joint pass, with the place of a row before the row alone.
    """
    failed, odd = kinds_of_rows(computation, loss.rows, micro_batch, measured, reseed)
    ordinary = torch.tensor([not bool((failed | odd)[list(unit)].any()) for unit in units]).to(used.device)
    result = none_of(computation, len(units), used.device)
    left = used.clone()
    made_up = measured.sample(len(micro_batch.valid))

    def jointly(some: Tensor) -> ClippedSum | None:
        reseed(-1)
        try:
            return joint(_among(micro_batch, made_up, units, some), some) if bool(some.any()) else None
        except Exception:
            return None

    fit = used & ordinary
    found = None if bool(ordinary[used].all()) else jointly(fit)
    if found is None and computation.half_precision is not None:
        fit = _taken(lambda some: jointly(some) is not None, fit)
        found = jointly(fit)
    if found is not None:
        result, left = found, used & ~fit
        left[_apart(result, fit)] = True
    for number in left.nonzero().squeeze(1).tolist():
        _add_alone(computation, loss, micro_batch, units[number], number, factor, result, failed, reseed)
    return Parted(result=result, failed=failed, alone=int(left.sum()))


def _apart(result: ClippedSum, used: Tensor) -> list[int]:
    """Return the units that the joint pass left out, for rounding; see `norms.rounding`."""
    return [] if result.apart is None else (result.apart & used).nonzero().squeeze(1).tolist()


def none_of(computation: Computation, num_units: int, device: torch.device) -> ClippedSum:
    """Return the clipped sum of units of which none counts."""
    parameters = computation.parameters
    wide = torch.float64 if next(iter(parameters.values())).dtype == torch.float64 else torch.float32
    sums = {name: torch.zeros_like(p, dtype=wide) for name, p in parameters.items()}
    norms_of = torch.full((num_units,), torch.inf, dtype=wide, device=device)
    return ClippedSum(sums, norms_of, torch.zeros_like(norms_of), torch.zeros_like(norms_of))


def _taken(takes: Callable[[Tensor], bool], some: Tensor) -> Tensor:
    """Return which of some units the joint pass takes, by halves: each by what it brings about among made-up rows."""
    if takes(some):
        return some
    numbers = some.nonzero().squeeze(1)
    halves = [torch.zeros_like(some) for _ in range(2)]
    for half, own in zip(halves, numbers.tensor_split(2), strict=True):
        half[own] = True
    if len(numbers) < 2:
        return halves[1]
    return _taken(takes, halves[0]) | _taken(takes, halves[1])


def _among(micro_batch: MicroBatch, made_up: Any, units: Sequence[Sequence[int]], kept: Tensor) -> MicroBatch:
    """Return the micro-batch with made-up rows in the places of other units."""
    fit = torch.zeros_like(micro_batch.valid)
    for number in kept.nonzero().squeeze(1).tolist():
        fit[list(units[number])] = True

    def mixed(own: Any, other: Any) -> Any:
        return torch.where(fit.view(-1, *[1] * (own.dim() - 1)), own, other) if isinstance(own, Tensor) else own

    return replace(micro_batch, batch=pytree.tree_map(mixed, micro_batch.batch, made_up), valid=micro_batch.valid & fit)


def _add_alone(
    computation: Computation,
    loss: RowsAlone,
    micro_batch: MicroBatch,
    places: Sequence[int],
    number: int,
    factor: ClipFactor,
    result: ClippedSum,
    failed: Tensor,
    reseed: Reseed,
) -> None:
    """Add one unit, computed alone, to the result."""
    made: dict[int, Any] = {}
    value: Tensor | None = None
    grads: dict[str, Tensor] = {}
    for place in places:
        if not bool(micro_batch.valid[place]) or bool(failed[place]):
            continue
        reseed(place)
        try:
            with torch.enable_grad(), (computation.autocast or nullcontext)():
                made[place] = loss.rows(computation.model, norms.row_of(micro_batch.batch, place))
        except Exception:
            failed[place] = True
    try:
        with torch.enable_grad():
            value = loss.alone(micro_batch, places, made)
            grads = {} if value is None else _gradient(computation, value)
    except Exception:
        failed[list(places)] = True
    if value is None or not grads:
        return
    result.losses[number] = value.detach()
    norm = norms.length(grads.values()).to(result.norms.dtype)
    if not bool(norm.isfinite() & value.detach().isfinite()):
        return
    result.norms[number], result.factors[number] = norm, factor(norm[None])[0]
    for name, grad in grads.items():
        result.grads[name].add_(grad * result.factors[number])


def _gradient(computation: Computation, value: Tensor) -> dict[str, Tensor]:
    parameters, scale = computation.parameters, computation.loss_scale
    with norms.not_ended():
        grads = torch.autograd.grad(value * scale, list(parameters.values()), allow_unused=True)
    return {
        name: grad.to(torch.promote_types(grad.dtype, torch.float32)) / scale
        for (name, _), grad in zip(parameters.items(), grads, strict=True)
        if grad is not None
    }
