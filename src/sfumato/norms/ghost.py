"""Book-keeping: norms of all per-example gradients and their clipped sum, from one forward and one backward pass.

(Bu et al. 2023, arXiv 2210.00038.) The backward pass stops at every use of a parameter; nothing there forms a weight
gradient. Afterwards the norms are read, the clip factors formed, and each weight's sum is one weighted product.
"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sfumato.base import Refused
from sfumato.norms import factors as fac
from sfumato.norms import rounding
from sfumato.norms.contract import Autocast, Combine, LossFn, Staged, not_ended, per_example, refuse_unmeasured
from sfumato.norms.factors import Outer, Rows
from sfumato.norms.measured import Measured
from sfumato.norms.path import OffPath, Path
from sfumato.norms.rounding import Merged
from sfumato.norms.scratch import Scratch
from sfumato.norms.synthetic import batch_size
from sfumato.norms.tape import Tape
from sfumato.norms.units import Units

ClipFactor = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class ClippedSum:
    """The clipped sum of one micro-batch and what led to it; private until it is noised.

    Attributes:
        grads: sum over examples of factor * gradient, by parameter name, float32 (float64 for float64 models).
        norms: L2 norm of each example's gradient over all trainable parameters (N,); what is not finite reads inf.
        factors: clip factor of each example (N,), zero for padding and for non-finite examples.
        losses: loss of each example (N,), detached.
        apart: examples that are to be computed by themselves (N,) bool, with a factor of zero here: rounding in a joint
            pass would be too large for them (`rounding`).
    """

    grads: dict[str, Tensor]
    norms: Tensor
    factors: Tensor
    losses: Tensor
    apart: Tensor | None = None


def clipped_sum(
    model: nn.Module,
    loss_fn: LossFn,
    batch: Any,
    measured: Measured,
    clip_factor: ClipFactor,
    *,
    valid: Tensor | None = None,
    loss_scale: float = 1.0,
    autocast: Autocast | None = None,
    units: Sequence[int] | None = None,
    combine: Combine | None = None,
) -> ClippedSum:
    """Return sum_n c_n grad l_n with c_n = clip_factor(||grad l_n||), n over the valid and finite examples.

    With `units`, n runs over groups of rows: the rows of one group lie side by side, the loss is one value per group
    and may couple its rows, and "(N,)" reads as the number of groups from here on.

    Args:
        model: the module; untouched afterwards, no `.grad` is set.
        loss_fn: (model, batch) -> (N,).
        batch: pytree of tensors that lead with N.
        measured: from `prepare`, for this model and loss.
        clip_factor: norms (N,) -> factors (N,).
        valid: (N,) bool; False rows (padding, failed decodes) contribute zero.
        loss_scale: public constant that multiplies the loss in the backward pass, divided out before the norms.
        autocast: makes the context under which the loss is computed; norms and sums are in float32 regardless.
        units: sizes of the groups of rows, None for single rows.
        combine: makes the losses of what `loss_fn` returns (tensors that lead with the rows), where units of rows have
            a loss of their own. It uses no parameter.

    Raises:
        OffPath: the batch takes no path that was certified for its number of rows.
        Refused: a parameter is used in a way that is not measured exactly; the message names it.
        BadInput: the sizes of `units` do not add up to the rows.
    """
    return joint_sum(
        model,
        Staged(loss_fn, combine),
        batch,
        measured.parameters(model),
        measured.certified(batch_size(batch)),
        clip_factor,
        valid=valid,
        loss_scale=loss_scale,
        autocast=autocast,
        units=units,
        unused=measured.unused,
        scratch=measured.scratch,
    )


def joint_sum(
    model: nn.Module,
    loss: Staged,
    batch: Any,
    parameters: dict[str, nn.Parameter],
    paths: Sequence[Path],
    clip_factor: ClipFactor,
    *,
    valid: Tensor | None = None,
    loss_scale: float = 1.0,
    autocast: Autocast | None = None,
    units: Sequence[int] | None = None,
    unused: Sequence[str] | None = None,
    scratch: Scratch | None = None,
    part_ill: bool = True,
) -> ClippedSum:
    """Return `clipped_sum` of a batch that takes one of `paths`; arguments as there.

    Args:
        part_ill: whether examples may stand apart; else they stay in the sum.

    Raises:
        OffPath: it takes none of them.
    """
    count = batch_size(batch)
    scratch = scratch or Scratch()
    with scratch.lending():
        grouped = Units.of(units, count)
        open_end = grouped is not None and loss.combine is None
        tape = Tape(parameters, paths, count, units=grouped, scratch=scratch, open_end=open_end)
        with torch.enable_grad(), tape:
            with (autocast or nullcontext)():
                made = loss.rows(model, batch)
                tape.finish()
                losses = per_example(loss.finish(made), tape.num_units)
            wanted = [tape.anchor, *parameters.values()]
            with not_ended():
                grads = torch.autograd.grad(losses.sum() * loss_scale, wanted, allow_unused=True)
        refuse_unmeasured(tape.unruled, dict(zip(parameters, grads[1:], strict=True)))
        tape.slots.clear()  # they refer to the tape: the cycle would keep a whole micro-batch until the collector comes
        with torch.no_grad():
            merged = merge(tape, parameters)
            _check_all_reached(merged, parameters, unused)
            precision = next(iter(parameters.values())).dtype
            wide = precision if precision == torch.float64 else torch.float32
            found = rounding.measure(merged, len(losses), wide, loss_scale, losses.device)
            norms = found.norms / loss_scale
            usable = norms.isfinite() & losses.detach().isfinite()
            if valid is not None:
                usable &= valid.to(usable.device)
            apart = found.apart & losses.detach().isfinite() if part_ill else torch.zeros_like(usable)
            usable &= ~apart
            norms = torch.where(norms.isfinite(), norms, torch.inf)
            factors = torch.where(usable, clip_factor(torch.where(usable, norms, 1.0)), 0.0)
            sums = rounding.sums(merged, parameters, factors / loss_scale, usable, found.wide, norms.dtype)
            _check_shapes(sums, parameters)
    return ClippedSum(sums, norms, factors, losses.detach(), apart)


def _check_all_reached(merged: Merged, parameters: dict[str, nn.Parameter], unused: Sequence[str] | None) -> None:
    """Raise OffPath where a parameter gets no gradient that got one when it was certified (None: nothing is known)."""
    lost = [] if unused is None else [name for name in parameters if name not in merged and name not in unused]
    if lost:
        raise OffPath(f"no gradient reaches {lost[0]} here, as it did on the made-up rows.")


def merge(tape: Tape, parameters: dict[str, nn.Parameter]) -> Merged:
    """Bring the gradients of all uses home to the parameters."""
    by_name: dict[str, list[Outer | Rows]] = {}
    home = {id(parameter): name for name, parameter in parameters.items()}
    for key in list(tape.factors):
        parts = tape.factors.pop(key)  # what is merged need not be held twice
        if key in home:
            by_name.setdefault(home[key], []).extend(parts)
            continue
        for name, part in through_derivation(tape, key, parts, parameters):
            by_name.setdefault(name, []).append(part)
    return {name: fac.combine(by_name.pop(name)) for name in list(by_name)}


def through_derivation(
    tape: Tape, key: int, parts: list[Outer | Rows], parameters: dict[str, nn.Parameter]
) -> list[tuple[str, Outer | Rows]]:
    """Apply the chain rule from a tensor that was computed from parameters alone, for every example at once."""
    derived = tape.tracked.tensor(key)
    rows = fac.combine([part.explicit() if isinstance(part, Outer) else part for part in parts])
    assert isinstance(rows, Rows)
    lookup = tape.tracked.lookup_of(derived)
    names = {id(parameter): name for name, parameter in parameters.items()}
    if lookup is not None and id(lookup[0]) in names:
        table, entries = lookup
        right = rows.values.reshape(len(rows.values), -1, table.shape[-1])
        left = entries.flatten().long().expand(len(right), -1)
        return [(names[id(table)], Outer(left, right, table.shape))]
    behind = {name: parameters[name] for name in sorted(tape.tracked.names([derived]))}
    values = rows.values.to(derived.dtype)
    with torch.enable_grad():
        grads = torch.autograd.grad(
            derived, list(behind.values()), values, retain_graph=True, allow_unused=True, is_grads_batched=True
        )
    found = [(name, grad) for name, grad in zip(behind, grads, strict=True) if grad is not None]
    return [(name, Rows(grad, None if rows.summed is None else _carried(rows, grad))) for name, grad in found]


def _carried(rows: Rows, grad: Tensor) -> Tensor:
    """Return `summed` behind a linear map: as large beside the result as it was before it (no bound, but for maps that
    cancel nothing themselves).
    """
    assert rows.summed is not None
    size = fac.frobenius(rows.values)
    return torch.where(size > 0, rows.summed / size * fac.frobenius(grad), rows.summed)


def _check_shapes(sums: dict[str, Tensor], parameters: dict[str, nn.Parameter]) -> None:
    for name, parameter in parameters.items():
        if sums[name].shape != parameter.shape:
            raise Refused(f"{name}: measured gradient has shape {tuple(sums[name].shape)}, not the parameter's.")
