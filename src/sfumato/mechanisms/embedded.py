"""Losses that couple rows, computed over many micro-batches in constant memory: embed all, then back-propagate parts.

A loss of similarities reaches the parameters through the embeddings alone: grad L = sum_i J_i^T (dL / du_i) and the
same for v. So a first pass keeps n x d numbers, the loss gives every row its cotangents, and a second pass is an
ordinary backward pass of one micro-batch at a time (Gao et al. 2021, arXiv 2101.06983).
"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from sfumato.base import BadInput
from sfumato.losses import Contrast
from sfumato.mechanisms.batch import MicroBatch
from sfumato.mechanisms.computation import Computation
from sfumato.norms import following, not_ended

Reseed = Callable[[int], None]


@dataclass(frozen=True)
class Ranks:
    """What the processes of a run exchange besides the final sum. By default there is one process.

    Attributes:
        gather: rows (n, k) of this rank -> (rows of all ranks, one after the other, and where this rank's begin).
        add_up: adds a tensor up over all ranks, in place.
        first: whether this rank adds what all ranks hold alike.
    """

    gather: Callable[[Tensor], tuple[Tensor, int]] = lambda rows: (rows, 0)
    add_up: Callable[[Tensor], None] = lambda flat: None
    first: bool = True


@dataclass(frozen=True, kw_only=True)
class Embedded:
    """Rows as they are kept between the passes, padding included.

    Attributes:
        u, v: (n, d), zero where a row is not usable.
        usable: bool (n,): drawn, read and finite.
        groups, records: int64 (n,), -1 where not given.
    """

    u: Tensor
    v: Tensor
    usable: Tensor
    groups: Tensor
    records: Tensor

    def take(self, places: Tensor | slice) -> "Embedded":
        """Return the rows at `places`."""
        return Embedded(**{name: value[places] for name, value in vars(self).items()})

    def packed(self) -> Tensor:
        """Return everything as one float64 matrix (n, 2 d + 3); what it holds is exact in float64."""
        columns = (self.usable[:, None], self.groups[:, None], self.records[:, None], self.u, self.v)
        return torch.cat([column.double() for column in columns], 1)

    @classmethod
    def unpacked(cls, matrix: Tensor, dtype: torch.dtype) -> "Embedded":
        """Undo `packed`."""
        u, v = (half.to(dtype) for half in matrix[:, 3:].chunk(2, 1))
        groups, records = matrix[:, 1].long(), matrix[:, 2].long()
        return cls(u=u, v=v, usable=matrix[:, 0] > 0, groups=groups, records=records)

    @property
    def meets(self) -> Tensor:
        """Which rows form a pair, bool (n, n): usable ones of one group that are no two views of one record."""
        both = self.usable[:, None] & self.usable[None] & (self.groups[:, None] == self.groups[None])
        twins = (self.records[:, None] == self.records[None]) & (self.records >= 0)[:, None]
        return both & ~twins.fill_diagonal_(False)


def contrast_of(computation: Computation, unit: str) -> Contrast:
    """Return the loss of similarities that a unit needs.

    Raises:
        BadInput: the loss is something else.
    """
    if not isinstance(computation.loss_fn, Contrast):
        raise BadInput(f"a {unit} unit needs loss_fn=Contrast(embed=..., loss=...), a loss of similarities.")
    return computation.loss_fn


def embed(
    computation: Computation, contrast: Contrast, micro_batch: MicroBatch, measured: Any = None
) -> tuple[Tensor, Tensor]:
    """Return the embeddings of a micro-batch, in the run's precision.

    Raises:
        OffPath: the pass follows no path that `measured` certifies (None: it may be any).
    """
    count = len(micro_batch.valid)
    guard = nullcontext() if measured is None else following(measured.certified(count), count)
    with (computation.autocast or nullcontext)(), guard:
        return contrast.embeddings(computation.model, micro_batch.batch)


def kept(micro_batch: MicroBatch, u: Tensor, v: Tensor) -> Embedded:
    """Return what is kept of a micro-batch; a row that is not finite is as if it had not been drawn."""
    fit = micro_batch.valid & torch.isfinite(u).all(1) & torch.isfinite(v).all(1)
    none = torch.full_like(fit, -1, dtype=torch.int64)
    return Embedded(
        u=torch.where(fit[:, None], u, 0.0),
        v=torch.where(fit[:, None], v, 0.0),
        usable=fit,
        groups=none if micro_batch.groups is None else micro_batch.groups,
        records=none if micro_batch.records is None else micro_batch.records,
    )


def kept_alone(micro_batch: MicroBatch, made: dict[int, tuple[Tensor, Tensor]]) -> Embedded:
    """Return what is kept of a micro-batch from the embeddings of its rows alone, by place; the others raised."""
    like = next(iter(made.values()))
    fit = micro_batch.valid.clone()
    sides = [side.new_zeros(len(fit), side.shape[1]) for side in like]
    for place in range(len(fit)):
        if place in made:
            sides[0][place], sides[1][place] = made[place][0][0].detach(), made[place][1][0].detach()
        else:
            fit[place] = False
    return kept(replace(micro_batch, valid=fit), *sides)


def only_fit(micro_batch: MicroBatch, fit: Tensor) -> MicroBatch | None:
    """Return the micro-batch with every other row replaced by one that is fit; None if there is none.

    Zero times NaN is NaN: a row without a cotangent still has to be finite. That takes its place, though, may have a
    gradient that is not: so within groups only a row of the same group does, which spoils no other group's gradient. A
    group without any keeps its rows, and is left out by its norm.
    """
    if bool(fit.all()):
        return micro_batch
    if not bool(fit.any()):
        return None
    places = torch.arange(len(fit), device=fit.device)
    source = torch.where(fit, places, fit.nonzero()[0])
    if micro_batch.groups is not None:
        alike = (micro_batch.groups[:, None] == micro_batch.groups[None]) & fit[None]
        own = torch.where(alike.any(1), alike.int().argmax(1), places)
        source = torch.where(fit | (micro_batch.groups < 0), source, own)  # padding is nobody's
    batch = pytree.tree_map(lambda x: x[source] if isinstance(x, Tensor) else x, micro_batch.batch)
    return replace(micro_batch, batch=batch, valid=micro_batch.valid & fit)


def all_ranks(parts: list[Embedded], ranks: Ranks, device: torch.device) -> tuple[Embedded, int]:
    """Return the rows of all ranks, alike on each, and where this rank's begin; there may be none."""
    mine = (
        torch.cat([part.packed() for part in parts]) if parts else torch.zeros(0, 3, dtype=torch.float64, device=device)
    )
    matrix, begin = ranks.gather(mine)
    return Embedded.unpacked(matrix, parts[0].u.dtype if parts else torch.float32), begin


def back(computation: Computation, embeddings: tuple[Tensor, Tensor], on_u: Tensor, on_v: Tensor) -> dict[str, Tensor]:
    """Return sum_i J_i^T on_u_i + J'_i^T on_v_i by parameter, in at least float32."""
    return gradients(computation, embeddings, (on_u, on_v))


def gradients(computation: Computation, outs: Sequence[Tensor], cotangents: Sequence[Tensor]) -> dict[str, Tensor]:
    """Return the gradients of <outs, cotangents> by parameter, in at least float32."""
    parameters, scale = computation.parameters, computation.loss_scale
    moving = [place for place, out in enumerate(outs) if out.requires_grad]  # not a tower of which nothing trains
    given = [(cotangents[place] * scale).to(outs[place].dtype) for place in moving]
    wanted = list(parameters.values())
    with not_ended():
        grads = torch.autograd.grad([outs[place] for place in moving], wanted, given, allow_unused=True)
    found = {}
    for (name, parameter), grad in zip(parameters.items(), grads, strict=True):
        wide = torch.promote_types(parameter.dtype, torch.float32)
        if grad is None:
            found[name] = torch.zeros_like(parameter, dtype=wide)
        else:
            found[name] = grad.to(wide) if scale == 1.0 else grad.to(wide) / scale  # a copy costs as much as a sum
    return found
