"""Two towers with projections: what they compute, what trains, cached features, export; pretrained if installed."""

import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.models.pairs import INSTALLED, PREPROCESS, ids_of, jitter, small_timm, tiny_bert, tiny_pair
from tests.once import only_whole
from torch import nn

from sfumato.base import BadInput
from sfumato.models import HeadTowers, Towers, export_pair, frozen_features, lit_pair, load_pair
from sfumato.models.modeling_sfumato_timm import batch_norms
from sfumato.models.pair_start import choose_pair, make_pair


def rows(words, count: int = 4) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(5, words.vocab_size, (count, 6), generator=generator)
    ids[1:, 3:] = 0
    return {"pixel_values": torch.randn(count, 3, 16, 16, generator=generator), "input_ids": ids}


# ---------------------------------------------------------------- what it computes


def test_texts_are_the_mean_over_their_own_tokens(words) -> None:
    model, ids = tiny_pair(words), rows(words)["input_ids"]
    found = model.text_features(ids, (ids != 0).long())
    for row, text in enumerate(ids):
        own = text[text != 0][None]  # without padding and without a mask
        torch.testing.assert_close(found[row], model.text(input_ids=own).last_hidden_state[0].mean(0))
    empty = torch.zeros(1, 6, dtype=torch.int64)
    assert torch.equal(model.text_features(empty, empty), torch.zeros(1, 16))


def test_embeddings_are_projected_features(words) -> None:
    model, batch = tiny_pair(words), rows(words)
    mask = (batch["input_ids"] != 0).long()
    image, text = model.image_features(batch["pixel_values"]), model.text_features(batch["input_ids"], mask)
    assert image.shape == (4, 32)
    u, v = model.project(image, text)
    torch.testing.assert_close(u, image @ model.image_projection.weight.T)
    torch.testing.assert_close(v, text @ model.text_projection.weight.T)
    assert torch.equal(u, model.embed_images(batch["pixel_values"]))
    assert torch.equal(v, model.embed_texts(batch["input_ids"], mask))
    embed = Towers(kind="pair", pad_id=model.pad_id)
    for found, raw in zip(embed(model, batch), (u, v), strict=True):
        torch.testing.assert_close(found, raw / raw.norm(dim=1, keepdim=True))


def test_cached_features_embed_as_the_towers_do(words) -> None:
    model, batch = tiny_pair(words), rows(words)
    image, text = frozen_features(model, batch["pixel_values"], batch["input_ids"])
    assert not image.requires_grad
    assert not text.requires_grad
    assert model.training
    found = HeadTowers()(model, {"image_features": image, "text_features": text})
    wanted = Towers(kind="pair", pad_id=0)(model, batch)
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b)
        assert a.requires_grad
    one = frozen_features(model, batch["pixel_values"][2:3], batch["input_ids"][2:3, :3])  # alone and less padded
    torch.testing.assert_close(one[0][0], image[2])
    torch.testing.assert_close(one[1][0], text[2])
    half = {"image_features": image.half(), "text_features": text.half()}
    assert HeadTowers()(tiny_pair(words).half(), half)[0].dtype == torch.float32
    for train, tower in (("last-1", "image"), ("all", "image")):
        with pytest.raises(BadInput, match=f"the {tower} tower trains"):
            frozen_features(tiny_pair(words, train=train), batch["pixel_values"], batch["input_ids"])


# ---------------------------------------------------------------- what trains


def test_frozen_towers_stay_in_evaluation_mode(words) -> None:
    image = small_timm("test_efficientnet", "none", width=0)  # nothing frozen but by the pair itself
    model = make_pair(image, tiny_bert(words.vocab_size), embed_dim=5, image_size=16, seed=1)
    choose_pair(model, "heads")
    assert model.train().training
    assert model.image_projection.training
    assert not any(module.training for tower in (model.image, model.text) for module in tower.modules())
    choose_pair(model, "all")
    model.train()
    assert model.text.training
    assert model.image.training
    assert batch_norms(model)
    assert not any(norm.training for norm in batch_norms(model))
    assert not any(param.requires_grad for norm in batch_norms(model) for param in norm.parameters())


def test_what_trains(words) -> None:
    model = tiny_pair(words)
    heads = {"image_projection.weight", "text_projection.weight"}
    text = "text.encoder.layer.1."
    for train in ("heads", "last-1", "last-2", "all"):
        kinds = choose_pair(model, train)
        names = [*kinds.trainable, *kinds.frozen, *kinds.unreached, *kinds.absent]
        assert sorted(names) == sorted(name for name, _ in model.named_parameters())
        assert {name for name, p in model.named_parameters() if p.requires_grad} == set(kinds.trainable)
        assert heads <= set(kinds.trainable)
        towers = {name for name in kinds.trainable if name not in heads}
        if train == "heads":
            assert not towers
        if train == "last-1":
            assert {name for name in towers if name.startswith("image.")} == {
                "image.stages.2.weight",
                "image.stages.2.bias",
            }
            assert {name for name in towers if name.startswith("text.")} == {
                name for name, _ in model.named_parameters() if name.startswith(text)
            }
        if train == "all":
            assert not kinds.frozen
    with pytest.raises(BadInput, match="the text tower has only 2 blocks"):
        choose_pair(model, "last-3")
    with pytest.raises(BadInput, match="train is all, heads or last-K"):
        choose_pair(model, "text")


def test_dropout_is_off_in_training(words) -> None:
    model, batch = tiny_pair(words, train="all"), rows(words)
    embed = Towers(kind="pair", pad_id=0)
    for a, b in zip(embed(model.train(), batch), embed(model.eval(), batch), strict=True):
        torch.testing.assert_close(a, b)
    assert [p.p for p in model.modules() if isinstance(p, nn.Dropout)]


def test_projections_are_a_function_of_the_seed(words) -> None:
    image, text = tiny_pair(words).image, tiny_bert(words.vocab_size)
    before = torch.get_rng_state()
    made = [make_pair(image, text, embed_dim=64, image_size=16, seed=seed) for seed in (1, 1, 2)]
    assert torch.equal(torch.get_rng_state(), before)
    for name in ("image_projection", "text_projection"):
        first, same, other = (model.get_submodule(name).weight for model in made)
        assert torch.equal(first, same)
        assert not torch.equal(first, other)
        assert float(first.detach().std() * first.shape[1] ** 0.5) == pytest.approx(1, abs=0.1)


# ---------------------------------------------------------------- export

# The snippet of docs/image-encoders.md, with sfumato not importable.
ELSEWHERE = """
import sys, torch
sys.modules["sfumato"] = None
import json, timm
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, BertModel

def load(folder):
    about = json.load(open(f"{folder}/image/config.json"))["timm"]
    weights = f"{folder}/image/model.safetensors"
    image = timm.create_model(about["name"], checkpoint_path=weights, **about["arguments"]).eval()
    text = BertModel.from_pretrained(f"{folder}/text", add_pooling_layer=False).eval()
    tokenizer, heads = AutoTokenizer.from_pretrained(f"{folder}/text"), load_file(f"{folder}/projections.safetensors")
    return image, text, tokenizer, heads

def embed(image, text, tokenizer, heads, pixels, captions):
    ids = tokenizer(captions, padding=True, return_tensors="pt")
    mask = ids["attention_mask"].unsqueeze(-1)
    words = (text(**ids).last_hidden_state * mask).sum(1) / mask.sum(1)
    found = image(pixels) @ heads["image_projection.weight"].T, words @ heads["text_projection.weight"].T
    return [torch.nn.functional.normalize(x, dim=1) for x in found]

pixels = load_file("inputs.safetensors")["pixels"]
for folder in sys.argv[1:]:
    with torch.no_grad():
        u, v = embed(*load(folder), pixels, ["a red circle", "a photo of an ankle boot"])
    save_file({"u": u, "v": v}, f"{folder}-out.safetensors")
"""


def colour_timm() -> nn.Module:
    from sfumato.models.modeling_sfumato_timm import TimmEncoder, TimmSettings

    return jitter(TimmEncoder(TimmSettings(name="test_efficientnet", width=0, batch_norm="frozen")))


@only_whole
def test_reload_where_sfumato_is_not_importable(words, tmp_path) -> None:
    """One process for a tiny pair and, where it is installed, the pretrained one."""
    pixels, captions = torch.randn(2, 3, 64, 64), ["a red circle", "a photo of an ankle boot"]
    save_file({"pixels": pixels}, tmp_path / "inputs.safetensors")
    pairs = {"tiny": (tiny_pair(words, colour_timm()), words)}
    if INSTALLED:
        pretrained = lit_pair(seed=0)
        pairs["pretrained"] = (pretrained.model, pretrained.tokenizer)
    for name, (model, tokenizer) in pairs.items():
        export_pair(model, tokenizer, PREPROCESS, tmp_path / name)
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [sys.executable, "-c", ELSEWHERE, *(str(tmp_path / name) for name in pairs)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=env)
    assert done.returncode == 0, done.stderr
    for name, (model, tokenizer) in pairs.items():
        got, batch = load_file(tmp_path / f"{name}-out.safetensors"), {"pixel_values": pixels}
        with torch.no_grad():
            batch["input_ids"] = ids_of(tokenizer, captions)
            u, v = Towers(kind="pair", pad_id=model.pad_id)(model.eval(), batch)
        torch.testing.assert_close(got["u"], u, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(got["v"], v, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("tower", ["small-conv", "timm"])
def test_read_back(tower: str, words, tmp_path) -> None:
    model = tiny_pair(words, None if tower == "small-conv" else colour_timm())
    export_pair(model, words, PREPROCESS, tmp_path / "run" / "export")
    loaded = load_pair(tmp_path / "run")
    assert not any(module.training for module in loaded.model.modules())
    assert loaded.embed == Towers(kind="pair", pad_id=0)
    assert loaded.tokenizer is not None
    assert loaded.tokenizer.digest == words.digest
    assert loaded.preprocess == {"image_size": 16, "mean": [0.4] * 3, "std": [0.3] * 3, "channels": 3}
    found, wanted = loaded.model.state_dict(), model.state_dict()
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    batch = rows(words)
    for a, b in zip(loaded.embed(loaded.model, batch), loaded.embed(model, batch), strict=True):
        torch.testing.assert_close(a, b)


def test_a_second_export_replaces_and_a_failed_one_leaves(words, tmp_path, monkeypatch) -> None:
    model = tiny_pair(words)
    folder = export_pair(model, words, PREPROCESS, tmp_path / "export")
    (folder / "card.md").write_text("NOT PROVED")
    with torch.no_grad():
        model.image_projection.weight.add_(1)
        model.text.embeddings.word_embeddings.weight.add_(1)
    export_pair(model, words, PREPROCESS, folder)
    found = load_pair(folder).model.state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in model.state_dict().items())
    assert (folder / "card.md").read_text() == "NOT PROVED"
    files = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}

    def full_disk(*args, **kwargs):
        raise OSError("no space left on device")

    monkeypatch.setattr(type(words), "save", full_disk)
    for name in ("export", "new"):
        with pytest.raises(OSError, match="no space"):
            export_pair(model, words, PREPROCESS, tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["export"]
    assert {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()} == files


def test_a_folder_that_is_no_pair_is_named(words, tmp_path) -> None:
    folder = export_pair(tiny_pair(words), words, PREPROCESS, tmp_path / "export")
    with pytest.raises(BadInput, match="holds no pair of towers"):
        load_pair(folder / "image")
    (folder / "projections.safetensors").write_bytes(b"nothing")
    with pytest.raises(BadInput, match=r"projections\.safetensors cannot be read"):
        load_pair(folder)
