"""The sums of the mechanisms, and loops over single rows by autograd alone that they are compared with."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from sfumato import norms
from sfumato.losses import contrast
from sfumato.mechanisms import Computation, MeasureOnce, MicroBatch, Ranks, clip_batch, clip_factor, rehearse
from sfumato.mechanisms.clip import MARGIN
from sfumato.plan import Unit

C = 0.5
SIZES = (1, 3, 8, 32)
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}
Row = dict[str, Tensor]  # a batch of one row
Loss = Callable[[Any, Row], Any]


def micro_batches(rows: Sequence[Row], size: int, groups: int | None) -> list[MicroBatch]:
    """Cut rows into micro-batches; `groups`: how many rows lie in one group."""
    found = []
    for start in range(0, len(rows), size):
        part = list(rows[start : start + size])
        count = len(part)
        place = torch.arange(size)
        valid = place < count
        own = torch.where(valid, start + place, -1)
        found.append(
            MicroBatch(
                batch=norms.joined(part + [part[0]] * (size - count)),
                valid=valid,
                groups=None if groups is None else torch.where(valid, own // groups, -1),
                records=None if groups is None else own,
            )
        )
    return found


class Run:
    """A model that was certified at a size, and the sums of its mechanism."""

    def __init__(self, computation: Computation, unit: Unit, size: int, first: Row) -> None:
        self.computation, self.unit, self.size = computation, unit, size
        self.factor = clip_factor(unit)
        self.measure = MeasureOnce(
            computation, lambda measured, form: rehearse(computation, unit, self.factor, measured, form, 8.0)
        )
        self.measure.before(0, micro_batches([first] * size, size, None)[0])

    def sums(self, rows: Sequence[Row], groups: int | None = None) -> Tensor:
        return self.of(micro_batches(rows, self.size, groups))

    def of(self, given: Sequence[MicroBatch]) -> Tensor:
        clipped, self.tally = clip_batch(
            self.computation, given, self.unit, self.factor, measure=self.measure,
            reduce=lambda flat: None, reseed=lambda chunk: None, ranks=Ranks(), batch_size=8.0,
        )  # fmt: skip
        return torch.cat([clipped.sums[name].flatten() for name in self.computation.parameters])


def clipped(model: Any, value: Tensor, clip_norm: float = C) -> Tensor:
    """Return the clipped gradient of one value; zero where it is not finite."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    grads = torch.autograd.grad(value, parameters, allow_unused=True, retain_graph=True)
    flat = torch.cat([torch.zeros_like(p).flatten() if g is None else g.flatten() for g, p in zip(grads, parameters)])
    norm = float(flat.double().norm())
    if not (value.isfinite() and norm < float("inf")):
        return torch.zeros_like(flat).double()
    return flat.double() * min(1.0, clip_norm * (1 - MARGIN) / max(norm, 1e-30))


def works(loss: Loss, model: Any, row: Row) -> Any:
    """Return the loss of one row, None where it raises."""
    try:
        return loss(model, row)
    except Exception:
        return None


def examples(model: Any, loss: Loss, rows: Sequence[Row], clip_norm: float = C) -> Tensor:
    """Return the clipped sum over single rows; one that raises adds nothing."""
    values = [works(loss, model, row) for row in rows]
    return torch.stack([clipped(model, value[0], clip_norm) for value in values if value is not None]).sum(0)


def groups(model: Any, loss: Loss, rows: Sequence[Row], size: int) -> Tensor:
    """Return the clipped sum over groups of `size` rows, each the mean of its rows' losses; those that raise, or are
    not finite, count as zero.
    """
    total = torch.zeros(sum(p.numel() for p in model.parameters() if p.requires_grad), dtype=torch.float64)
    for start in range(0, len(rows), size):
        values = [works(loss, model, row) for row in rows[start : start + size]]
        fit = [value[0] for value in values if value is not None and bool(value.isfinite())]
        total += clipped(model, torch.stack(fit).sum() / len(rows[start : start + size])) if fit else 0.0
    return total


def pairs(model: Any, embed: Loss, loss: Any, given: Sequence[Row]) -> Tensor:
    """Return the published recipe: the gradient of every similarity of rows that do not raise, clipped and weighted."""
    made = [works(embed, model, row) for row in given]
    fit = [sides for sides in made if sides is not None and all(bool(side.isfinite().all()) for side in sides)]
    u, v = (torch.cat(side) for side in zip(*fit, strict=True))
    z = u @ v.mT
    leaf = z.detach().requires_grad_()
    (weights,) = torch.autograd.grad(contrast.rows(loss, leaf, torch.ones_like(z, dtype=torch.bool)).sum(), leaf)
    found = [weights[i, j].double() * clipped(model, z[i, j]) for i in range(len(z)) for j in range(len(z))]
    return torch.stack(found).sum(0)


def close(found: Tensor, wanted: Tensor, dtype: torch.dtype) -> bool:
    return bool((found.cpu() - wanted).norm() <= TOLERANCE[dtype] * max(float(wanted.norm()), C))
