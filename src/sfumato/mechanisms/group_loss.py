"""What is clipped in a group: the mean loss of its rows, be it of similarities (`Contrast`) or of one value per row.

A group is computed in one of two ways. Whole, within a micro-batch: `whole` is its loss, for the norm engine. In parts,
where it is larger than a micro-batch: `first` keeps what the loss needs of each part, `settle` sees all of that, and
`part` gives the gradient that a part adds.
"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from sfumato.losses import Contrast
from sfumato.mechanisms.batch import MicroBatch
from sfumato.mechanisms.computation import Computation, LossFn
from sfumato.mechanisms.embedded import Embedded, back, embed, gradients, kept, kept_alone, only_fit
from sfumato.norms import following, per_example
from sfumato.norms.contract import Combine

Gradients = dict[str, Tensor]


class NotFinite(Exception):
    """Some rows are not finite: the micro-batch is computed again without them."""

    def __init__(self, fit: Tensor) -> None:
        super().__init__()
        self.fit = fit


@dataclass(frozen=True)
class Part:
    """What a part of a group adds: to the gradient, to the loss, and to the count of rows that are not finite."""

    grads: Gradients
    loss: Tensor
    num_nonfinite: int = 0

    def plus(self, other: "Part") -> "Part":
        """Return the sum of both."""
        grads = {name: grad + other.grads[name] for name, grad in self.grads.items()}
        return Part(grads, self.loss + other.loss, self.num_nonfinite + other.num_nonfinite)


class GroupLoss(Protocol):
    """The mean loss of the rows of each group."""

    @property
    def rows(self) -> Callable[[Any, Any], Any]:
        """(model, batch) -> what the model makes of rows: their losses, or their embeddings."""
        ...

    def whole(self, micro_batch: MicroBatch, sizes: list[int]) -> Combine:
        """Return what `rows` made -> (G,): the mean over each group's rows, `sizes` in number; 0 where none is valid.

        Raises:
            NotFinite: at the call, where rows of it are not finite.
        """
        ...

    def alone(self, micro_batch: MicroBatch, places: Sequence[int], made: dict[int, Any]) -> Tensor | None:
        """Return the loss of one group from what its rows gave alone; those that raised are not in `made`. None where
        no row is left.
        """
        ...

    def first(self, micro_batch: MicroBatch, measured: Any) -> Embedded:
        """Return what is kept of the rows of a part; `usable` are those that count.

        Raises:
            OffPath: the pass follows no path that `measured` certifies.
        """
        ...

    def first_alone(self, micro_batch: MicroBatch, made: dict[int, Any]) -> Embedded:
        """Return the same from what the rows gave alone."""
        ...

    def settle(self, rows: Embedded) -> Tensor:
        """Take the rows of all parts of all groups, in order; return the sum of the groups' losses as known by then."""
        ...

    def part(self, micro_batch: MicroBatch, measured: Any, usable: Tensor, places: slice) -> Part | None:
        """Return what a part adds to its group; None where no row of it is usable.

        Raises:
            OffPath: the pass follows no path that `measured` certifies.
        """
        ...

    def row_part(self, made: Any, place: int) -> Part:
        """Return what one row adds, from what it gave alone; `place` is that among the rows of all ranks."""
        ...


def group_loss(computation: Computation) -> GroupLoss:
    """Return how the loss of a run is taken over groups."""
    loss = computation.loss_fn
    return OfPairs(computation, loss) if isinstance(loss, Contrast) else OfRows(computation, loss)


def numbered(sizes: list[int], device: torch.device) -> Tensor:
    """Return for every row the number of its group, int64."""
    return torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes)).to(device)


def sum_of_groups(losses: Tensor, groups: Tensor, num_groups: int) -> Tensor:
    """Return the sum of each group's losses (N,) -> (G,)."""
    return losses.new_zeros(num_groups).index_add(0, groups, losses)


class OfPairs:
    """A loss of similarities: the rows of a group meet one another."""

    def __init__(self, computation: Computation, contrast: Contrast) -> None:
        self._computation, self._contrast = computation, contrast
        self._on_u = self._on_v = torch.zeros(0)
        self.rows = contrast.embeddings

    def whole(self, micro_batch: MicroBatch, sizes: list[int]) -> Combine:
        groups = numbered(sizes, micro_batch.valid.device)
        placed = replace(micro_batch, groups=groups)

        def losses(u: Tensor, v: Tensor) -> Tensor:
            rows = kept(placed, u, v)
            if bool((rows.usable != micro_batch.valid).any()):
                raise NotFinite(rows.usable)
            found = self._contrast.rows(rows.u @ rows.v.mT, rows.meets)  # what does not meet has exactly 0
            number = sum_of_groups(rows.usable.to(found.dtype), groups, len(sizes))
            return sum_of_groups(found, groups, len(sizes)) / number.clamp(min=1.0)

        return losses

    def alone(self, micro_batch: MicroBatch, places: Sequence[int], made: dict[int, Any]) -> Tensor | None:
        fit = [place for place, rows in made.items() if all(bool(torch.isfinite(side).all()) for side in rows)]
        if not fit:
            return None
        own = replace(
            micro_batch,
            valid=micro_batch.valid[fit],
            groups=torch.zeros_like(micro_batch.valid[fit], dtype=torch.int64),
            records=None if micro_batch.records is None else micro_batch.records[fit],
        )
        rows = kept(own, *(torch.cat([made[place][side] for place in fit]) for side in (0, 1)))
        return self._contrast.rows(rows.u @ rows.v.mT, rows.meets).sum() / len(fit)

    def first(self, micro_batch: MicroBatch, measured: Any) -> Embedded:
        with torch.enable_grad():  # as it was certified; nothing of the graph is kept
            u, v = embed(self._computation, self._contrast, micro_batch, measured)
        return kept(micro_batch, u.detach(), v.detach())

    def first_alone(self, micro_batch: MicroBatch, made: dict[int, Any]) -> Embedded:
        return kept_alone(micro_batch, made)

    def settle(self, rows: Embedded) -> Tensor:
        self._on_u, self._on_v, total = cotangents(self._contrast, rows)
        return total

    def row_part(self, made: Any, place: int) -> Part:
        own = slice(place, place + 1)
        grads = back(self._computation, made, self._on_u[own], self._on_v[own])
        return Part(grads, torch.zeros((), dtype=torch.float64, device=self._on_u.device))

    def part(self, micro_batch: MicroBatch, measured: Any, usable: Tensor, places: slice) -> Part | None:
        fit = only_fit(micro_batch, usable)
        if fit is None:
            return None
        embedded = embed(self._computation, self._contrast, fit, measured)
        grads = back(self._computation, embedded, self._on_u[places], self._on_v[places])
        return Part(grads, torch.zeros((), dtype=torch.float64, device=usable.device))


class OfRows:
    """A loss of one value per row: rows meet nobody, and are only clipped together. A row that is not finite counts as
    zero in the mean.
    """

    def __init__(self, computation: Computation, loss_fn: LossFn) -> None:
        self._computation, self._loss_fn = computation, loss_fn
        self._shares = torch.zeros(0)

    def rows(self, model: nn.Module, batch: Any) -> tuple[Tensor]:
        """Return the loss of every row, (N,), as the one tensor of a tuple."""
        return (self._loss_fn(model, batch),)

    def whole(self, micro_batch: MicroBatch, sizes: list[int]) -> Combine:
        valid = micro_batch.valid
        groups, numbers = numbered(sizes, valid.device), torch.tensor(sizes, device=valid.device)

        def losses(found: Tensor) -> Tensor:
            found = torch.where(valid, _fit(found, valid), 0.0)
            return sum_of_groups(found, groups, len(sizes)) / numbers

        return losses

    def alone(self, micro_batch: MicroBatch, places: Sequence[int], made: dict[int, Any]) -> Tensor | None:
        losses = [per_example(found, 1)[0] for (found,) in made.values()]
        fit = [loss for loss in losses if bool(torch.isfinite(loss.detach()))]
        return torch.stack(fit).sum() / len(places) if fit else None

    def first(self, micro_batch: MicroBatch, measured: Any) -> Embedded:
        none = torch.zeros(len(micro_batch.valid), 0, device=micro_batch.valid.device)
        return kept(micro_batch, none, none)

    def settle(self, rows: Embedded) -> Tensor:
        self._shares = torch.zeros(len(rows.usable), device=rows.usable.device)
        for group in rows.groups[rows.usable].unique().tolist():
            own = (rows.groups == group) & rows.usable
            self._shares[own] = 1.0 / float(own.sum())
        return torch.zeros((), dtype=torch.float64, device=rows.usable.device)

    def first_alone(self, micro_batch: MicroBatch, made: dict[int, Any]) -> Embedded:
        return self.first(micro_batch, None)

    def row_part(self, made: Any, place: int) -> Part:
        loss = per_example(made[0], 1)[0]
        fit = bool(torch.isfinite(loss.detach()))
        share = self._shares[place].to(loss.dtype) if fit else torch.zeros_like(loss)
        grads = gradients(self._computation, [torch.where(torch.isfinite(loss), loss, 0.0 * loss)], [share])
        if not fit:
            grads = {name: torch.zeros_like(grad) for name, grad in grads.items()}
        value = (loss.detach() * share).double() if fit else torch.zeros_like(loss, dtype=torch.float64).detach()
        return Part(grads, value, int(not fit))

    def part(self, micro_batch: MicroBatch, measured: Any, usable: Tensor, places: slice) -> Part | None:
        fit = only_fit(micro_batch, usable)
        while fit is not None:
            try:
                return self._part(fit, measured, places, int(usable.sum() - fit.valid.sum()))
            except NotFinite as found:
                fit = only_fit(fit, found.fit)
        return None

    def _part(self, micro_batch: MicroBatch, measured: Any, places: slice, num_nonfinite: int) -> Part:
        with torch.enable_grad(), (self._computation.autocast or nullcontext)():
            with following(measured.certified(len(micro_batch.valid)), len(micro_batch.valid)):
                made = self._loss_fn(self._computation.model, micro_batch.batch)
            losses = _fit(made, micro_batch.valid)
        shares = torch.where(micro_batch.valid, self._shares[places].to(losses.dtype), 0.0)
        grads = gradients(self._computation, [losses], [shares])
        return Part(grads, (losses.detach() * shares).double().sum(), num_nonfinite)


def _fit(losses: Tensor, valid: Tensor) -> Tensor:
    """Return the losses (N,) where all valid ones are finite; else raise NotFinite."""
    found = per_example(losses, len(valid))
    fit = valid & torch.isfinite(found.detach())
    if bool((fit != valid).any()):
        raise NotFinite(fit)
    return found


def cotangents(contrast: Contrast, rows: Embedded) -> tuple[Tensor, Tensor, Tensor]:
    """Return dL / du and dL / dv (n, d), L the sum over groups of the mean loss of their rows; and L."""
    on_u, on_v = torch.zeros_like(rows.u), torch.zeros_like(rows.v)
    total = torch.zeros((), dtype=torch.float64, device=rows.u.device)
    for group in rows.groups[rows.usable].unique().tolist():
        places = ((rows.groups == group) & rows.usable).nonzero().squeeze(1)
        own = rows.take(places)
        derivative, losses = contrast.weights(own.u @ own.v.mT, own.meets)
        on_u[places] = derivative @ own.v / len(places)
        on_v[places] = derivative.mT @ own.u / len(places)
        total += losses.double().mean()
    return on_u, on_v, total
