"""transformers' Trainer with a private step: callbacks, schedules and logging stay; the gradient is the released one.

    python examples/hf_trainer.py runs/hf

Three methods are overridden. `get_train_dataloader` gives the loader that is accounted; `training_step` sets the
released gradient; and the loss that the Trainer would log is kept at zero, because a training loss is an un-noised
function of private records. Gradient accumulation has no place here: a logical batch of any size is one step.

CLIP trains by the same class: the plan's unit is then a Group, and `loss_fn` a Contrast (examples/contrastive.py).
"""

import logging
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import Trainer, TrainingArguments, ViTConfig, ViTForImageClassification

import sfumato as sf
from sfumato.data import shapes

log = logging.getLogger("hf_trainer")
NUM_RECORDS = 1_000


class Pictures:
    """Rows in the form that the model takes."""

    def __init__(self, num_records: int) -> None:
        self.rows = shapes(num_records, image_size=32, scenes="single")

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        row = self.rows[index]
        pixels = torch.from_numpy(np.ascontiguousarray(row["image"])).permute(2, 0, 1).float() / 127.5 - 1.0
        return {"pixel_values": pixels, "labels": row["label"]}

    def manifest(self) -> dict[str, Any]:
        return self.rows.manifest()


def loss_fn(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """One value per example; the model's own loss is a mean over the batch, so it is not asked for one."""
    logits = model(pixel_values=batch["pixel_values"]).logits
    return F.cross_entropy(logits, batch["labels"], reduction="none")


class PrivateTrainer(Trainer):
    """A Trainer whose step is private. The optimizer is given, so that it is part of the run's fingerprint."""

    def __init__(self, *args: Any, plan: sf.Plan, loss_fn: Any, micro_batch_size: int, **options: Any) -> None:
        super().__init__(*args, **options)
        self.micro_batch_size = micro_batch_size
        self.private = sf.PrivateGradients(
            self.model, loss_fn, plan, out=Path(self.args.output_dir), optimizer=self.optimizer
        )

    def get_train_dataloader(self) -> Any:
        return sf.loader(self.train_dataset, self.private, micro_batch_size=self.micro_batch_size)

    def training_step(self, model: nn.Module, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        model.train()
        step, micro_batches = inputs
        self.private.backward(step, micro_batches)
        return torch.zeros((), device=self.args.device)

    def floating_point_ops(self, inputs: Any) -> int:
        return 0  # would count the rows of the batch, which is private


def main(out: Path, steps: int = 20, num_records: int = NUM_RECORDS) -> float:
    dataset = Pictures(num_records)
    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        image_size=32,
        patch_size=8,
        num_labels=len(dataset.rows.class_names),
    )
    model = ViTForImageClassification(config)
    plan = sf.Plan(
        unit=sf.Example(clip_norm=1.0),
        sampler=sf.Poisson(num_records=num_records, expected_batch_size=num_records / 10),
        steps=steps,
    ).calibrated(epsilon=8.0)
    arguments = TrainingArguments(
        output_dir=str(out),
        max_steps=plan.steps,
        max_grad_norm=0.0,  # the released gradient may be clipped again, but need not
        save_strategy="no",
        report_to=[],
        use_cpu=not torch.cuda.is_available(),
        disable_tqdm=True,
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    private = {"plan": plan, "loss_fn": loss_fn, "micro_batch_size": 32}
    trainer = PrivateTrainer(model, arguments, train_dataset=dataset, optimizers=(optimizer, None), **private)
    trainer.train()
    log.info("(%.2f, %.1e)-differentially private", trainer.private.epsilon, plan.delta)
    trainer.private.close()
    return trainer.private.epsilon


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/hf"))
