"""Where training starts, and what is said when a folder does not fit."""

import json
import shutil

import pytest
import torch
import transformers as hf

from sfumato.base import BadInput
from sfumato.losses import caption_loss
from sfumato.models import Tokenizer, absent, build, embed, export, read_checkpoint, start

PREPROCESS = {"image_size": 32, "mean": [0.5], "std": [0.5], "channels": 3}


def begin(words: Tokenizer, **changes):
    fields = {"image_size": 32, "max_tokens": 10, "seed": 4} | changes
    return start(tokenizer=words, **fields)


def batch_for(words: Tokenizer, image_size: int = 32, channels: int = 3) -> dict[str, torch.Tensor]:
    labels = words.encode(["a red circle", "a photo of an ankle boot"], 10)
    return {"pixel_values": torch.randn(2, channels, image_size, image_size), "labels": labels}


def shaken(size: str, words: Tokenizer, **fields):
    """A model of sfumato that has been somewhere: every trained parameter off its initial value."""
    model = build(size, vocab_size=words.vocab_size, seed=9, **(fields or {"image_size": 32, "max_tokens": 10}))
    with torch.no_grad():
        for param in model.parameters():
            if param.requires_grad:
                param.add_(0.05 * torch.randn_like(param))
    return model


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory, words):
    """A run of sfumato as others see it: run.json and export/."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "run.json").write_text("{}")
    export(shaken("micro", words), words, PREPROCESS, folder / "export")
    return folder


def test_random_start(words) -> None:
    started = begin(words, size="micro")
    expected = build("micro", vocab_size=words.vocab_size, image_size=32, max_tokens=10, seed=4)
    assert all(torch.equal(a, b) for a, b in zip(started.model.state_dict().values(), expected.state_dict().values()))
    assert set(started.training.absent) == set(absent(expected))
    assert not started.training.frozen
    assert not started.training.unreached
    assert started.model.training
    with pytest.raises(BadInput, match="needs a size"):
        begin(words)


def test_every_parameter_is_in_exactly_one_list(words, bert_captioner_folder) -> None:
    for fields in ({"size": "micro", "train": "last-1"}, {"init": bert_captioner_folder, "train": "heads"}):
        started = begin(words, **fields)
        kinds = started.training
        names = [*kinds.trainable, *kinds.frozen, *kinds.absent, *kinds.unreached]
        assert sorted(names) == sorted(name for name, _ in started.model.named_parameters())
        assert {name for name, p in started.model.named_parameters() if p.requires_grad} == set(kinds.trainable)


@pytest.mark.parametrize("size", [None, "micro"])
def test_from_a_former_run(words, run_folder, size) -> None:
    """With the same tokenizer, length and pictures it is the same model, whatever the seed."""
    former = read_checkpoint(run_folder).weights
    started = begin(words, init=run_folder, size=size, seed=77)
    for name, tensor in started.model.state_dict().items():
        assert torch.equal(tensor, former[name]), name
    assert started.training.absent
    assert "captioner" in started.notes[0]


def test_new_vocabulary_keeps_shared_tokens(words, run_folder) -> None:
    other = Tokenizer.from_public_text(["a red sneaker above two blue coats"])
    started = begin(other, init=run_folder)
    fresh = build("micro", vocab_size=other.vocab_size, image_size=32, max_tokens=10, seed=4).state_dict()
    former, now = read_checkpoint(run_folder).weights, started.model.state_dict()
    shared = set(words.vocabulary) & set(other.vocabulary)
    assert {"red", "[SEP]", "[CLS]"} <= shared
    assert "sneaker" not in shared
    for name in ("decoder.model.decoder.embed_tokens.weight", "decoder.lm_head.weight"):
        for token, row in other.vocabulary.items():
            expected = former[name][words.vocabulary[token]] if token in shared else fresh[name][row]
            assert torch.equal(now[name][row], expected), token
    assert torch.equal(now["encoder.stages.0.norm.weight"], former["encoder.stages.0.norm.weight"])
    assert any(f"{len(shared)} tokens keep their rows" in note for note in started.notes)


def test_vocabulary_as_wide_as_the_model_is_no_trap(tmp_path) -> None:
    """64 tokens and width 64: only the tables with one row per token follow the tokens."""
    letters = [chr(97 + i) for i in range(26)]
    text = [" ".join(letters), *(f"{a}{b}" for a in "ab" for b in letters)]
    words = Tokenizer.from_public_text(text, vocab_size=64)
    model = shaken("micro", words)
    export(model, words, PREPROCESS, tmp_path)
    other = Tokenizer.from_public_text([" ".join(reversed(text)), "zz zz zz zz"], vocab_size=64)
    now = begin(other, init=tmp_path).model.state_dict()
    rows = ("decoder.model.decoder.embed_tokens.weight", "decoder.lm_head.weight")
    for name, tensor in model.state_dict().items():
        assert torch.equal(now[name], tensor) == (name not in rows), name


def test_special_tokens_keep_their_role(words, run_folder) -> None:
    """Another spelling of the start and end tokens still takes the rows of start and end."""
    backend = hf.PreTrainedTokenizerFast(
        tokenizer_object=words.backend.backend_tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        bos_token="[MASK]",  # plays the start here
        eos_token="[SEP]",
    )
    started = begin(Tokenizer(backend), init=run_folder)
    assert started.model.config.decoder_start_token_id == words.vocabulary["[MASK]"]


def test_longer_captions_keep_the_leading_positions(words, run_folder) -> None:
    name = "decoder.model.decoder.embed_positions.weight"
    former = read_checkpoint(run_folder).weights[name]
    longer = begin(words, init=run_folder, max_tokens=14).model
    shorter = begin(words, init=run_folder, max_tokens=6).model
    assert torch.equal(longer.state_dict()[name][:12], former)
    assert len(longer.state_dict()[name]) == 16
    assert torch.equal(shorter.state_dict()[name], former[:8])
    assert longer.generation_config.max_new_tokens == 14


def test_other_picture_size(words, run_folder, tmp_path) -> None:
    begin(words, init=run_folder, image_size=28)  # micro has no positions to adapt
    nano = shaken("nano", words, image_size=64, max_tokens=10)
    export(nano, words, PREPROCESS | {"image_size": 64}, tmp_path)
    started = begin(words, init=tmp_path, image_size=32)
    old, new = (m.encoder.embeddings.position_embeddings[0] for m in (nano, started.model))
    assert new.shape == (5, 192)
    assert torch.equal(new[0], old[0])  # the class token's
    torch.testing.assert_close(new[1:].mean(0), old[1:].mean(0), atol=0.02, rtol=0)
    assert any("interpolated" in note for note in started.notes)
    pixels = torch.randn(1, 3, 64, 64)
    native = start(tokenizer=words, image_size=64, max_tokens=10, seed=1, init=tmp_path).model
    torch.testing.assert_close(embed(native, pixels), embed(nano, pixels))
    with pytest.raises(BadInput, match="image size 40"):
        begin(words, init=tmp_path, image_size=40)


def test_a_size_that_differs_names_the_tensor(words, run_folder) -> None:
    with pytest.raises(BadInput, match=r"no tensor encoder\.embeddings"):
        begin(words, init=run_folder, size="nano")


def test_other_channels_name_the_tensor(words, run_folder) -> None:
    with pytest.raises(BadInput, match=r"encoder\.stages\.0\.convolution\.weight.*Give 3 channels"):
        begin(words, init=run_folder, channels=1)


def test_from_a_vit_checkpoint(words, vit_folder) -> None:
    """The encoder's features are the checkpoint's, biases included; the pooler is gone; the decoder is new."""
    started = begin(words, init=vit_folder, size="micro")
    original = hf.ViTModel.from_pretrained(vit_folder).eval()
    pixels = torch.randn(2, 3, 32, 32)
    expected = original(pixels).last_hidden_state.mean(1)
    torch.testing.assert_close(embed(started.model, pixels), expected)
    names = {name for name, _ in started.model.named_parameters()}
    assert not any("pooler" in name for name in names)
    assert "encoder.layers.0.attention.q_proj.bias" in started.training.trainable
    assert all(name.startswith("decoder.") for name in started.training.absent)
    assert started.model.enc_to_dec_proj.weight.shape == (64, 32)
    caption_loss(started.model, batch_for(words)).sum().backward()
    assert all(started.model.get_parameter(name).grad is not None for name in started.training.trainable)
    with pytest.raises(BadInput, match="give a size"):
        begin(words, init=vit_folder)


def test_from_a_vit_of_another_picture_size(words, vit_folder) -> None:
    started = begin(words, init=vit_folder, size="micro", image_size=64)
    original = hf.ViTModel.from_pretrained(vit_folder).eval()
    pixels = torch.randn(2, 3, 64, 64)
    expected = original(pixels, interpolate_pos_encoding=True).last_hidden_state.mean(1)
    torch.testing.assert_close(embed(started.model, pixels), expected, rtol=1e-4, atol=1e-5)


FOREIGN = {
    "deit": (hf.DeiTModel, hf.DeiTConfig),
    "dinov2": (hf.Dinov2Model, hf.Dinov2Config),
    "clip tower": (hf.CLIPVisionModel, hf.CLIPVisionConfig),
    "siglip tower": (hf.SiglipVisionModel, hf.SiglipVisionConfig),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_other_encoders(words, tmp_path, kind) -> None:
    model_class, config_class = FOREIGN[kind]
    config = config_class(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64, image_size=32, patch_size=8
    )
    torch.manual_seed(0)
    original = model_class(config).eval()
    original.save_pretrained(tmp_path)
    started = begin(words, init=tmp_path, size="micro", train="last-1")
    pixels = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(embed(started.model, pixels), original(pixels).last_hidden_state.mean(1))
    caption_loss(started.model, batch_for(words)).sum().backward()
    for name in started.training.trainable:
        assert started.model.get_parameter(name).grad is not None, name
    assert any(".1." in name for name in started.training.trainable if name.startswith("encoder."))
    assert any(".0." in name for name in started.training.frozen if name.startswith("encoder."))
    bigger = begin(words, init=tmp_path, size="micro", image_size=48)
    assert any("interpolated" in note for note in bigger.notes)


def test_a_whole_clip_gives_its_image_tower(words, tmp_path) -> None:
    tower = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 64}
    config = hf.CLIPConfig(
        text_config=tower | {"vocab_size": 99}, vision_config=tower | {"image_size": 32, "patch_size": 8}
    )
    torch.manual_seed(0)
    clip = hf.CLIPModel(config).eval()
    clip.save_pretrained(tmp_path)
    started = begin(words, init=tmp_path, size="micro")
    pixels = torch.randn(2, 3, 32, 32)
    expected = clip.vision_model(pixels).last_hidden_state.mean(1)
    torch.testing.assert_close(embed(started.model, pixels), expected)
    assert any("post_layernorm" in name for name in started.training.unreached)  # it only feeds CLIP's pooled output


def test_from_a_foreign_captioner(words, bert_captioner_folder) -> None:
    started = begin(words, init=bert_captioner_folder)
    original = hf.VisionEncoderDecoderModel.from_pretrained(bert_captioner_folder).eval()
    data = batch_for(words)
    torch.testing.assert_close(caption_loss(started.model.eval(), data), caption_loss(original, data))
    assert not started.training.absent
    assert not any("pooler" in name for name, _ in started.model.named_parameters())
    with pytest.raises(BadInput, match="24 text positions"):
        begin(words, init=bert_captioner_folder, max_tokens=30)
    other = Tokenizer.from_public_text(["a red sneaker"])
    now, old = begin(other, init=bert_captioner_folder).model.state_dict(), original.state_dict()
    for name in ("decoder.bert.embeddings.word_embeddings.weight", "decoder.cls.predictions.bias"):
        assert torch.equal(now[name][other.vocabulary["red"]], old[name][words.vocabulary["red"]])


def test_folders_that_do_not_fit(words, vit_folder, tmp_path) -> None:
    with pytest.raises(BadInput, match="no checkpoint folder"):
        begin(words, init=tmp_path / "nowhere", size="micro")
    with pytest.raises(BadInput, match=r"config\.json is missing"):
        begin(words, init=tmp_path, size="micro")
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(BadInput, match=r"run without an export: .*export/config\.json is missing"):
        begin(words, init=tmp_path, size="micro")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(BadInput, match="not valid JSON"):
        begin(words, init=tmp_path, size="micro")
    shutil.copy(vit_folder / "config.json", tmp_path)
    with pytest.raises(BadInput, match=r"model\.safetensors is missing"):
        begin(words, init=tmp_path, size="micro")
    (tmp_path / "model.safetensors").write_bytes(b"broken")
    with pytest.raises(BadInput, match="cannot be read"):
        begin(words, init=tmp_path, size="micro")


def test_weights_that_lack_or_contradict(words, vit_folder, tmp_path) -> None:
    shutil.copytree(vit_folder, tmp_path / "deeper")
    config = json.loads((vit_folder / "config.json").read_text())
    (tmp_path / "deeper" / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
    with pytest.raises(BadInput, match=r"lack .*layers\.2"):
        begin(words, init=tmp_path / "deeper", size="micro")
    shutil.copytree(vit_folder, tmp_path / "wider")
    (tmp_path / "wider" / "config.json").write_text(json.dumps(config | {"intermediate_size": 72}))
    with pytest.raises(BadInput, match=r"layers\.0\.mlp.*has shape \(.*\), its config.json says"):
        begin(words, init=tmp_path / "wider", size="micro")


def test_a_folder_with_code_of_its_own_is_refused_without_a_question(words, vit_folder, tmp_path) -> None:
    shutil.copytree(vit_folder, tmp_path / "code")
    config = json.loads((vit_folder / "config.json").read_text())
    config |= {"model_type": "mine", "auto_map": {"AutoConfig": "mine.Config", "AutoModel": "mine.Model"}}
    (tmp_path / "code" / "config.json").write_text(json.dumps(config))
    (tmp_path / "code" / "mine.py").write_text("raise SystemExit('this code ran')")
    with pytest.raises(BadInput, match="no model that transformers knows"):
        begin(words, init=tmp_path / "code", size="micro")


def test_from_the_encoder_of_micro(words, tmp_path) -> None:
    """Its folder carries code too, which sfumato knows already."""
    model = shaken("micro", words)
    export(model, words, PREPROCESS, tmp_path, part="encoder")
    started = begin(words, init=tmp_path, size="nano", train="heads")
    pixels = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(embed(started.model, pixels), embed(model, pixels))
    assert all(name.startswith("encoder.") for name in started.training.frozen)


def test_a_text_model_is_no_start(words, tmp_path) -> None:
    config = hf.BertConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=4, intermediate_size=32)
    hf.BertModel(config).save_pretrained(tmp_path)
    with pytest.raises(BadInput, match="neither an image encoder"):
        begin(words, init=tmp_path, size="micro")


def test_a_captioner_without_tokenizer(words, run_folder, tmp_path) -> None:
    shutil.copytree(run_folder / "export", tmp_path / "bare")
    (tmp_path / "bare" / "tokenizer.json").unlink()
    begin(words, init=tmp_path / "bare")  # as many tokens: taken as the same
    with pytest.raises(BadInput, match=r"tokenizer\.json is missing"):
        begin(Tokenizer.from_public_text(["zebra"]), init=tmp_path / "bare")


def test_dropout_of_the_checkpoint_is_replaced(words, vit_folder, tmp_path) -> None:
    shutil.copytree(vit_folder, tmp_path / "vit")
    config = json.loads((vit_folder / "config.json").read_text())
    (tmp_path / "vit" / "config.json").write_text(json.dumps(config | {"hidden_dropout_prob": 0.4}))
    assert begin(words, init=tmp_path / "vit", size="micro").model.config.encoder.hidden_dropout_prob == 0.0


def test_stochastic_depth_is_off(words, tmp_path) -> None:
    config = hf.Dinov2Config(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, image_size=32, patch_size=8, drop_path_rate=0.5
    )
    hf.Dinov2Model(config).save_pretrained(tmp_path)
    started = begin(words, init=tmp_path, size="micro", dropout=0.1)
    assert started.model.config.encoder.drop_path_rate == 0.0
    assert started.model.config.encoder.hidden_dropout_prob == 0.1
