"""A LightningModule with a private step: devices, processes, loops, callbacks and loggers stay Lightning's.

    python examples/lightning_module.py runs/lightning

Optimization is manual, so that Lightning calls no `backward` of its own: it refuses `gradient_clip_val` and
`accumulate_grad_batches` by itself, and an autocast (`precision="bf16-mixed"`) is refused by `private.backward`. One
epoch is the whole plan: the loader gives the steps that are left. `training_step` returns no loss and logs none: the
loss of private records is an un-noised function of them.
"""

import logging
import sys
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import sfumato as sf
from sfumato.data import shapes
from sfumato.train import warmup_cosine

log = logging.getLogger("lightning_module")
NUM_RECORDS = 1_000


class Pictures:
    """Any map-style data set."""

    def __init__(self, num_records: int) -> None:
        self.rows = shapes(num_records, image_size=16, scenes="single")

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        row = self.rows[index]
        pixels = torch.from_numpy(np.ascontiguousarray(row["image"])).permute(2, 0, 1).float()
        return pixels / 127.5 - 1.0, row["label"]

    def manifest(self) -> dict[str, Any]:
        return self.rows.manifest()


def make_model(num_classes: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 16, 4, stride=2), nn.GroupNorm(4, 16), nn.GELU(), nn.Flatten(), nn.Linear(16 * 49, num_classes)
    )


def loss_fn(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """One value per example: reduction="none"."""
    images, labels = batch
    return F.cross_entropy(model(images), labels, reduction="none")


class PrivateModule(lightning.LightningModule):
    """Trains `model` under `plan`; the same program again resumes."""

    def __init__(self, model: nn.Module, dataset: Any, plan: sf.Plan, out: Path, seed: int | None = None) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.model, self.dataset, self.plan, self.out, self.seed = model, dataset, plan, out, seed

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.model.parameters(), lr=3e-3)
        return [optimizer], [warmup_cosine(optimizer, warmup_steps=self.plan.steps // 10, total_steps=self.plan.steps)]

    def on_fit_start(self) -> None:
        """By now the model is on its device, and all processes have met."""
        optimizer = self.optimizers().optimizer
        self.private = sf.PrivateGradients(
            self.model, loss_fn, self.plan, out=self.out, optimizer=optimizer, seed=self.seed
        )
        self.private.load(optimizer, self.lr_schedulers())

    def train_dataloader(self) -> Any:
        return sf.loader(self.dataset, self.private, micro_batch_size=32)

    def training_step(self, batch: tuple[int, sf.train.DrawnBatch], batch_idx: int) -> None:
        step, micro_batches = batch
        optimizer, scheduler = self.optimizers(), self.lr_schedulers()
        self.private.backward(step, micro_batches)  # in place of self.manual_backward(loss)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
        if self.private.step % 10 == 0 or self.private.step == self.plan.steps:
            self.private.save(optimizer.optimizer, scheduler)  # Lightning's own checkpoints know no ledger

    def on_fit_end(self) -> None:
        self.private.close()


def main(out: Path, steps: int = 30, num_records: int = NUM_RECORDS) -> float:
    dataset = Pictures(num_records)
    torch.manual_seed(0)
    model = make_model(len(dataset.rows.class_names))
    sampler = sf.Poisson(num_records=num_records, expected_batch_size=num_records / 10)
    plan = sf.Plan(unit=sf.Example(clip_norm=1.0), sampler=sampler, steps=steps).calibrated(epsilon=8.0)
    module = PrivateModule(model, dataset, plan, out)
    trainer = lightning.Trainer(max_epochs=1, logger=False, enable_checkpointing=False, enable_model_summary=False)
    trainer.fit(module)
    log.info("(%.2f, %.1e)-differentially private", module.private.epsilon, plan.delta)
    return module.private.epsilon


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/lightning"))
