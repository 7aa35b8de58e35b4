"""An Accelerate script with a private step: devices, processes and evaluation stay Accelerate's.

    python examples/accelerate_loop.py runs/accelerate
    accelerate launch --num_processes 2 examples/accelerate_loop.py runs/accelerate      # on CPU: torchrun

Model, optimizer, scheduler and training loader are not given to `accelerator.prepare`: it would wrap the model to
average gradients over processes, and step the schedule once per process. Here the loader shares out one draw, and
`private.backward`, in place of `accelerator.backward`, adds the clipped sums of all processes up. Gradient accumulation
is not needed: a logical batch of any size is one step, in the memory of one micro-batch.
"""

import logging
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils.data import DataLoader

import sfumato as sf
from sfumato.data import shapes
from sfumato.train import warmup_cosine

log = logging.getLogger("accelerate_loop")
NUM_RECORDS = 2_000
AUTOCAST = {"no": None, "bf16": torch.bfloat16}  # fp16 comes with a scale that moves with un-noised gradients


class Pictures:
    """Any map-style data set."""

    def __init__(self, num_records: int, seed: int = 0) -> None:
        self.rows = shapes(num_records, seed=seed, image_size=16, scenes="single")

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


def train(
    accelerator: Accelerator, model: nn.Module, dataset: Any, plan: sf.Plan, out: Path, seed: int | None = None
) -> sf.PrivateGradients:
    """Train `model`; the same call again resumes. What is returned knows the ledger."""
    if accelerator.mixed_precision not in AUTOCAST:
        raise sf.BadInput(f"mixed_precision is no or bf16 here, got {accelerator.mixed_precision}.")
    model.to(accelerator.device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    scheduler = warmup_cosine(optimizer, warmup_steps=plan.steps // 10, total_steps=plan.steps)
    autocast = AUTOCAST[accelerator.mixed_precision]
    with sf.PrivateGradients(
        model, loss_fn, plan, out=out, optimizer=optimizer, autocast=autocast, seed=seed
    ) as private:
        private.load(optimizer, scheduler)
        for step, micro_batches in sf.loader(dataset, private, micro_batch_size=32):
            private.backward(step, micro_batches)  # in place of accelerator.backward(loss)
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
            if private.step % 10 == 0 or private.step == plan.steps:
                private.save(optimizer, scheduler)
        return private


@torch.no_grad()
def accuracy(accelerator: Accelerator, model: nn.Module, dataset: Any) -> float:
    """Public pictures are evaluated as ever, over all processes."""
    model.eval()
    right = []
    for images, labels in accelerator.prepare(DataLoader(dataset, batch_size=64)):
        right.append(accelerator.gather_for_metrics((model(images).argmax(1) == labels).float()))
    return float(torch.cat(right).mean())


def main(out: Path, steps: int = 60, num_records: int = NUM_RECORDS) -> float:
    accelerator = Accelerator()
    dataset = Pictures(num_records)
    torch.manual_seed(0)
    model = make_model(len(dataset.rows.class_names))
    sampler = sf.Poisson(num_records=num_records, expected_batch_size=num_records / 8)
    plan = sf.Plan(unit=sf.Example(clip_norm=1.0), sampler=sampler, steps=steps).calibrated(epsilon=8.0)
    epsilon = train(accelerator, model, dataset, plan, out).epsilon
    found = accuracy(accelerator, model, Pictures(200, seed=1))
    if accelerator.is_main_process:
        log.info("accuracy %.2f, (%.2f, %.1e)-differentially private", found, epsilon, plan.delta)
    return epsilon


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/accelerate"))
