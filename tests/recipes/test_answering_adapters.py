"""dp-vlm: small checkpoints of two architectures through LoRA; what is handed on loads in plain peft."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from tests.recipes.asked import TINY, build_table, card_of, checkpoint, of_table, small, words

from sfumato import data
from sfumato.base import BadInput
from sfumato.cli import main
from sfumato.recipes import dp_vlm
from sfumato.recipes.execute import train_run
from sfumato.recipes.make import make
from sfumato.recipes.trained import open_trained

CLASSES = {"blip": "BlipForQuestionAnswering", "llava": "LlavaForConditionalGeneration"}
# A fresh process, in which sfumato cannot be imported: what the classes' own forward makes of given rows.
ELSEWHERE = """
import sys, torch, transformers, peft
sys.modules["sfumato"] = None
kind, base, adapter, folder = sys.argv[1:]
batch = torch.load(f"{folder}/batch.pt", weights_only=True)
found = []
for path in ("", adapter):
    model = getattr(transformers, kind).from_pretrained(base)
    model = peft.PeftModel.from_pretrained(model, path).get_base_model() if path else model
    with torch.no_grad():
        out = model.eval()(**batch)
    found.append(out.logits if "Llava" in kind else out.loss)
torch.save(found, f"{folder}/out.pt")
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("adapters")
    build_table(path / "table")
    for kind in CLASSES:
        checkpoint(kind, path)
    return path


@pytest.fixture(scope="module", params=list(CLASSES))
def trained(request: pytest.FixtureRequest, folder: Path) -> tuple[str, Path]:
    kind = request.param
    told = {**of_table(folder / "table"), **TINY, "--model": folder / kind, "--rank": 2, "--learning-rate": 0.1}
    run = folder / f"run-{kind}"
    assert main(["train", "dp-vlm", *words(told), "--out", str(run)]) == 0
    return kind, run


def batch_for(kind: str, run: Path) -> dict[str, torch.Tensor]:
    """One row as the class's own forward takes it, without padding: there transformers' BLIP drops the mask."""
    family = open_trained(run).loaded.family
    row = family.encode(data.shape_questions(1, image_size=16)[0]["image"], "is it red?", "yes")
    real = row["attention_mask"].bool()
    ids, pixels = row["input_ids"][real], row["pixel_values"][None]
    if kind == "llava":
        ids = torch.where(row["image_slots"][real].bool(), family.placeholder_id, ids)
        return {"input_ids": ids[None], "pixel_values": pixels}
    return {"input_ids": ids[None], "pixel_values": pixels, "labels": torch.tensor([[5, 6, 7]])}


def elsewhere(kind: str, base: Path, adapter: Path, batch: dict[str, torch.Tensor], folder: Path) -> list[torch.Tensor]:
    """Outputs of the class without and with the adapter."""
    torch.save(batch, folder / "batch.pt")
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-c", ELSEWHERE, CLASSES[kind], str(base), str(adapter), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    return torch.load(folder / "out.pt", weights_only=True)


@pytest.mark.every(2)
def test_the_export_is_pefts_and_gives_the_same_outputs_without_sfumato(
    trained: tuple[str, Path], folder: Path, tmp_path: Path
) -> None:
    kind, run = trained
    export = run / "export"
    config = json.loads((export / "adapter_config.json").read_text())
    assert (config["peft_type"], config["r"], config["base_model_name_or_path"]) == ("LORA", 2, str(folder / kind))
    tensors = load_file(export / "adapter_model.safetensors")
    assert all(".lora_" in name for name in tensors)
    assert any(tensor.abs().max() > 0 for name, tensor in tensors.items() if "lora_B" in name), "it has learned"
    assert not (export / "model.safetensors").exists(), "the frozen weights stay where they are"
    batch = batch_for(kind, run)
    without, found = elsewhere(kind, folder / kind, export, batch, tmp_path)
    with torch.no_grad():
        out = open_trained(run).loaded.model(**batch)
    torch.testing.assert_close(out.logits if kind == "llava" else out.loss, found, rtol=1e-5, atol=1e-6)
    assert (found - without).abs().max() > 1e-4, "the adapter changes something"


@pytest.mark.every(2)
def test_the_whole_way_behind_it(
    trained: tuple[str, Path], folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kind, run = trained
    card = card_of(run)
    assert card["public"]["num_records"] == 9
    assert "LoRA of rank 2" in card["public"]["initialisation"]
    assert card["public"]["vocabulary"] == "that of the checkpoint that training starts from"
    assert CLASSES[kind] in card["public"]["how a row is fed"]
    assert main(["evaluate", str(run), "--suite", "vqa"]) == 0
    assert "free" in json.loads((run / "private" / "metrics.json").read_text())["suites"]["vqa"]
    Image.new("RGB", (20, 12), (200, 0, 0)).save(tmp_path / "new.png")
    capsys.readouterr()
    assert main(["predict", str(run), str(tmp_path / "new.png"), "--question", "is it red?", "--jsonl"]) == 0
    assert json.loads(capsys.readouterr().out)["error"] is None
    assert main(["export", str(run), "--out", str(tmp_path / "handed-on")]) == 0
    assert (tmp_path / "handed-on" / "adapter_config.json").is_file()
    assert main(["report", str(run), "--open", "no"]) == 0
    capsys.readouterr()
    assert main(["finetune", str(run), "--data", "shapes:20"]) == 2, "it has no features of pictures alone"
    assert "answers questions" in capsys.readouterr().err


def test_an_adapter_is_no_start(trained: tuple[str, Path], tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"holds an adapter alone.*merge"):
        make(dp_vlm("shape-questions:20", str(trained[1]), tmp_path))


def test_a_checkpoint_that_is_gone_is_named(folder: Path, tmp_path: Path) -> None:
    base = checkpoint("blip", tmp_path)
    run = small(dp_vlm("shape-questions:20", str(base), tmp_path / "run"))
    train_run(run, made=replace(make(run), held_out=None))
    base.rename(tmp_path / "moved")
    with pytest.raises(BadInput, match=str(base)):
        open_trained(run.out)


def test_frozen_weights_in_half_precision_under_an_adapter_in_float32(folder: Path, tmp_path: Path) -> None:
    run = small(dp_vlm("shape-questions:20", str(folder / "llava"), tmp_path / "run"))
    run = replace(run, adapter=replace(run.adapter, frozen_dtype="bfloat16"))
    made = replace(make(run), held_out=None)
    kinds = {param.requires_grad: param.dtype for param in made.model.parameters()}
    assert kinds == {True: torch.float32, False: torch.bfloat16}
    train_run(run, made=made)
    tensors = load_file(tmp_path / "run" / "export" / "adapter_model.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float32}
    assert open_trained(run.out).kind == "vlm"


@pytest.mark.parametrize("train", ["prompt", "prefix"])
def test_learned_tokens_are_refused(folder: Path, train: str) -> None:
    run = small(dp_vlm("shape-questions:20", str(folder / "llava")))
    with pytest.raises(BadInput, match=f"lora or dora, got '{train}'"):
        make(replace(run, model=replace(run.model, train=train)))
