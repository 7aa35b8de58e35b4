"""The pair unit (Logit-DP, arXiv 2310.03104): the gradient of every similarity is clipped, all weighted ones are added.

grad L = sum_ij D_ij grad Z_ij. With c_ij = min(1, B / ||grad Z_ij||) and W = D o c, the clipped sum

    sum_ij W_ij (J_i^T v_j + J'_j^T u_i) = sum_i J_i^T (W v)_i + sum_j J'_j^T (W^T u)_j

is one backward pass with cotangents W V on U and W^T U on V. The first pass embeds all rows and takes the Gram matrices
of their Jacobians, from which all n^2 norms follow; the second pass is that one backward pass, in parts.

An embedding of unit norm cannot move along itself, so v_j stands for P_i v_j, P_i = 1 - u_i u_i^T, and u_i for
P'_j u_i. The cotangents are so projected, in float64: norms are measured of J_i^T P_i v_j + J'_j^T P'_j u_i, and what
rounding (or a norm that is a little off 1) makes of the direction of u_i, times a Jacobian that may be huge, must not
be released unmeasured. For the same reason all is computed in float32 or float64: norms and sum come from different
backward passes, which lower precision would round apart by more than the margin of 1e-3.
"""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from sfumato import norms
from sfumato.base import BadInput, Refused
from sfumato.losses import Contrast
from sfumato.losses.contrast import cosines
from sfumato.mechanisms.alone import kinds_of_rows, seeds_of_rows, single
from sfumato.mechanisms.batch import Clipped, LogicalBatch, MicroBatch, Sums, Tally
from sfumato.mechanisms.clip import ClipFactor
from sfumato.mechanisms.computation import Computation, Measure
from sfumato.mechanisms.embedded import (
    Embedded,
    Ranks,
    Reseed,
    all_ranks,
    back,
    contrast_of,
    embed,
    kept,
    only_fit,
)
from sfumato.mechanisms.silence import keep_silent
from sfumato.plan import Pair

_JACOBIAN_BYTES = 16 << 30  # of a machine of 24 GB
_UNIT_NORM = 1e-3


@dataclass(frozen=True)
class _Part:
    """What the first pass keeps of a micro-batch, or of one row of it: rows, and their Gram matrices or Jacobians.

    `place` is that of a row which was computed alone.
    """

    rows: Embedded
    jacobians: norms.PairJacobians
    place: int | None = None


def clip_pairs(
    computation: Computation,
    micro_batches: LogicalBatch,
    unit: Pair,
    factor: ClipFactor,
    *,
    measure: Measure,
    reduce: Callable[[Tensor], None],
    reseed: Reseed,
    ranks: Ranks,
    batch_size: float,
) -> tuple[Clipped, Tally]:
    """Return sum_ij factor(||grad Z_ij||) D_ij grad Z_ij over the usable rows of the logical batch.

    Presence and swap are the unit's own (proofs at `plan.contrast`): each pair's clipped gradient is a function of its
    two records, and D moves by what the loss's bounds say. A row that is not finite, in its embedding, in its
    Jacobian or in the terms that its Jacobian is the sum of, leaves before the similarities are formed.

    Args:
        measure, reduce, reseed, ranks: as for `clip_groups`.
        batch_size: the expected number of rows, a public constant; what would not fit into memory is refused by it.

    Raises:
        BadInput: the loss is no `Contrast`, is another than the plan's, or Jacobians would not fit into memory.
        Refused: the temperature is learned, embeddings are not of unit norm, or something is of low precision.
    """
    contrast = contrast_of(computation, "Pair")
    _check_precision(computation)
    _check_loss(contrast, unit)
    sums = Sums(computation.parameters)
    parts: dict[int, list[_Part]] = {}
    measured: Any = None
    for chunk, micro_batch in enumerate(micro_batches):
        sums.count(rows=micro_batch.valid.sum() + len(micro_batch.failures), failed=len(micro_batch.failures))
        if micro_batch.batch is None:
            continue
        measured = measure(micro_batch)
        parts[chunk], raised = _first_pass(computation, micro_batch, measured, unit, seeds_of_rows(reseed, chunk))
        _check_memory(parts[chunk], batch_size)
        usable = sum(int(part.rows.usable.sum()) for part in parts[chunk])
        sums.count(failed=raised, nonfinite=micro_batch.valid.sum() - usable - raised)
    every = [part for own in parts.values() for part in own]
    on_u, on_v = _cotangents(sums, every, contrast, factor, ranks)
    begin = 0
    for chunk, micro_batch in enumerate(micro_batches):
        for part in parts.get(chunk, []):
            places = slice(begin, begin + len(part.rows.u))
            begin = places.stop
            own = seeds_of_rows(reseed, chunk)
            grads = _back(computation, micro_batch, measured, part, (on_u[places], on_v[places]), own)
            if grads is not None:
                sums.add(grads)
    reduce(sums.flat)
    return sums.clipped(unit), sums.tally()


def _back(
    computation: Computation,
    micro_batch: MicroBatch,
    measured: Any,
    part: _Part,
    cotangents: tuple[Tensor, Tensor],
    reseed: Reseed,
) -> dict[str, Tensor] | None:
    """Return the gradient of one part, from a pass like the one whose norms were measured; None where there is none."""
    own = micro_batch if part.place is None else single(micro_batch, part.place)
    fit = only_fit(own, part.rows.usable)
    if fit is None:
        return None
    reseed(-1 if part.place is None else part.place)
    try:
        return back(computation, embed(computation, contrast_of(computation, "Pair"), fit, measured), *cotangents)
    except Exception as error:  # of a model that computes otherwise the second time
        keep_silent(error)
        return None


def _check_loss(contrast: Contrast, unit: Pair) -> None:
    if contrast.log_scale is not None:
        raise Refused(
            f"under the Pair unit the temperature is a public constant of the plan: {contrast.log_scale} cannot be "
            "learned (its gradient sums over all pairs). Freeze it, or use the unit Group."
        )
    if contrast.loss != unit.loss:
        raise BadInput(f"the plan is for {unit.loss.describe()}; loss_fn has {contrast.loss.describe()}.")


def _check_precision(computation: Computation) -> None:
    what = computation.half_precision
    if what is not None:
        raise Refused(f"under the Pair unit everything is computed in float32 or float64, and {what}.")
    if computation.loss_scale != 1.0:
        raise Refused("under the Pair unit loss_scale is 1: a scale is for half precision, which is refused here.")


def _check_memory(parts: list[_Part], batch_size: float) -> None:
    found = [part.jacobians for part in parts if part.place is None]  # what single rows hold depends on records
    held = sum(one.of_u.num_bytes + one.of_v.num_bytes for one in found)
    needed = batch_size * held / max(sum(len(one.u) for one in found), 1)
    if needed > _JACOBIAN_BYTES:
        raise BadInput(
            "the exact norms of a shared encoder keep every row's Jacobian, which is too much here "
            f"({needed / 1e9:,.0f} GB of at most {_JACOBIAN_BYTES / 1e9:,.0f} GB for the expected batch): take "
            'Pair(norms="bound"), a narrower embedding, or smaller batches.'
        )


def _first_pass(
    computation: Computation, micro_batch: MicroBatch, measured: Any, unit: Pair, reseed: Reseed
) -> tuple[list[_Part], int]:
    """Embed the rows and measure their Jacobians, jointly where that follows a certified path; else without the rows
    that raise or leave the certified paths alone, and row by row where that fails too. Returns how many were left out.
    """
    try:
        return [_fit_part(computation, micro_batch, measured, unit, reseed)], 0
    except Exception as error:
        keep_silent(error)
        rows = contrast_of(computation, "Pair").embeddings
        failed, odd = kinds_of_rows(computation, rows, micro_batch, measured, reseed)
    kept_rows = micro_batch.valid & ~failed & ~odd
    left_out = int((micro_batch.valid & ~kept_rows).sum())
    fit = only_fit(micro_batch, kept_rows)
    if fit is None:
        return [], left_out
    try:
        return [_fit_part(computation, fit, measured, unit, reseed)], left_out
    except Exception:
        parts = []
        with contextlib.suppress(Exception):
            measured.certified(1)  # once, outside the rows
    for place in kept_rows.nonzero().squeeze(1).tolist():
        try:
            alone = lambda number, place=place: reseed(place)  # noqa: E731
            part = _fit_part(computation, single(micro_batch, place), measured, unit, alone)
            parts.append(replace(part, place=place))
        except Exception:
            left_out += 1
    return parts, left_out


def _fit_part(computation: Computation, micro_batch: MicroBatch, measured: Any, unit: Pair, reseed: Reseed) -> _Part:
    """Embed the rows and measure their Jacobians; again without those that are not fit, if there are any."""
    part = _measured(computation, micro_batch, measured, unit, reseed)
    if torch.equal(part.rows.usable, micro_batch.valid):
        return part
    fit = only_fit(micro_batch, part.rows.usable)
    return part if fit is None else _measured(computation, fit, measured, unit, reseed)


def _measured(computation: Computation, micro_batch: MicroBatch, measured: Any, unit: Pair, reseed: Reseed) -> _Part:
    reseed(-1)
    found = computation.engine.pair_jacobians(
        computation.model,
        contrast_of(computation, "Pair").embeddings,
        micro_batch.batch,
        measured,
        exact=unit.norms == "exact",
        autocast=computation.autocast,
    )
    sound = torch.ones_like(micro_batch.valid)
    for side in (found.u, found.v):
        sound &= (torch.linalg.vector_norm(side, dim=1) - 1).abs() <= _UNIT_NORM  # a row of zeros, or of NaN
    for side in (found.of_u, found.of_v):
        sound &= torch.isfinite(side.gram.flatten(1)).all(1) & torch.isfinite(side.sizes).all(1)
        sound &= torch.isfinite(side.summed).all(1)
    rows = kept(replace(micro_batch, valid=micro_batch.valid & sound), found.u, found.v)
    return _Part(rows, found)  # what is not finite stays in the norms of its own pairs, which are left out


def _cotangents(
    sums: Sums, parts: list[_Part], contrast: Contrast, factor: ClipFactor, ranks: Ranks
) -> tuple[Tensor, Tensor]:
    """Return P_i (W V)_i and P'_j (W^T U)_j (n, d) over the rows of all ranks, this rank's alone, in their order."""
    device = sums.flat.device
    rows, begin = all_ranks([part.rows for part in parts], ranks, device)
    if not len(rows.u):
        return rows.u, rows.v
    similarity = cosines(rows.u, rows.v)
    derivative, losses = contrast.weights(similarity, rows.meets)
    lengths = _pair_norms(parts, rows, ranks)
    scale = torch.where(rows.meets, factor(lengths).to(derivative.dtype), 0.0)
    weighted = (derivative * scale).double()
    if ranks.first:
        sums.count(clipped=(rows.meets & (scale < 1.0)).sum(), loss_sum=losses.double().sum())
    mine = slice(begin, begin + sum(len(part.rows.u) for part in parts))
    u, v = rows.u.double(), rows.v.double()
    inner = weighted * (u @ v.mT)
    on_u, on_v = weighted @ v - _along(inner.sum(1), u), weighted.mT @ u - _along(inner.sum(0), v)
    return on_u[mine].to(rows.u.dtype), on_v[mine].to(rows.v.dtype)


def _along(sums: Tensor, rows: Tensor) -> Tensor:
    """Return the part along each row (n, d) of a vector whose product with it is `sums` (n,); 0 for a row of zeros."""
    return sums[:, None] * rows / rows.square().sum(1, keepdim=True).clamp(min=torch.finfo(rows.dtype).tiny)


def _pair_norms(parts: list[_Part], rows: Embedded, ranks: Ranks) -> Tensor:
    """Return ||grad Z_ij||, (n, n), of the rows of all ranks: exact, or bounded by the triangle inequality."""
    found = [part.jacobians for part in parts]
    if any(one.shared and one.exact for one in found):
        if len(rows.u) != sum(len(part.rows.u) for part in parts):
            raise Refused('the exact norms of a shared encoder are for one process: take Pair(norms="bound").')
        return norms.shared_norms(rows.u, rows.v, [one.of_u for one in found], [one.of_v for one in found])
    sides = [rows.u.new_zeros(0, len(rows.u), dtype=torch.float64)] * 2
    if parts:
        sides = [
            torch.cat([norms.side_norms(part.rows.u, rows.v, part.jacobians.of_u) for part in parts]),
            torch.cat([norms.side_norms(part.rows.v, rows.u, part.jacobians.of_v) for part in parts]),
        ]
    by_u, by_v = (ranks.gather(side)[0] for side in sides)
    shared = any(one.shared for one in found)
    return by_u + by_v.mT if shared else torch.hypot(by_u, by_v.mT)
