"""What leaves the house loads elsewhere and says the same."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoImageProcessor, VisionEncoderDecoderModel

from sfumato.base import BadInput
from sfumato.models import Tokenizer, build, embed, export, generate_captions, load_export

SHAPES = {"micro": (28, 1), "nano": (32, 3)}

# Runs with no sfumato on the path: reads the folders, writes what it got.
ELSEWHERE = """
import json, pathlib, sys, warnings
warnings.simplefilter("error")
sys.modules["sfumato"] = None  # importing it raises
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoTokenizer, VisionEncoderDecoderModel, ViTModel

def load(model_class, folder, **settings):
    model, report = model_class.from_pretrained(folder, output_loading_info=True, **settings)
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), report
    return model.eval()

for folder in map(pathlib.Path, sys.argv[1:]):
    data = load_file(folder / "inputs.safetensors")
    if (folder / "whole" / "modeling_sfumato_stem.py").is_file():  # the class travels with its weights
        sys.path.insert(0, str(folder / "whole"))
        import modeling_sfumato_stem
    model = load(VisionEncoderDecoderModel, folder / "whole")
    if json.loads((folder / "encoder" / "config.json").read_text())["model_type"] == "vit":
        encoder = load(ViTModel, folder / "encoder", add_pooling_layer=False)
    else:
        encoder = load(AutoModel, folder / "encoder", trust_remote_code=True)
    with torch.no_grad():
        logits = model(pixel_values=data["pixels"], decoder_input_ids=data["ids"]).logits
        tokens = encoder(pixel_values=data["pixels"]).last_hidden_state
        ids = model.generate(data["pixels"])
    save_file({"logits": logits, "tokens": tokens, "ids": ids}, folder / "outputs.safetensors")
    tokenizer = AutoTokenizer.from_pretrained(folder / "whole")
    (folder / "captions.json").write_text(json.dumps(tokenizer.batch_decode(ids, skip_special_tokens=True)))
"""


def made(size: str, words: Tokenizer) -> tuple[VisionEncoderDecoderModel, dict]:
    image_size, channels = SHAPES[size]
    model = build(size, vocab_size=words.vocab_size, image_size=image_size, max_tokens=6, channels=channels, seed=2)
    with torch.no_grad():  # away from the initial weights, the same each time
        model.decoder.lm_head.weight.normal_(0, 1, generator=torch.Generator().manual_seed(3))
        model.decoder.lm_head.weight[words.eos_id] = 0  # or the captions may be empty
    preprocess = {"image_size": image_size, "mean": [0.4], "std": [0.3], "channels": channels, "augment": "none"}
    return model.eval(), preprocess


def test_reload_where_sfumato_is_not_importable(words, tmp_path) -> None:
    """One process without sfumato, both kinds of encoder: logits, features and captions are the same."""
    inputs = {}
    for size, (image_size, channels) in SHAPES.items():
        model, preprocess = made(size, words)
        export(model, words, preprocess, tmp_path / size / "whole")
        export(model, words, preprocess, tmp_path / size / "encoder", part="encoder")
        pixels = torch.randn(3, channels, image_size, image_size)
        inputs[size] = {"pixels": pixels, "ids": torch.randint(5, words.vocab_size, (3, 6))}
        save_file(inputs[size], tmp_path / size / "inputs.safetensors")
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [sys.executable, "-c", ELSEWHERE, *(str(tmp_path / size) for size in SHAPES)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=env)
    assert done.returncode == 0, done.stderr
    for size, data in inputs.items():
        model, _ = made(size, words)
        got = load_file(tmp_path / size / "outputs.safetensors")
        with torch.no_grad():
            logits = model(pixel_values=data["pixels"], decoder_input_ids=data["ids"]).logits
        torch.testing.assert_close(got["logits"], logits, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(got["tokens"].mean(1), embed(model, data["pixels"]), rtol=1e-6, atol=1e-6)
        assert torch.equal(got["ids"], model.generate(data["pixels"]))
        captions = json.loads((tmp_path / size / "captions.json").read_text())
        assert captions == generate_captions(model, words, data["pixels"])
        assert any(captions)


@pytest.mark.parametrize("size", SHAPES)
def test_read_back(size: str, words, tmp_path) -> None:
    model, preprocess = made(size, words)
    export(model, words, preprocess, tmp_path / "run" / "export")
    loaded = load_export(tmp_path / "run")
    assert not loaded.model.training
    channels = preprocess["channels"]
    side = preprocess["image_size"]
    expected = {"image_size": side, "mean": [0.4] * channels, "std": [0.3] * channels, "channels": channels}
    assert loaded.preprocess == expected
    assert loaded.tokenizer.digest == words.digest
    assert all(torch.equal(a, b) for a, b in zip(loaded.model.state_dict().values(), model.state_dict().values()))


@pytest.mark.parametrize("size", SHAPES)
def test_the_image_processor_normalises_as_training_did(size: str, words, tmp_path) -> None:
    model, preprocess = made(size, words)
    export(model, words, preprocess, tmp_path)
    side, channels = SHAPES[size]
    picture = np.random.default_rng(0).integers(0, 256, (side, side, channels), dtype=np.uint8)
    processor = AutoImageProcessor.from_pretrained(tmp_path)
    got = processor(Image.fromarray(picture if channels == 3 else picture[..., 0]), return_tensors="pt").pixel_values[0]
    expected = (torch.from_numpy(picture).permute(2, 0, 1) / 255 - 0.4) / 0.3
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)
    wide = processor(Image.new("RGB" if channels == 3 else "L", (90, 50)), return_tensors="pt")
    assert wide.pixel_values.shape == (1, channels, side, side)


def test_files_of_the_export(words, tmp_path) -> None:
    model, preprocess = made("micro", words)
    folder = tmp_path / "export"
    assert export(model, words, preprocess, folder) == folder
    names = {"config.json", "generation_config.json", "model.safetensors", "preprocessor_config.json"}
    names |= {"tokenizer.json", "tokenizer_config.json", "modeling_sfumato_stem.py"}
    assert {file.name for file in folder.iterdir()} == names
    assert folder.stat().st_mode & 0o777 == 0o755
    assert not list(tmp_path.glob(".export*"))  # nothing is left beside it
    config = (folder / "config.json").read_text().replace('"sfumato": {', "")
    assert "sfumato" not in config.replace('"model_type": "sfumato_stem"', "")
    assert str(tmp_path) not in (folder / "config.json").read_text()
    encoder = export(model, words, preprocess, tmp_path / "encoder", part="encoder")
    names = {"config.json", "model.safetensors", "preprocessor_config.json", "modeling_sfumato_stem.py"}
    assert {file.name for file in encoder.iterdir()} == names


def test_a_second_export_replaces_its_own_files_only(words, tmp_path) -> None:
    model, preprocess = made("micro", words)
    folder = export(model, words, preprocess, tmp_path / "export")
    (folder / "card.md").write_text("NOT PROVED")
    with torch.no_grad():
        model.decoder.lm_head.weight.add_(1)
    export(model, words, preprocess, folder)
    assert (folder / "card.md").read_text() == "NOT PROVED"
    assert torch.equal(load_export(folder).model.decoder.lm_head.weight, model.decoder.lm_head.weight)


def test_a_failed_export_leaves_nothing(words, tmp_path, monkeypatch) -> None:
    model, preprocess = made("micro", words)
    before = export(model, words, preprocess, tmp_path / "old")
    files = {file.name: file.read_bytes() for file in before.iterdir()}

    def full_disk(*args, **kwargs):
        raise OSError("no space left on device")

    monkeypatch.setattr(Tokenizer, "save", full_disk)
    for name in ("old", "new"):
        with pytest.raises(OSError, match="no space"):
            export(model, words, preprocess, tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["old"]
    assert {file.name: file.read_bytes() for file in before.iterdir()} == files


def test_the_model_itself_is_untouched(words, tmp_path) -> None:
    model, preprocess = made("nano", words)
    model.train()
    flags = {name: param.requires_grad for name, param in model.named_parameters()}
    export(model, words, preprocess, tmp_path, part="encoder")
    assert model.training
    assert model.encoder.config.model_type == "vit_msn"
    assert {name: param.requires_grad for name, param in model.named_parameters()} == flags


def test_what_is_refused(words, tmp_path) -> None:
    model, preprocess = made("micro", words)
    with pytest.raises(BadInput, match="lacks mean, std"):
        export(model, words, {"image_size": 28, "channels": 1}, tmp_path / "a")
    with pytest.raises(BadInput, match="model or encoder"):
        export(model, words, preprocess, tmp_path / "a", part="decoder")
    encoder = export(model, words, preprocess, tmp_path / "encoder", part="encoder")
    with pytest.raises(BadInput, match="holds no captioner"):
        load_export(encoder)
    folder = export(model, words, preprocess, tmp_path / "whole")
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(BadInput, match=r"preprocessor_config\.json is missing"):
        load_export(folder)
