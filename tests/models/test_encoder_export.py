"""Exports of image encoders load where sfumato is not, and say the same."""

import json
import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.models.pairs import PREPROCESS, jitter, small_timm
from torch import nn

from sfumato.base import BadInput
from sfumato.models import TwoViewTowers, encoder_export, export_encoder, load_encoder, start_encoder
from sfumato.models.modeling_sfumato_timm import batch_norms

# The snippets of docs/image-encoders.md, where neither sfumato nor (for the first) timm and transformers are.
ELSEWHERE = {
    "own": """
import modeling_sfumato_encoders
model = modeling_sfumato_encoders.load(folder)
embeddings, features = model(pixels), model.features(pixels)
""",
    "timm by its file": """
import modeling_sfumato_timm
model = modeling_sfumato_timm.load(folder)
embeddings, features = model(pixels), model.features(pixels)
""",
    "plain timm": """
import json, timm
about = json.load(open(f"{folder}/config.json"))["timm"]
model = timm.create_model(about["name"], checkpoint_path=f"{folder}/model.safetensors", **about["arguments"]).eval()
embeddings = model(pixels)
features = model.forward_head(model.forward_features(pixels), pre_logits=True)
""",
    "micro": """
import json, modeling_sfumato_stem as stem
from safetensors.torch import load_file
settings, weights = json.load(open(f"{folder}/config.json"))["settings"], load_file(f"{folder}/model.safetensors")
model = stem.StemModel(stem.StemConfig(**settings["stem"])).eval()
model.load_state_dict({name[5:]: weights[name] for name in weights if name.startswith("stem.")})
features = model(pixels).last_hidden_state.mean(1)
embeddings = features @ weights["head.weight"].T + weights["head.bias"]
""",
}
FRAME = """
import sys, torch
from safetensors.torch import load_file, save_file
sys.modules["sfumato"] = None  # importing it raises
pixels = load_file("inputs.safetensors")["pixels"]
"""
ONE = """
sys.path.insert(0, folder := {folder!r})
with torch.no_grad():
{snippet}
save_file({{"embeddings": embeddings.contiguous(), "features": features.contiguous()}}, f"{{folder}}-out.safetensors")
"""
CASES = {
    ("own",): [("small-conv", "own"), ("resnet18", "own")],
    ("micro", "plain timm", "timm by its file"): [
        ("micro", "micro"),
        ("timm:test_vit", "plain timm"),
        ("timm:test_vit", "timm by its file"),
        ("timm:test_resnet", "timm by its file"),
        ("frozen", "plain timm"),
        ("frozen", "timm by its file"),
    ],
}


def made(kind: str) -> nn.Module:
    if kind == "frozen":
        return small_timm("test_efficientnet", "frozen").eval()
    return jitter(start_encoder(kind=kind, image_size=32, channels=1, width=4, seed=3).model).eval()


@pytest.mark.parametrize("snippets", CASES, ids=["torch alone", "timm and transformers"])
def test_reload_where_sfumato_is_not_importable(snippets: tuple[str, ...], tmp_path) -> None:
    """One process for all cases; the encoders of sfumato's own need neither timm nor transformers."""
    pixels = torch.randn(3, 1, 32, 32)
    save_file({"pixels": pixels}, tmp_path / "inputs.safetensors")
    program = FRAME + ("sys.modules['timm'] = sys.modules['transformers'] = None\n" if snippets == ("own",) else "")
    for place, (kind, snippet) in enumerate(CASES[snippets]):
        export_encoder(made(kind), {**PREPROCESS, "channels": 1}, tmp_path / str(place))
        indented = "".join(f"    {line}\n" for line in ELSEWHERE[snippet].strip().splitlines())
        program += ONE.format(folder=str(tmp_path / str(place)), snippet=indented)
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path, env=env)
    assert done.returncode == 0, done.stderr
    for place, (kind, _) in enumerate(CASES[snippets]):
        model, got = made(kind), load_file(tmp_path / f"{place}-out.safetensors")
        with torch.no_grad():
            torch.testing.assert_close(got["embeddings"], model(pixels), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(got["features"], TwoViewTowers().features(model, pixels), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["small-conv", "resnet18-group", "micro", "timm:test_resnet", "frozen"])
def test_read_back(kind: str, tmp_path) -> None:
    model = made(kind)
    export_encoder(model.train(), {**PREPROCESS, "channels": 1}, tmp_path / "run" / "export")
    before = torch.get_rng_state()
    loaded = load_encoder(tmp_path / "run")
    assert torch.equal(torch.get_rng_state(), before)
    assert not any(module.training for module in loaded.model.modules())
    assert loaded.preprocess == {"image_size": 16, "mean": [0.4], "std": [0.3], "channels": 1}
    assert isinstance(loaded.embed, TwoViewTowers)
    assert loaded.tokenizer is None
    assert loaded.model.settings == model.settings
    found, wanted = loaded.model.state_dict(), model.state_dict()
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    if kind == "frozen":
        assert not any(norm.training for norm in batch_norms(loaded.model.train()))
        assert not any(param.requires_grad for norm in batch_norms(loaded.model) for param in norm.parameters())


def test_files_of_the_export(tmp_path) -> None:
    for kind, modeling in (("small-conv", "encoders"), ("micro", "stem"), ("timm:test_resnet", "timm")):
        folder = export_encoder(made(kind), PREPROCESS, tmp_path / kind[:4])
        names = {"config.json", "model.safetensors", f"modeling_sfumato_{modeling}.py"}
        assert {file.name for file in folder.iterdir()} == names
        assert folder.stat().st_mode & 0o777 == 0o755
        assert str(tmp_path) not in (folder / "config.json").read_text()
    assert not list(tmp_path.glob(".*"))  # nothing is left beside it


def test_a_second_export_replaces_its_own_files_only(tmp_path) -> None:
    model = made("small-conv")
    folder = export_encoder(model, PREPROCESS, tmp_path / "export")
    (folder / "card.md").write_text("NOT PROVED")
    with torch.no_grad():
        model.head.weight.add_(1)
    export_encoder(model, PREPROCESS, folder)
    assert (folder / "card.md").read_text() == "NOT PROVED"
    assert torch.equal(load_encoder(folder).model.head.weight, model.head.weight)


def test_a_failed_export_leaves_everything_as_it_was(tmp_path, monkeypatch) -> None:
    folder = export_encoder(made("small-conv"), PREPROCESS, tmp_path / "old")
    files = {file.name: file.read_bytes() for file in folder.iterdir()}

    def full_disk(*args, **kwargs):
        raise OSError("no space left on device")

    monkeypatch.setattr(encoder_export, "save_file", full_disk)
    for name in ("old", "new"):
        with pytest.raises(OSError, match="no space"):
            export_encoder(made("micro"), PREPROCESS, tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["old"]
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == files


def test_what_is_refused(tmp_path) -> None:
    with pytest.raises(BadInput, match="lacks mean, std"):
        export_encoder(made("small-conv"), {"image_size": 28, "channels": 1}, tmp_path / "a")
    with pytest.raises(BadInput, match="Linear is no encoder"):
        export_encoder(nn.Linear(2, 2), PREPROCESS, tmp_path / "a")
    folder = export_encoder(made("small-conv"), PREPROCESS, tmp_path / "a")
    config = json.loads((folder / "config.json").read_text())
    for changes, message in (
        ({"kind": "resnet99"}, "no encoder of kind 'resnet99'"),
        ({"settings": {"width": 4, "depth": 3}}, "are not those of an encoder"),
        ({"settings": {"channels": 1, "width": 5}}, r"head\.\w+ has shape \(4"),
        ({"kind": "resnet18"}, "lacks the tensor"),
        ({"model_type": "bert"}, "holds no image encoder of sfumato"),
    ):
        (folder / "config.json").write_text(json.dumps({**config, **changes}))
        with pytest.raises(BadInput, match=message):
            load_encoder(folder)
    (folder / "config.json").write_text(json.dumps(config))
    weights = load_file(folder / "model.safetensors")
    save_file({**weights, "more": torch.zeros(1)}, folder / "model.safetensors")
    with pytest.raises(BadInput, match="has the tensor more"):
        load_encoder(folder)
    (folder / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(BadInput, match="cannot be read"):
        load_encoder(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(BadInput, match="no weights"):
        load_encoder(folder)
