"""The examples of other trainers on several ranks; started by test_trainers.py under torchrun.

usage: torchrun --nproc-per-node 2 -m tests.smoke.trainers FOLDER
"""

import importlib.util
import json
import sys
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

import sfumato as sf
from sfumato.train import fingerprint

EXAMPLES = Path(__file__).parents[2] / "examples"
RECORDS, STEPS = 60, 3
LIGHTNING_WARNS = (  # Lightning 2.6 beside torch 2.15
    "ignore:.*treespec, LeafSpec.*is deprecated:FutureWarning:lightning.pytorch.utilities._pytree"
)


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def make_plan(noise_multiplier: float = 0.0, steps: int = STEPS, **changes: Any) -> sf.Plan:
    """Without noise, to compare with one process: there the noise would differ, as sums differ in their last bits."""
    settings: dict[str, Any] = {
        "unit": sf.Example(clip_norm=1.0),
        "sampler": sf.Poisson(num_records=RECORDS, expected_batch_size=RECORDS / 6),
        "steps": steps,
        "noise_multiplier": noise_multiplier,
    }
    return sf.Plan(**{**settings, **changes})


def seeded_model(module: ModuleType, num_classes: int) -> nn.Module:
    torch.manual_seed(0)
    return module.make_model(num_classes)


def accelerate_run(out: Path, plan: sf.Plan) -> nn.Module:
    module = example("accelerate_loop")
    dataset, accelerator = module.Pictures(RECORDS), module.Accelerator(cpu=True)
    model = seeded_model(module, len(dataset.rows.class_names))
    module.train(accelerator, model, dataset, plan, out, seed=1)
    module.accuracy(accelerator, model, module.Pictures(10, seed=1))
    return model


def lightning_run(out: Path, plan: sf.Plan, callbacks: Any = None, **settings: Any) -> nn.Module:
    module = example("lightning_module")
    dataset = module.Pictures(RECORDS)
    model = seeded_model(module, len(dataset.rows.class_names))
    private = module.PrivateModule(model, dataset, plan, out, seed=1)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_model_summary": False}
    settings = {"max_epochs": 1, "accelerator": "cpu", "enable_progress_bar": False, **quiet, **settings}
    try:
        module.lightning.Trainer(callbacks=callbacks, **settings).fit(private)
    finally:
        if hasattr(private, "private"):
            private.private.close()
    return model


def transformers_run(
    out: Path, plan: sf.Plan, model: Any = None, dataset: Any = None, loss_fn: Any = None, **settings: Any
) -> nn.Module:
    module = example("hf_trainer")
    dataset = dataset or module.Pictures(RECORDS)
    torch.manual_seed(0)
    model = model or module.ViTForImageClassification(
        module.ViTConfig(
            hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=32,
            patch_size=16, num_labels=len(dataset.rows.class_names),
        )
    )  # fmt: skip
    arguments = module.TrainingArguments(
        output_dir=str(out), max_steps=plan.steps, max_grad_norm=0.0, save_strategy="no", report_to=[], use_cpu=True,
        disable_tqdm=True, **settings,
    )  # fmt: skip
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    trainer = module.PrivateTrainer(
        model, arguments, train_dataset=dataset, optimizers=(optimizer, None), plan=plan,
        loss_fn=loss_fn or module.loss_fn, micro_batch_size=8,
    )  # fmt: skip
    try:
        trainer.train()
    finally:
        trainer.private.close()
    return model


def no_surroundings(device: torch.device, world_size: int) -> dict[str, Any]:
    """In the place of `fingerprint.surrounding_fields`: one process is to draw what two draw."""
    return {}


def weights(model: nn.Module) -> dict[str, Any]:
    return {name: value.tolist() for name, value in model.state_dict().items()}


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    results = {
        "accelerate": weights(accelerate_run(folder / "accelerate", make_plan())),
        "lightning": weights(
            lightning_run(folder / "lightning", make_plan(), devices=dist.get_world_size(), strategy="ddp")
        ),
        "transformers": weights(transformers_run(folder / "transformers", make_plan(noise_multiplier=1.0))),
    }
    (folder / f"rank-{dist.get_rank()}.json").write_text(json.dumps(results))
    dist.destroy_process_group()


if __name__ == "__main__":
    warnings.simplefilter("ignore")  # of the trainers; in one process they are errors
    fingerprint.surrounding_fields = no_surroundings
    main(Path(sys.argv[1]))
