"""The captioner as a module: gradients everywhere, rows independent, nothing tied, nothing random."""

import pytest
import torch
from torch import nn
from transformers import VisionEncoderDecoderModel, ViTMSNConfig

from sfumato.base import BadInput
from sfumato.losses import caption_loss
from sfumato.models import absent, assemble, build, count_parameters, cross_attention, embed
from sfumato.models.captioner import hold_absent, join
from sfumato.models.initialise import initialise
from sfumato.models.sizes import decoder_config, named_size

SHAPES = {"pico": (32, 3), "micro": (28, 1), "nano": (32, 3)}
TOKENS = 7


def make(size: str = "micro", **changes) -> VisionEncoderDecoderModel:
    image_size, channels = SHAPES[size]
    fields = {"vocab_size": 50, "image_size": image_size, "max_tokens": TOKENS, "channels": channels, "seed": 1}
    return build(size, **(fields | changes))


def two_widths() -> VisionEncoderDecoderModel:
    """The shape of `large`: an encoder wider than the decoder, hence a projection between them."""
    encoder = ViTMSNConfig(
        hidden_size=48, num_hidden_layers=2, num_attention_heads=4, intermediate_size=96, qkv_bias=False, image_size=32
    )
    text = decoder_config(
        named_size("micro"), vocab_size=50, max_tokens=TOKENS, dropout=0.0, pad_id=0, bos_id=2, eos_id=3
    )
    model = assemble(join(encoder, text, size="micro", without_bias=("encoder", "decoder")), max_tokens=TOKENS, seed=1)
    initialise(model, bytes(32), None)
    hold_absent(model)
    return model.train()


def batch_for(model: VisionEncoderDecoderModel, image_size: int, rows: int = 3) -> dict[str, torch.Tensor]:
    labels = torch.randint(5, 50, (rows, TOKENS))
    labels[0, 4:] = -100
    pixels = torch.randn(rows, model.config.encoder.num_channels, image_size, image_size)
    return {"pixel_values": pixels, "labels": labels}


@pytest.mark.parametrize("kind", ["micro", "nano", "two widths"])
def test_every_trainable_parameter_gets_a_gradient(kind: str) -> None:
    model = two_widths() if kind == "two widths" else make(kind)
    caption_loss(model, batch_for(model, SHAPES.get(kind, (32, 3))[0])).sum().backward()
    held = set(absent(model))
    assert held
    for name, param in model.named_parameters():
        if name in held:
            assert param.grad is None
            assert not param.any()
        else:
            assert param.grad is not None, name
            assert param.grad.norm() > 1e-7, name  # a key bias, say, would stand at rounding error


def test_no_pooler_no_batch_norm_no_qkv_bias() -> None:
    for size in SHAPES:
        model = make(size)
        assert not any("pooler" in name for name, _ in model.named_parameters())
        assert not any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules())
        assert not list(model.buffers())


@pytest.mark.parametrize("size", SHAPES)
def test_head_is_untied_fresh_and_reloaded(size: str, tmp_path) -> None:
    model = make(size)
    model.save_pretrained(tmp_path)
    again = VisionEncoderDecoderModel.from_pretrained(tmp_path)
    for each in (model, again):
        head, table = each.get_output_embeddings().weight, each.get_input_embeddings().weight
        assert head.data_ptr() != table.data_ptr()
        assert not torch.equal(head, table)
        assert not each.config.tie_word_embeddings
        assert not each.config.decoder.tie_word_embeddings
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name
    assert absent(again) == absent(model)  # the record of absent biases travels in config.json


def test_initial_weights_are_a_function_of_the_seed_alone() -> None:
    before = torch.random.get_rng_state()
    first = make(seed=5).state_dict()
    torch.rand(3)
    again, other, key = (make(seed=seed).state_dict() for seed in (5, 6, bytes(32)))
    torch.random.set_rng_state(before)
    make(seed=5)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(first[name], again[name]) for name in first)
    name = "encoder.stages.0.convolution.weight"
    assert not torch.equal(first[name], other[name])
    assert not torch.equal(first[name], key[name])


@pytest.mark.parametrize("size", SHAPES)
def test_generate_fresh_and_reloaded(size: str, tmp_path) -> None:
    model = make(size).eval()
    pixels = torch.randn(2, SHAPES[size][1], SHAPES[size][0], SHAPES[size][0])
    ids = model.generate(pixels)
    assert ids.shape[1] <= TOKENS + 1
    assert (ids[:, 0] == 2).all()
    model.save_pretrained(tmp_path)
    again = VisionEncoderDecoderModel.from_pretrained(tmp_path).eval()
    assert torch.equal(again.generate(pixels), ids)
    assert again.generate(pixels, num_beams=3).shape[0] == 2
    logits = model(pixel_values=pixels, decoder_input_ids=ids[:, :1]).logits
    assert torch.equal(logits[:, 0].argmax(-1), ids[:, 1])  # greedy, not sampled


@pytest.mark.parametrize("size", SHAPES)
def test_sdpa_and_eager_agree(size: str) -> None:
    sdpa, eager = make(size).eval(), make(size, attention="eager").eval()
    assert eager.config.encoder._attn_implementation == "eager"
    assert eager.config.decoder._attn_implementation == "eager"
    assert sdpa.config.decoder._attn_implementation == "sdpa"
    batch = batch_for(sdpa, SHAPES[size][0])
    torch.testing.assert_close(caption_loss(sdpa, batch), caption_loss(eager, batch), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("size", SHAPES)
def test_rows_are_independent(size: str) -> None:
    model = make(size).double()
    batch = batch_for(model, SHAPES[size][0])
    batch["pixel_values"] = batch["pixel_values"].double().requires_grad_()
    losses = caption_loss(model, batch)
    for row in range(3):
        (grad,) = torch.autograd.grad(losses[row], batch["pixel_values"], retain_graph=True)
        assert grad[row].any()
        grad[row] = 0
        assert not grad.any()
    alone = caption_loss(model, {name: tensor[1:2] for name, tensor in batch.items()})
    torch.testing.assert_close(alone[0], losses[1], rtol=1e-10, atol=1e-12)


def test_dropout_reaches_both_towers() -> None:
    model = make(dropout=0.25)
    rates = {module.p for module in model.modules() if isinstance(module, nn.Dropout)}
    assert 0.25 in rates
    assert model.config.decoder.dropout == 0.25
    assert model.config.encoder.hidden_dropout_prob == 0.25
    assert all(module.p == 0 for module in make().modules() if isinstance(module, nn.Dropout))


def test_embed_is_the_mean_of_the_tokens_and_leaves_the_mode() -> None:
    model = make(dropout=0.5)
    model.decoder.eval()
    pixels = torch.randn(4, 1, 28, 28)
    features = embed(model, pixels)
    assert model.training
    assert model.encoder.training
    assert not model.decoder.training
    assert not features.requires_grad
    torch.testing.assert_close(features, model.eval().encoder(pixels).last_hidden_state.mean(1))
    assert features.shape == (4, 576)


def test_cross_attention_maps() -> None:
    model = make()
    batch = batch_for(model, 28)
    maps = cross_attention(model, **batch)
    assert maps.shape == (3, TOKENS, 49)
    torch.testing.assert_close(maps.sum(-1), torch.ones(3, TOKENS))
    assert model.config.decoder._attn_implementation == "sdpa"
    assert model.training


def test_any_picture_size_for_micro() -> None:
    model = make(image_size=64).eval()
    assert embed(model, torch.randn(1, 1, 40, 40)).shape == (1, 576)  # no position table: sizes may change


def test_settings_that_do_not_fit() -> None:
    with pytest.raises(BadInput, match="max_tokens"):
        make(max_tokens=1)
    with pytest.raises(BadInput, match="vocabulary of 3"):
        make(vocab_size=3)
    with pytest.raises(BadInput, match="flash"):
        make(attention="flash")


def test_counts_leave_out_what_is_frozen() -> None:
    model = make()
    counts = count_parameters(model)
    held = sum(model.get_parameter(name).numel() for name in absent(model))
    assert counts.total == counts.encoder + counts.decoder == counts.trained + held
