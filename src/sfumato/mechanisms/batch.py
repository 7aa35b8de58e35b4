"""What a mechanism takes in and hands on: micro-batches, their clipped sum, and the tally that stays private."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, final

import torch
from torch import Tensor

from sfumato.plan import Unit


@dataclass(frozen=True, kw_only=True)
class MicroBatch:
    """Rows that are processed together; its leading size N is a constant of the run.

    Attributes:
        batch: any nesting of tensors, each of leading size N; None if no record of the micro-batch could be read.
        valid: bool (N,); a row that is False (padding, or a record that could not be read) contributes nothing.
        groups: int64 (N,), rows of one group side by side; for a group unit only. Private, as is `records`.
        records: int64 (N,), equal for the views of one record; for a group or pair unit only.
        in_parts: the rows are of one group that goes on in the next micro-batch, or came from the last.
        failures: type name of the exception of each record that could not be read. Private.
    """

    batch: Any
    valid: Tensor
    groups: Tensor | None = field(default=None, repr=False)
    records: Tensor | None = field(default=None, repr=False)
    in_parts: bool = False
    failures: tuple[str, ...] = field(default=(), repr=False)


class LogicalBatch(Protocol):
    """All micro-batches of one step (one noise draw); iterating twice gives the same rows. May be empty."""

    def __iter__(self) -> Iterator[MicroBatch]: ...


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Clipped:
    """The clipped sum of one logical batch, before noise: it may go to `release` and nowhere else.

    Attributes:
        sums: float64, by parameter name, in the parameter's shape.
        dtypes: each parameter's own dtype.
        presence: how far (L2, over all parameters together) `sums` moves when a record joins the draw.
        swap: how far it moves when a drawn record is exchanged. Both are None under a rule that is not proved.
    """

    sums: Mapping[str, Tensor] = field(repr=False)
    dtypes: Mapping[str, torch.dtype]
    presence: float | None
    swap: float | None


@final
@dataclass(frozen=True, kw_only=True)
class Tally:
    """Un-noised counts of one logical batch, for `private/` only (its repr shows nothing).

    Attributes:
        num_rows: rows that were drawn.
        num_failed: rows that could not be read, or that model or loss did not take.
        num_nonfinite: rows whose loss or gradient is not finite.
        num_clipped, num_alone: units that were clipped, and those that were computed alone.
        loss_sum: sum of the units' losses.
    """

    num_rows: int = field(repr=False)
    num_failed: int = field(repr=False)
    num_nonfinite: int = field(repr=False)
    num_clipped: int = field(repr=False)
    num_alone: int = field(repr=False)
    loss_sum: float = field(repr=False)

    @property
    def mean_loss(self) -> float:
        """Mean loss of the rows that were read and finite."""
        return self.loss_sum / max(self.num_rows - self.num_failed - self.num_nonfinite, 1)


class Sums:
    """One flat float64 accumulator: a view per parameter, and the tally's counts behind them.

    Flat, so that one all-reduce carries everything. Float64, because float32 sums over 10^5 micro-batches would
    lose the small clipped gradients: 8 bytes per parameter, whatever the size of the logical batch.
    """

    _COUNTS = 6
    _AT_ONCE = 1 << 20  # adding across types makes a copy: a small one, not one of the largest parameter

    def __init__(self, parameters: Mapping[str, Tensor]) -> None:
        sizes = [p.numel() for p in parameters.values()]
        device = next(iter(parameters.values())).device
        self.flat = torch.zeros(sum(sizes) + self._COUNTS, dtype=torch.float64, device=device)
        parts = torch.split(self.flat, [*sizes, self._COUNTS])
        self.views = {name: part.view(p.shape) for (name, p), part in zip(parameters.items(), parts[:-1], strict=True)}
        self._counts = parts[-1]
        self._dtypes = {name: p.dtype for name, p in parameters.items()}

    @property
    def gradient(self) -> Tensor:
        """The accumulated gradient as one flat vector."""
        return self.flat[: -self._COUNTS]

    def clipped(self, unit: Unit) -> Clipped:
        """Return the sum with the unit's distances; after the all-reduce."""
        # One number tells: the sum of float64 numbers below 1e38 cannot overflow, and one that is not finite stays so.
        if not bool(torch.isfinite(self.flat.sum())):
            raise AssertionError("the clipped sum is not finite although every factor is: nothing was released.")
        return Clipped(sums=self.views, dtypes=self._dtypes, presence=unit.presence, swap=unit.swap)

    def add(self, grads: Mapping[str, Tensor]) -> None:
        """Add the clipped gradients of one micro-batch; float32 into float64 is exact."""
        for name, view in self.views.items():
            total, part = view.view(-1), grads[name].reshape(-1)
            for start in range(0, len(part), self._AT_ONCE):
                total[start : start + self._AT_ONCE] += part[start : start + self._AT_ONCE]

    def count(
        self,
        rows: int | Tensor = 0,
        failed: int | Tensor = 0,
        nonfinite: int | Tensor = 0,
        clipped: int | Tensor = 0,
        alone: int = 0,
        loss_sum: float | Tensor = 0.0,
    ) -> None:
        """Add to the tally."""
        for slot, number in enumerate((rows, failed, nonfinite, clipped, alone, loss_sum)):
            self._counts[slot] += number

    def tally(self) -> Tally:
        """Return the counts as plain numbers."""
        rows, failed, nonfinite, clipped, alone, loss = self._counts.tolist()
        return Tally(
            num_rows=int(rows),
            num_failed=int(failed),
            num_nonfinite=int(nonfinite),
            num_clipped=int(clipped),
            num_alone=int(alone),
            loss_sum=loss,
        )
