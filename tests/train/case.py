"""One small run for all tests of this room: a model with dropout, a data set with bad rows, a plan of eight steps."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import sfumato as sf
from sfumato.train import PrivateGradients, loader

NUM_RECORDS = 60
STEPS = 8
MICRO_BATCH = 4


def make_model(seed: int = 0, dropout: float = 0.1) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Linear(6, 8), nn.Dropout(dropout), nn.Tanh(), nn.Linear(8, 8), nn.LayerNorm(8), nn.Linear(8, 3)
        )


def loss_fn(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    inputs, labels = batch
    return F.cross_entropy(model(inputs), labels, reduction="none")


@dataclass
class Records:
    """Rows with random augmentation by the global generators; rows in `broken` cannot be read."""

    size: int = NUM_RECORDS
    broken: Sequence[int] = ()
    name: str = "records"
    owners: list[np.ndarray] | None = None
    seen: list[int] = field(default_factory=list)

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        self.seen.append(index)
        if index in self.broken:
            raise OSError(f"row {index} quotes something private")
        fixed = torch.from_numpy(np.random.default_rng(index).standard_normal(6)).float()
        return fixed + 0.1 * torch.randn(6), index % 3

    def manifest(self) -> dict[str, Any]:
        return {"name": self.name}


def make_plan(**changes: Any) -> sf.Plan:
    settings: dict[str, Any] = {
        "unit": sf.Example(clip_norm=1.0),
        "sampler": sf.Poisson(num_records=NUM_RECORDS, expected_batch_size=10),
        "steps": STEPS,
        "delta": 1e-4,
        "noise_multiplier": 1.0,
    }
    return sf.Plan(**{**settings, **changes})


def two_views(model: nn.Module, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """A row and the same row backwards, through one encoder with dropout."""
    inputs, _ = batch
    return F.normalize(model(inputs), dim=1), F.normalize(model(inputs.flip(1)), dim=1)


INFONCE = sf.InfoNCE(temperature=0.5)
COUPLED: dict[str, dict[str, Any]] = {  # settings of Run under losses that couple rows
    "batch": {"plan": make_plan(unit=sf.Group(clip_norm=1.0, num_groups=1))},
    "groups": {"plan": make_plan(unit=sf.Group(clip_norm=1.0, num_groups=4)), "micro_batch_size": 6},
    "views": {"plan": make_plan(unit=sf.Group(clip_norm=1.0, num_groups=5, views=2)), "micro_batch_size": 12},
    "pairs": {"plan": make_plan(unit=sf.Pair(clip_norm=1.0, loss=INFONCE, norms="bound"))},
}
for _settings in COUPLED.values():
    _settings["loss"] = sf.Contrast(embed=two_views, loss=INFONCE)
COUPLED |= {  # rows of a loss of their own that are clipped together
    "rows in one group": {"plan": make_plan(unit=sf.Group(clip_norm=1.0, num_groups=1))},
    "rows in groups": {"plan": make_plan(unit=sf.Group(clip_norm=1.0, num_groups=4)), "micro_batch_size": 6},
    "several rows": {"plan": make_plan(unit=sf.Example(clip_norm=1.0, views=2)), "micro_batch_size": 6},
}


@dataclass
class Run:
    """Model, optimizer and private gradients of one run, as a user's own loop would hold them."""

    out: Path
    dataset: Any = field(default_factory=Records)
    plan: sf.Plan = field(default_factory=make_plan)
    lr: float = 0.05
    model_seed: int = 0
    num_workers: int = 0
    micro_batch_size: int = MICRO_BATCH
    options: dict[str, Any] = field(default_factory=lambda: {"seed": 1})
    dropout: float = 0.1
    loss: Any = loss_fn

    def __post_init__(self) -> None:
        self.model = make_model(self.model_seed, self.dropout)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=self.lr)
        self.private = PrivateGradients(
            self.model, self.loss, self.plan, out=self.out, optimizer=self.optimizer, **self.options
        )

    def loader(self) -> sf.train.Loader:
        return loader(self.dataset, self.private, micro_batch_size=self.micro_batch_size, num_workers=self.num_workers)

    def train(self, until: int = STEPS, save_at: Sequence[int] = ()) -> list[dict[str, Tensor]]:
        """Run to step `until`; return the released gradients of each step done here."""
        released = []
        for step, micro_batches in self.loader():
            if step >= until:
                break
            self.private.backward(step, micro_batches)
            released.append({n: p.grad.clone() for n, p in self.model.named_parameters() if p.grad is not None})
            self.optimizer.step()
            self.optimizer.zero_grad()
            if step + 1 in save_at:
                self.private.save(self.optimizer)
        return released

    def __enter__(self) -> "Run":
        return self

    def __exit__(self, *_: object) -> None:
        self.private.close()


def bits(model: nn.Module) -> str:
    """A hash of the weights."""
    total = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        total.update(name.encode() + tensor.numpy().tobytes())
    return total.hexdigest()


def whole_run(out: Path, **changes: Any) -> str:
    """Train without interruption and return the hash of the final weights."""
    with Run(out, **changes) as run:
        run.train()
        return bits(run.model)
