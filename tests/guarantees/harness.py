"""Runs through the real loader and the real step, with everything random held fixed: what the guarantee checks share.

Neighbouring data sets get one seed, one fingerprint and constant weights, so that whatever moves between two runs moves
because of the record in which they differ.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tests.once import certified_once
from torch import Tensor, nn

import sfumato as sf
from sfumato.train import PrivateGradients, loader

NUM_RECORDS = 24
CLIP_NORM = 0.5
WIDTH = 5
_fresh = itertools.count()


class Unreadable:
    """A row whose reading fails: the record that contributes nothing."""


Row = tuple[Tensor, Tensor] | Unreadable


@dataclass(frozen=True)
class Table:
    """A data set of given rows. Its manifest does not tell neighbours apart."""

    rows: Sequence[Row]
    owners: list[np.ndarray] | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        row = self.rows[index]
        if isinstance(row, Unreadable):
            raise OSError("unreadable")
        return row

    def manifest(self) -> dict[str, Any]:
        return {"name": "table"}

    def with_row(self, index: int, row: Row) -> "Table":
        return replace(self, rows=[*self.rows[:index], row, *self.rows[index + 1 :]])


def make_row(seed: int, scale: float = 1.0) -> tuple[Tensor, Tensor]:
    values = torch.from_numpy(np.random.default_rng(seed).standard_normal((2, WIDTH))).float()
    return values[0], values[1] * scale


def make_table(num_records: int = NUM_RECORDS) -> Table:
    """Rows of which some are clipped and some are not."""
    return Table([make_row(i, scale=(0.001, 0.1, 10.0)[i % 3]) for i in range(num_records)])


def make_model() -> nn.Sequential:
    """Two layers of equal shapes: a key that forgets the parameter's name gives both the same noise."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh(), nn.Linear(WIDTH, WIDTH))


def loss_fn(model: nn.Module, batch: Sequence[Tensor]) -> Tensor:
    """Linear in the row's target: the opposite target gives the opposite gradient."""
    inputs, targets = batch
    return (model(inputs) * targets).sum(dim=1)


def poisson(expected: float = 8.0, num_records: int = NUM_RECORDS) -> sf.Poisson:
    return sf.Poisson(num_records=num_records, expected_batch_size=expected)


def make_plan(**changes: Any) -> sf.Plan:
    settings: dict[str, Any] = {
        "unit": sf.Example(clip_norm=CLIP_NORM),
        "sampler": poisson(),
        "steps": 16,  # enough for small and for large draws that hold the record in question
        "delta": 1e-3,
        "noise_multiplier": 0.0,
    }
    return sf.Plan(**{**settings, **changes})


@dataclass
class Outcome:
    """What one run showed: the sum before noise and the released gradient of each step, flat, in float64."""

    sums: list[Tensor]
    released: list[Tensor]
    plan: sf.Plan

    @property
    def seen_sums(self) -> list[Tensor]:
        """The sums as an adversary meets them: released gradients, times the public divisor."""
        return [grad * self.plan.divisor for grad in self.released]

    @property
    def noise(self) -> list[Tensor]:
        """What was added to each sum."""
        return [seen - total for seen, total in zip(self.seen_sums, self.sums, strict=True)]


def flat(tensors: dict[str, Tensor]) -> Tensor:
    return torch.cat([tensors[name].double().flatten() for name in sorted(tensors)])


class Recorded(PrivateGradients):
    """Keeps the clipped sum of each step, which never leaves the real class."""

    def _clip(self, *args: Any) -> Any:
        found = super()._clip(*args)
        self.clipped = flat(dict(found[0].sums))
        return found


def run(
    dataset: Any,
    folder: Path,
    plan: sf.Plan | None = None,
    *,
    micro_batch_size: int = 4,
    out: Path | None = None,
    lr: float = 0.1,
    model: nn.Module | None = None,
    loss: Any = None,
    **options: Any,
) -> Outcome:
    """Run all steps of the plan with constant weights through loader and step."""
    plan, model = plan or make_plan(), model or make_model()
    outcome = Outcome([], [], plan)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    options = {"seed": 7, "optimizer": optimizer, "out": out or folder / f"run-{next(_fresh)}", **options}
    with certified_once(str(folder)), Recorded(model, loss or loss_fn, plan, **options) as private:
        for step, micro_batches in loader(dataset, private, micro_batch_size=micro_batch_size):
            private.backward(step, micro_batches)
            outcome.sums.append(private.clipped)
            outcome.released.append(flat({n: p.grad for n, p in model.named_parameters() if p.grad is not None}))
    return outcome
