"""Where a dual encoder starts, what of it trains, and what is refused by name."""

import json
from typing import Any

import pytest
import torch
import transformers as hf
from tests.models.conftest import VIT, jitter
from tests.models.duals import (
    FOLDERS,
    OPEN_CLIP,
    SIDE,
    SMALL,
    TEXTS,
    L,
    batch_of,
    bert,
    small,
    started,
    words,
    write,
    write_open_clip,
)

from sfumato.base import BadInput
from sfumato.models import StartedTowers, Tokenizer, export_dual, start_dual
from sfumato.models.towers import unit_norm


def start(**settings: Any) -> StartedTowers:
    return start_dual(**({"tokenizer": words(), "image_size": SIDE, "max_tokens": L, "seed": 0} | settings))


@pytest.mark.parametrize(
    ("size", "side", "least", "most"), [("micro", 28, 100_000, 300_000), ("tiny", 224, 6_000_000, 10_000_000)]
)
def test_sizes(size: str, side: int, least: int, most: int) -> None:
    made = start(size=size, image_size=side)
    assert least <= sum(param.numel() for param in made.model.parameters()) <= most
    assert made.model.training
    assert made.training.frozen == ("logit_scale",)
    assert made.training.unreached == ()
    assert made.model.get_parameter("logit_scale").item() == pytest.approx(2.6592)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in made.model.modules())
    assert made.preprocess == {"image_size": side, "mean": [0.5] * 3, "std": [0.5] * 3, "channels": 3}


@pytest.mark.parametrize("size", ["micro", "tiny"])
def test_initial_weights_are_a_function_of_the_seed_alone(size: str) -> None:
    torch.manual_seed(1)
    first, state = start(size=size), torch.get_rng_state()
    torch.manual_seed(2)
    second, other = start(size=size, train="heads"), start(size=size, seed=1)
    torch.manual_seed(1)
    assert torch.equal(torch.get_rng_state(), state)
    weights = second.model.state_dict()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in first.model.state_dict().items())
    assert not torch.equal(weights["text_projection.weight"], other.model.get_parameter("text_projection.weight"))


def test_settings_reach_the_towers() -> None:
    made = start(size="micro", channels=1, dropout=0.25, embed_dim=24)
    rates = {module.p for module in made.model.modules() if isinstance(module, torch.nn.Dropout)}
    assert rates == {0.25}
    assert [tuple(x.shape) for x in made.embed(made.model, batch_of(made))] == [(6, 24), (6, 24)]


@pytest.mark.parametrize("kind", FOLDERS)
def test_a_checkpoint_keeps_its_weights(kind: str, tmp_path) -> None:
    made = started(kind, tmp_path, dropout=0.1)
    want = small(kind, words()).state_dict()
    found = made.model.state_dict()
    assert set(found) == set(want)
    assert all(torch.equal(tensor, want[name]) for name, tensor in found.items())
    assert made.notes[0].endswith(f"of {tmp_path}")
    assert made.model.config.text_config.attention_dropout == 0.1 if kind != "vit-bert" else True


@pytest.mark.parametrize("kind", FOLDERS)
def test_image_positions_are_interpolated_to_another_size(kind: str, tmp_path) -> None:
    made = start(init=write(kind, tmp_path), image_size=2 * SIDE)
    assert any("interpolated" in note for note in made.notes)
    assert made.embed(made.model, batch_of(made))[0].shape[0] == 6


def test_a_former_run_starts_the_next(tmp_path) -> None:
    first = start(size="micro")
    with torch.no_grad():
        first.model.get_parameter("logit_scale").add_(1)
    assert first.tokenizer is not None
    preprocess = first.preprocess | {"mean": [0.1, 0.2, 0.3]}
    export_dual(first.model, first.embed, first.tokenizer, preprocess, tmp_path / "run" / "export")
    second = start(init=tmp_path / "run", tokenizer=Tokenizer.from_checkpoint(tmp_path / "run"))
    weights = second.model.state_dict()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in first.model.state_dict().items())
    assert second.preprocess["mean"] == [0.1, 0.2, 0.3]


def two_folders(tmp_path, image: Any, text: Any) -> str:
    for name, model in (("image", image), ("text", text)):
        jitter(model).save_pretrained(tmp_path / name)
    words().save(tmp_path / "text")
    return f"{tmp_path / 'image'}+{tmp_path / 'text'}"


def test_clip_is_read_at_the_tokenizers_end_token_whatever_an_old_checkpoint_says(tmp_path) -> None:
    """Old CLIP files say 2, which means the highest id of a text: here that would be a word."""
    folder = write("clip", tmp_path)
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["eos_token_id"] = 2
    (folder / "config.json").write_text(json.dumps(config))
    made, batch = start(init=folder), {"input_ids": words().encode_texts(TEXTS, L)}
    model: Any = made.model.eval()
    with torch.no_grad():
        hidden = model.text_model(**batch).last_hidden_state
        ends = (batch["input_ids"] == words().eos_id).int().argmax(1)
        want = unit_norm(model.text_projection(hidden[torch.arange(len(TEXTS)), ends]))
        torch.testing.assert_close(made.embed.texts(model, batch["input_ids"]), want, rtol=0, atol=1e-6)
    assert model.config.text_config.eos_token_id == words().eos_id


def test_two_pretrained_towers_get_new_projections(tmp_path) -> None:
    """DINOv2's mask token is never used: no gradient reaches it, and it is said so."""
    fields = {name: VIT[name] for name in VIT if name != "intermediate_size"}
    image, text = hf.Dinov2Model(hf.Dinov2Config(**fields)), hf.BertModel(bert(words()))
    made = start(init=two_folders(tmp_path, image, text), embed_dim=12)
    found = made.model.state_dict()
    for prefix, tower in (("vision_model", image), ("text_model", text)):
        for name, tensor in tower.state_dict().items():
            torch.testing.assert_close(found[f"{prefix}.{name}"], tensor, rtol=0, atol=0)
    assert made.embed(made.model, batch_of(made))[1].shape == (6, 12)
    assert made.training.unreached == ("vision_model.embeddings.mask_token",)
    again = start(init=f"{tmp_path / 'image'}+{tmp_path / 'text'}", embed_dim=12)
    assert torch.equal(found["visual_projection.weight"], again.model.get_parameter("visual_projection.weight"))


def test_a_pooler_that_the_file_lacks_is_drawn_from_the_seed_and_noted(tmp_path) -> None:
    image, text = hf.ViTModel(hf.ViTConfig(**VIT)), hf.BertModel(bert(words()), add_pooling_layer=False)
    init = two_folders(tmp_path, image, text)
    torch.manual_seed(1)
    first = start(init=init)
    torch.manual_seed(2)
    second = start(init=init)
    name = "text_model.pooler.dense.weight"
    assert any("pooler.dense.weight is new" in note for note in first.notes)
    assert torch.equal(first.model.get_parameter(name), second.model.get_parameter(name))


def test_towers_of_two_whole_clips_may_be_joined(tmp_path) -> None:
    for name in ("clip", "siglip"):
        write(name, tmp_path / name)
    made = start(init=f"{tmp_path / 'siglip'}+{tmp_path / 'clip'}")
    want = small("clip", words()).text_model.state_dict()
    assert all(torch.equal(made.model.state_dict()[f"text_model.{name}"], tensor) for name, tensor in want.items())
    assert made.embed(made.model, batch_of(made))[0].shape == (6, 256)


def test_open_clip_random_from_a_file_and_from_a_folder(tmp_path) -> None:
    name, file = write_open_clip(tmp_path, "small-three-ways")
    fields = {"tokenizer": Tokenizer.of_open_clip(), "max_tokens": 77}
    drawn, loaded = start(init=f"open_clip:{name}", **fields), start(init=f"open_clip:{name}:{file}", **fields)
    again = start(init=f"open_clip:{name}", **fields)
    assert torch.equal(drawn.model.get_parameter("visual.proj"), again.model.get_parameter("visual.proj"))
    assert not torch.equal(drawn.model.get_parameter("visual.proj"), loaded.model.get_parameter("visual.proj"))
    assert (
        start(init=f"open_clip:{name}", tokenizer=fields["tokenizer"], max_tokens=9).notes[0].endswith("random weights")
    )
    torch.save({"state_dict": loaded.model.state_dict()}, tmp_path / "weights.pt")
    as_pt = start(init=f"open_clip:{name}:{tmp_path / 'weights.pt'}", **fields)
    folder = export_dual(as_pt.model, as_pt.embed, fields["tokenizer"], as_pt.preprocess, tmp_path / "x" / "export")
    for made in (as_pt, start(init=folder, **fields), start(init=tmp_path / "x", **fields)):
        weights = made.model.state_dict()
        assert all(torch.equal(tensor, weights[key]) for key, tensor in loaded.model.state_dict().items())
    assert [round(value, 3) for value in loaded.preprocess["mean"]] == [0.481, 0.458, 0.408]


BATCH_NORMS = OPEN_CLIP | {
    "vision_cfg": {"image_size": SIDE, "layers": [1, 1, 1, 1], "width": 8, "head_width": 8, "patch_size": None}
}


def test_batch_norm_keeps_the_checkpoints_statistics_and_is_refused_without_one(tmp_path) -> None:
    name, file = write_open_clip(tmp_path, "small-resnet", BATCH_NORMS)
    fields = {"tokenizer": Tokenizer.of_open_clip(), "max_tokens": 77}
    with pytest.raises(BadInput, match="BatchNorm, which couples the rows"):
        start(init=f"open_clip:{name}", **fields)
    made = start(init=f"open_clip:{name}:{file}", **fields)
    norms = [module for module in made.model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    made.model.train()
    assert norms
    assert not any(norm.training for norm in norms)
    before = norms[0].running_mean.clone()
    batch = batch_of(made, 3)
    alone = made.embed.images(made.model, batch["pixel_values"][:1])
    torch.testing.assert_close(made.embed.images(made.model, batch["pixel_values"])[:1], alone, rtol=0, atol=1e-6)
    assert torch.equal(norms[0].running_mean, before)
    assert any("BatchNorm layers keep" in note for note in made.notes)


HEADS = {
    "micro": {"visual_projection.weight", "text_projection.weight"},
    "clip": {"visual_projection.weight", "text_projection.weight"},
    "siglip": {"vision_model.head.", "text_model.head."},
    "vit-bert": {"visual_projection.weight", "text_projection.weight"},
    "open_clip": {"visual.proj", "text_projection"},
}
LAST = {
    "micro": {"vision_model.stages.2.", "vision_model.layernorm.", "text_model.encoder.layer.0."},
    "clip": {
        "vision_model.encoder.layers.1.",
        "vision_model.post_layernorm.",
        "text_model.encoder.layers.1.",
        "text_model.final_layer_norm.",
    },
    "siglip": {
        "vision_model.encoder.layers.1.",
        "vision_model.post_layernorm.",
        "text_model.encoder.layers.1.",
        "text_model.final_layer_norm.",
    },
    "vit-bert": {
        "vision_model.layers.1.",
        "vision_model.layernorm.",
        "vision_model.pooler.",
        "text_model.encoder.layer.1.",
        "text_model.pooler.",
    },
    "open_clip": {"visual.transformer.resblocks.1.", "visual.ln_post.", "transformer.resblocks.1.", "ln_final."},
}


@pytest.mark.parametrize("kind", HEADS)
def test_what_trains(kind: str, tmp_path) -> None:
    def under(prefixes: set[str]) -> set[str]:
        return {name for name in names if any(name == p or (name.startswith(p) and p[-1] == ".") for p in prefixes)}

    for train in ("all", "heads", "last-1"):
        made = started(kind, tmp_path, train=train)
        names = {name for name, _ in made.model.named_parameters()}
        everything = {"all": names, "heads": under(HEADS[kind]), "last-1": under(HEADS[kind] | LAST[kind])}
        want = everything[train] - {"logit_scale", "logit_bias"}
        assert set(made.training.trainable) == want
        assert {name for name, param in made.model.named_parameters() if param.requires_grad} == want
        assert set(made.training.frozen) | want | set(made.training.unreached) == names
        assert made.log_scale is None
    for prefix in HEADS[kind] | LAST[kind]:
        assert under({prefix}), prefix


@pytest.mark.parametrize("kind", ["siglip", "open_clip", "micro"])
def test_the_temperature_trains_only_where_asked_and_siglips_bias_never(kind: str, tmp_path) -> None:
    frozen, learned = started(kind, tmp_path), started(kind, tmp_path, train="heads", train_temperature=True)
    assert "logit_scale" in frozen.training.frozen
    assert "logit_scale" in learned.training.trainable
    assert learned.log_scale == "logit_scale"
    assert any("frozen and unused: the temperature is the loss's" in note for note in frozen.notes)
    assert any("the temperature trains" in note for note in learned.notes)
    if kind == "siglip":
        assert "logit_bias" in learned.training.frozen
        assert any("logit_bias is frozen" in note for note in learned.notes)


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({}, "needs a size: micro or tiny"),
        ({"size": "huge"}, "no dual encoder of size 'huge'"),
        ({"size": "micro", "init": "somewhere"}, "size=micro is for a start without a checkpoint"),
        ({"size": "tiny", "image_size": 28}, "28 is not a multiple of the patch"),
        ({"size": "micro", "max_tokens": 2}, "max_tokens must be >= 3"),
        ({"size": "micro", "embed_dim": 0}, "embed_dim must be >= 1"),
        ({"size": "micro", "train": "some"}, "train is all, heads or last-K"),
        ({"size": "micro", "train": "last-4"}, "the image tower has only 3 blocks"),
        ({"init": "/nowhere"}, "no checkpoint folder"),
        ({"init": "open_clip:ViT-Q-99"}, "no architecture 'ViT-Q-99'"),
        ({"init": "open_clip:ViT-B-32:/nowhere.pt"}, "no weights file"),
        ({"init": "open_clip:ViT-B-32", "channels": 1}, "take 3 channels"),
        ({"init": "open_clip:coca_ViT-B-32"}, "writes captions too"),
        ({"init": "open_clip:xlm-roberta-base-ViT-B-32"}, "downloads its text tower"),
    ],
)
def test_settings_that_do_not_fit_are_named(settings: dict[str, Any], what: str) -> None:
    with pytest.raises(BadInput, match=what):
        start(**settings)


def test_checkpoints_that_do_not_fit_are_named(tmp_path) -> None:
    clip, siglip = write("clip", tmp_path / "clip"), write("siglip", tmp_path / "siglip")
    other = Tokenizer.from_public_text(["quite other words"])
    for init, settings, what in (
        (clip, {"max_tokens": 9}, "8 text positions, max_tokens asks for 9"),
        (clip, {"tokenizer": other}, "the tokenizer is another"),
        (clip, {"channels": 1}, "Give 3 channels"),
        (clip, {"image_size": 30}, "30 is no multiple of the patch 8"),
        (clip, {"embed_dim": 8}, "embeds into 16 dimensions"),
        (siglip, {"max_tokens": 7}, "set max_tokens to 8"),
        (f"{clip}+{tmp_path}", {}, "config.json is missing"),
    ):
        with pytest.raises(BadInput, match=what):
            start(init=init, **settings)
    hf.ViTMSNModel(hf.ViTMSNConfig(**VIT)).save_pretrained(tmp_path / "msn")
    with pytest.raises(BadInput, match="image tower gives no pooled vector"):
        start(init=f"{tmp_path / 'msn'}+{clip}")
    with pytest.raises(BadInput, match="no encoder of input_ids"):
        start(init=f"{clip}+{tmp_path / 'msn'}")
    with pytest.raises(BadInput, match="'vit_msn', which is no dual encoder"):
        start(init=tmp_path / "msn")


def test_tokens_that_the_text_tower_would_misread_are_named(tmp_path) -> None:
    vocabulary = tmp_path / "vocab.txt"
    vocabulary.write_text("\n".join(["[PAD]", "[UNK]", "[SEP]", "[CLS]", "a", "boot"]))
    with pytest.raises(BadInput, match="end token is 2"):
        start(size="tiny", tokenizer=Tokenizer.from_vocab(vocabulary))
    ends = words()
    ends.backend.pad_token = ends.backend.sep_token
    with pytest.raises(BadInput, match="pads with its end token"):
        start(size="micro", tokenizer=ends)


def test_open_clip_constants_that_do_not_fit_are_named(tmp_path) -> None:
    name, file = write_open_clip(tmp_path, "small-misfit")
    fields = {"tokenizer": Tokenizer.of_open_clip(), "max_tokens": 77}
    other, _ = write_open_clip(tmp_path, "small-other", OPEN_CLIP | {"embed_dim": 8})
    for init, settings, what in (
        (f"open_clip:{name}:{file}", {"max_tokens": 9}, "set max_tokens to 77"),
        (f"open_clip:{name}", {"dropout": 0.1}, "have no dropout"),
        (f"open_clip:{name}", {"embed_dim": 3}, "embeds into 16 dimensions"),
        (f"open_clip:{name}", {"tokenizer": words()}, "start with Tokenizer.of_open_clip"),
        (f"open_clip:{other}:{file}", {}, "do not fit"),
    ):
        with pytest.raises(BadInput, match=what):
            start(init=init, **(fields | settings))
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": OPEN_CLIP}))
    with pytest.raises(BadInput, match=r"open_clip_model\.safetensors is missing"):
        start(init=tmp_path, **fields)


def test_roberta_counts_its_positions_from_the_padding(tmp_path) -> None:
    tokenizer = words()
    config = hf.RobertaConfig(vocab_size=tokenizer.vocab_size, max_position_embeddings=L + 1, pad_token_id=0, **SMALL)
    init = two_folders(tmp_path, hf.ViTModel(hf.ViTConfig(**VIT)), hf.RobertaModel(config))
    made = start(init=init)
    assert made.embed(made.model, batch_of(made))[1].shape == (6, 256)
    with pytest.raises(BadInput, match=f"knows {L} text positions"):
        start(init=init, max_tokens=L + 1)


def test_open_clip_is_an_extra(monkeypatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "open_clip", None)
    with pytest.raises(BadInput, match=r"pip install 'sfumato\[open-clip\]'"):
        start(init="open_clip:ViT-B-32")
