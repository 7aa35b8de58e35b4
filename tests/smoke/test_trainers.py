"""Other trainers around a private step: one process, two processes, killed and resumed, and what is refused there."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from tests.smoke import trainers
from tests.smoke.test_recipes import free_port

import sfumato as sf
from sfumato.base import BadInput, ledger
from sfumato.train import PrivateGradients, fingerprint

pytestmark = pytest.mark.filterwarnings(trainers.LIGHTNING_WARNS)
ROOT = Path(__file__).parents[2]
ALONE = {"accelerate": trainers.accelerate_run, "lightning": trainers.lightning_run}


def _charged(out):
    return len(ledger.read(out / "private/ledger.jsonl").steps)


@pytest.fixture(autouse=True)
def fresh_accelerate():
    """Accelerate keeps its settings in the process."""
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trainers")
    command = [
        sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-addr", "127.0.0.1",
        "--master-port", str(free_port()), "-m", "tests.smoke.trainers", str(folder),
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, cwd=folder)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder, [json.loads((folder / f"rank-{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.parametrize("name", ["accelerate", "lightning", "transformers"])
def test_both_ranks_hold_the_same_weights_and_one_ledger(both, name):
    folder, (one, two) = both
    assert one[name] == two[name]
    assert _charged(folder / name) == trainers.STEPS


@pytest.mark.parametrize("name", ALONE)
def test_two_processes_compute_what_one_does(both, name, tmp_path, monkeypatch):
    monkeypatch.setattr(fingerprint, "surrounding_fields", trainers.no_surroundings)
    model = ALONE[name](tmp_path, trainers.make_plan())
    for key, value in model.state_dict().items():
        torch.testing.assert_close(torch.tensor(both[1][0][name][key]), value, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ALONE)
def test_killed_and_resumed_equals_uninterrupted(name, tmp_path, monkeypatch):
    plan = trainers.make_plan(noise_multiplier=1.0, steps=13)
    whole = trainers.weights(ALONE[name](tmp_path / "whole", plan))
    real = PrivateGradients.backward

    def killed(private, step, micro_batches):
        real(private, step, micro_batches)
        if step == 11:
            raise OSError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(PrivateGradients, "backward", killed)
        with pytest.raises(OSError, match="killed"):
            ALONE[name](tmp_path / "cut", plan)
    assert trainers.weights(ALONE[name](tmp_path / "cut", plan)) == whole
    assert _charged(tmp_path / "cut") == 13
    computed = (tmp_path / "cut/private/log.jsonl").read_text().splitlines()
    assert len(computed) == 12 + 3, "it went on from the checkpoint at step 10"


# ---------------------------------------------------------------- transformers


def _clip_loss(model, batch):
    ids = torch.stack([batch["labels"], torch.full_like(batch["labels"], 9)], dim=1)
    out = model(pixel_values=batch["pixel_values"], input_ids=ids, attention_mask=torch.ones_like(ids))
    return F.normalize(out.image_embeds, dim=1), F.normalize(out.text_embeds, dim=1)


def test_transformers_trainer_with_a_clip_model(tmp_path):
    """Rows meet in the loss, groups are clipped: the same Trainer."""
    from transformers import CLIPConfig, CLIPModel

    size = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {**size, "vocab_size": 40, "max_position_embeddings": 4, "eos_token_id": 9, "bos_token_id": 1}
    config = CLIPConfig(text_config=text, vision_config={**size, "image_size": 32, "patch_size": 16}, projection_dim=8)
    torch.manual_seed(0)
    model = CLIPModel(config)
    model.logit_scale.requires_grad_(False)  # the temperature is InfoNCE's
    before = model.text_projection.weight.clone()
    plan = trainers.make_plan(noise_multiplier=1.0, unit=sf.Group(clip_norm=1.0, num_groups=2))
    contrast = sf.Contrast(embed=_clip_loss, loss=sf.InfoNCE(temperature=0.1))
    trainers.transformers_run(tmp_path, plan, model, loss_fn=contrast)
    assert _charged(tmp_path) == trainers.STEPS
    assert not torch.equal(model.text_projection.weight, before)


@pytest.mark.parametrize(
    ("settings", "message", "charged"),
    [
        ({"gradient_accumulation_steps": 2}, "Set its accumulation to 1", 4),
        ({"bf16": True}, r"autocast of its own by accelerator.prepare", 0),
    ],
    ids=["accumulation", "bf16"],
)
def test_transformers_settings_that_undo_a_private_step_are_refused(tmp_path, settings, message, charged):
    plan = trainers.make_plan(noise_multiplier=1.0, steps=6)
    with pytest.raises(BadInput, match=message):
        trainers.transformers_run(tmp_path, plan, **settings)
    assert _charged(tmp_path) <= charged


# ---------------------------------------------------------------- Lightning


@pytest.mark.parametrize("settings", [{"gradient_clip_val": 1.0}, {"accumulate_grad_batches": 2}])
def test_lightning_refuses_what_manual_optimization_has_not(tmp_path, settings):
    from lightning.pytorch.utilities.exceptions import MisconfigurationException

    with pytest.raises(MisconfigurationException, match="not supported for manual optimization"):
        trainers.lightning_run(tmp_path / "run", trainers.make_plan(), **settings)
    assert not (tmp_path / "run").exists()


def test_an_autocast_of_lightning_is_refused(tmp_path):
    with pytest.raises(BadInput, match=r"inside torch.autocast"):
        trainers.lightning_run(tmp_path, trainers.make_plan(), precision="bf16-mixed")
    assert _charged(tmp_path) == 0


def test_lightning_shows_no_loss(tmp_path):
    from lightning.pytorch.callbacks import Callback

    class Seen(Callback):
        shown = ()

        def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
            self.shown += (outputs, dict(trainer.callback_metrics), dict(trainer.progress_bar_metrics))

    seen = Seen()
    trainers.lightning_run(tmp_path, trainers.make_plan(noise_multiplier=1.0), callbacks=[seen])
    assert len(seen.shown) == 3 * trainers.STEPS
    assert not any(seen.shown)


@pytest.mark.parametrize(
    ("automatic", "message"),
    [(True, r"optimizer.step\(\) without .*automatic_optimization = False"), (False, r"loss.backward\(\) reached")],
    ids=["automatic", "manual_backward"],
)
def test_a_raw_loss_under_lightning_is_refused(tmp_path, automatic, message):
    module = trainers.example("lightning_module")
    dataset = module.Pictures(trainers.RECORDS)

    class Raw(module.PrivateModule):
        def training_step(self, batch, batch_idx):
            loss = module.loss_fn(self.model, (torch.zeros(2, 3, 16, 16), torch.zeros(2, dtype=torch.long))).mean()
            return loss if automatic else self.manual_backward(loss)

    model = trainers.seeded_model(module, len(dataset.rows.class_names))
    private = Raw(model, dataset, trainers.make_plan(), tmp_path)
    private.automatic_optimization = automatic
    quiet = {"logger": False, "enable_checkpointing": False, "enable_model_summary": False}
    trainer = module.lightning.Trainer(max_epochs=1, accelerator="cpu", enable_progress_bar=False, **quiet)
    before = trainers.weights(model)
    with pytest.raises(BadInput, match=message):
        trainer.fit(private)
    private.private.close()
    assert trainers.weights(model) == before


def test_a_checkpoint_of_lightning_alone_is_a_conflict(tmp_path):
    """It holds weights, and no ledger: its first step does not come out as it was charged."""
    plan = trainers.make_plan(noise_multiplier=1.0)
    trained = trainers.lightning_run(tmp_path, plan).state_dict()
    shutil.rmtree(tmp_path / "private/checkpoints")
    real = trainers.seeded_model
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainers, "seeded_model", lambda *given: _loaded(real(*given), trained))
        with pytest.raises(BadInput, match=r"step 0 was already charged, and does not come out the same"):
            trainers.lightning_run(tmp_path, plan)
    assert _charged(tmp_path) == trainers.STEPS


def _loaded(model, state):
    model.load_state_dict(state)
    return model


# ---------------------------------------------------------------- Accelerate


def test_what_accelerate_prepares_is_refused_or_left_alone(tmp_path):
    from accelerate import Accelerator

    module = trainers.example("accelerate_loop")
    dataset, accelerator = module.Pictures(trainers.RECORDS), Accelerator(cpu=True, mixed_precision="bf16")
    model = trainers.seeded_model(module, len(dataset.rows.class_names))
    optimizer = accelerator.prepare(torch.optim.SGD(model.parameters(), lr=0.1))
    plan = trainers.make_plan(noise_multiplier=1.0)
    with PrivateGradients(model, module.loss_fn, plan, out=tmp_path / "run", optimizer=optimizer) as private:
        batches = sf.loader(dataset, private, micro_batch_size=8)
        assert accelerator.prepare(batches) is batches
        step, drawn = next(iter(batches))
        with accelerator.autocast(), pytest.raises(BadInput, match=r"inside torch.autocast"):
            private.backward(step, drawn)
        private.backward(step, drawn)
        optimizer.step()
        with pytest.raises(BadInput, match=r"loss.backward\(\)"):
            accelerator.backward(model(torch.zeros(1, 3, 16, 16)).sum())
    with pytest.raises(BadInput, match=r"accelerator.prepare"):
        PrivateGradients(accelerator.prepare(model), module.loss_fn, plan, out=tmp_path / "prepared")


def test_rows_that_accelerate_draws_are_refused(tmp_path):
    from accelerate import Accelerator
    from torch.utils.data import DataLoader

    module = trainers.example("accelerate_loop")
    dataset = module.Pictures(trainers.RECORDS)
    model = trainers.seeded_model(module, len(dataset.rows.class_names))
    plan = trainers.make_plan(noise_multiplier=1.0)
    with PrivateGradients(model, module.loss_fn, plan, out=tmp_path) as private:
        sf.loader(dataset, private, micro_batch_size=8)
        rows = next(iter(Accelerator(cpu=True).prepare(DataLoader(dataset, batch_size=8))))
        with pytest.raises(BadInput, match="not drawn for this step"):
            private.backward(0, [rows])
        assert _charged(tmp_path) == 0


def test_fp16_is_refused_by_the_accelerate_example(tmp_path):
    module = trainers.example("accelerate_loop")
    with pytest.raises(BadInput, match="mixed_precision is no or bf16"):
        module.train(SimpleNamespace(mixed_precision="fp16"), None, None, None, tmp_path)
