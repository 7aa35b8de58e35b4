"""Your own model, your own loss, your own loop: differential privacy in four lines of a plain PyTorch script.

    python examples/own_model_own_loop.py runs/own

Run it again after an interruption: it resumes, and what was released before comes out again bit for bit, at no charge.
The model is an image classifier, but any nn.Module and any loss of one value per example will do.
"""

import logging
import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import sfumato as sf
from sfumato.data import shapes
from sfumato.train import warmup_cosine

log = logging.getLogger("own_model_own_loop")
NUM_RECORDS = 2_000


class Pictures:
    """Any map-style data set. `draw` is optional: a row augmented by the run's own generator."""

    def __init__(self, num_records: int) -> None:
        self.rows = shapes(num_records, image_size=32, scenes="single")

    def __len__(self) -> int:
        return len(self.rows)

    def draw(self, index: int, rng: np.random.Generator) -> tuple[Tensor, int]:
        image, label = self[index]
        return image.roll(tuple(rng.integers(-2, 3, size=2).tolist()), dims=(1, 2)), label

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        row = self.rows[index]
        return torch.from_numpy(row["image"]).permute(2, 0, 1).float() / 127.5 - 1.0, row["label"]

    def manifest(self) -> dict[str, object]:
        return self.rows.manifest()


def make_model(num_classes: int) -> nn.Module:
    """No BatchNorm: it mixes the rows of a batch, so no row's gradient would be its own. GroupNorm does not."""
    return nn.Sequential(
        nn.Conv2d(3, 16, 5, stride=4),
        nn.GroupNorm(4, 16),
        nn.GELU(),
        nn.Conv2d(16, 32, 3, stride=2),
        nn.GroupNorm(4, 32),
        nn.GELU(),
        nn.Flatten(),
        nn.Linear(32 * 9, num_classes),
    )


def loss_fn(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """One value per example: reduction="none"."""
    images, labels = batch
    return F.cross_entropy(model(images), labels, reduction="none")


def main(out: Path, steps: int = 60, num_records: int = NUM_RECORDS) -> float:
    dataset = Pictures(num_records)
    torch.manual_seed(0)
    model = make_model(len(dataset.rows.class_names))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    scheduler = warmup_cosine(optimizer, warmup_steps=steps // 10, total_steps=steps)

    plan = sf.Plan(
        unit=sf.Example(clip_norm=1.0),
        sampler=sf.Poisson(num_records=num_records, expected_batch_size=num_records / 8),
        steps=steps,
    ).calibrated(epsilon=8.0)
    log.info("noise multiplier %.3f for epsilon 8 at delta %.1e", plan.noise_multiplier, plan.delta)

    with sf.PrivateGradients(model, loss_fn, plan, out=out, optimizer=optimizer) as private:
        private.load(optimizer, scheduler)
        for step, micro_batches in sf.loader(dataset, private, micro_batch_size=32):
            private.backward(step, micro_batches)  # p.grad = the released gradient
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
            if private.step % 20 == 0 or private.step == steps:
                private.save(optimizer, scheduler)
        log.info("(%.2f, %.1e)-differentially private after %d steps", private.epsilon, plan.delta, private.step)
        return private.epsilon


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/own"))
