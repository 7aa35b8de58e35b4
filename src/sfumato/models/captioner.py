"""The captioner: transformers' `VisionEncoderDecoderModel` in the sizes of DP-Cap, and what is asked of it.

N examples, C channels, H = W pixels, T image tokens, D encoder width, L text tokens.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import GenerationConfig, PreTrainedConfig, VisionEncoderDecoderConfig, VisionEncoderDecoderModel

from sfumato.base import BadInput
from sfumato.models.initialise import as_key, initialise, torch_seed
from sfumato.models.sizes import decoder_config, named_size

Attention = Literal["sdpa", "eager"]


@dataclass(frozen=True, kw_only=True)
class Counts:
    """Numbers of parameters; `trained` leaves out what is frozen, `decoder` has the projection between the towers."""

    encoder: int
    decoder: int
    total: int
    trained: int


def captioner_config(
    size: str,
    *,
    vocab_size: int,
    image_size: int,
    max_tokens: int,
    channels: int = 3,
    dropout: float = 0.0,
    pad_id: int = 0,
    bos_id: int = 2,
    eos_id: int = 3,
) -> VisionEncoderDecoderConfig:
    """Return the configuration of the captioner `size`; BadInput names the setting that does not fit."""
    spec = named_size(size)
    if max_tokens < 2:
        raise BadInput(f"max_tokens must be >= 2 (one word and the end), got {max_tokens}.")
    if max(pad_id, bos_id, eos_id) >= vocab_size:
        raise BadInput(f"a special token ({pad_id}, {bos_id}, {eos_id}) lies outside the vocabulary of {vocab_size}.")
    text = decoder_config(
        spec,
        vocab_size=vocab_size,
        max_tokens=max_tokens,
        dropout=dropout,
        pad_id=pad_id,
        bos_id=bos_id,
        eos_id=eos_id,
    )
    return join(spec.encoder(image_size, channels, dropout), text, size=size, without_bias=("encoder", "decoder"))


def join(
    encoder: PreTrainedConfig, decoder: PreTrainedConfig, *, size: str, without_bias: Sequence[str]
) -> VisionEncoderDecoderConfig:
    """Join the two towers' configurations; `config.sfumato` records which towers lack biases (see `absent`)."""
    config: Any = VisionEncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder)
    for name in ("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id"):
        setattr(config, name, getattr(decoder, name))
    config.tie_word_embeddings = False
    config.sfumato = {"size": size, "without_bias": list(without_bias)}
    return config


def assemble(
    config: VisionEncoderDecoderConfig, *, max_tokens: int, seed: bytes | int, attention: Attention = "sdpa"
) -> VisionEncoderDecoderModel:
    """Make the model of `config` with transformers' own initial weights, drawn from `seed` alone."""
    if attention not in ("sdpa", "eager"):
        raise BadInput(f"attention is sdpa or eager, got {attention!r}.")
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(torch_seed(as_key(seed), "assemble"))
        model = VisionEncoderDecoderModel._from_config(config, attn_implementation=attention)
    model.generation_config = GenerationConfig(
        max_new_tokens=max_tokens,
        do_sample=False,
        pad_token_id=config.pad_token_id,
        bos_token_id=config.bos_token_id,
        eos_token_id=config.eos_token_id,
        decoder_start_token_id=config.decoder_start_token_id,
    )
    return model


def build(
    size: str,
    *,
    vocab_size: int,
    image_size: int,
    max_tokens: int,
    channels: int = 3,
    seed: bytes | int,
    dropout: float = 0.0,
    attention: Attention = "sdpa",
    pad_id: int = 0,
    bos_id: int = 2,
    eos_id: int = 3,
) -> VisionEncoderDecoderModel:
    """Return a captioner with initial weights that are a function of `seed`; global random state stays as it was.

    Args:
        size: micro, nano, tiny, small, base or large.
        vocab_size: entries of the tokenizer.
        image_size: pixels of a side; a multiple of 16, or any from 8 on for micro.
        max_tokens: public text length: the tokens of a caption and its end token.
        channels: 3, or 1 for gray pictures.
        seed: 32 secret bytes, or a number. The initial weights are public.
        dropout: probability in both towers.
        attention: transformers' implementation.
        pad_id, bos_id, eos_id: those of the tokenizer; the defaults are those of vocabularies built here.

    Raises:
        BadInput: a size without name, an image size that the patches do not tile, ids outside the vocabulary.

    Source: sizes of PAPERS section 1; `docs/captioner.md` lists the differences.
    """
    config = captioner_config(
        size,
        vocab_size=vocab_size,
        image_size=image_size,
        max_tokens=max_tokens,
        channels=channels,
        dropout=dropout,
        pad_id=pad_id,
        bos_id=bos_id,
        eos_id=eos_id,
    )
    model = assemble(config, max_tokens=max_tokens, seed=seed, attention=attention)
    initialise(model, as_key(seed), named_size(size).init_std)
    hold_absent(model)
    return model.train()


def absent(model: VisionEncoderDecoderModel) -> tuple[str, ...]:
    """Return the names of the biases that the architecture does not have: they are held at zero and never train.

    The paper's model has no query, key and value bias in the encoder and no bias in the decoder's attention and MLP,
    but the classes of transformers make some of them in any case. A bias held at zero is none. The towers of foreign
    checkpoints keep their biases.
    """
    towers = getattr(model.config, "sfumato", {}).get("without_bias", ())
    return tuple(name for name, _ in model.named_parameters() if name.split(".")[0] in towers and _is_absent(name))


def _is_absent(name: str) -> bool:
    tower, *_, module, leaf = name.split(".")
    layers = {"q_proj", "k_proj", "v_proj"} | ({"out_proj", "fc1", "fc2"} if tower == "decoder" else set())
    return leaf == "bias" and module in layers


def hold_absent(model: VisionEncoderDecoderModel) -> None:
    """Switch the gradient of every absent bias off."""
    for name in absent(model):
        model.get_parameter(name).requires_grad_(False)


def tower(model: VisionEncoderDecoderModel, name: Literal["encoder", "decoder"]) -> Any:
    """Return a tower, which transformers declares optional and a captioner always has."""
    return getattr(model, name)


def count_parameters(model: VisionEncoderDecoderModel) -> Counts:
    """Count parameters by tower; works on the meta device."""
    total = sum(p.numel() for p in model.parameters())
    encoder = sum(p.numel() for p in tower(model, "encoder").parameters())
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return Counts(encoder=encoder, decoder=total - encoder, total=total, trained=trained)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Switch dropout and gradients off inside the `with`; every module's own mode comes back afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training


def embed(model: VisionEncoderDecoderModel, pixel_values: Tensor) -> Tensor:
    """Return the features of pictures: the mean over the encoder's output tokens, without gradient.

    Args:
        pixel_values: (N, C, H, W), normalised as in training.

    Returns:
        (N, D) in float32.

    Source: evaluation protocol of PAPERS section 1.
    """
    with evaluating(model):
        return tower(model, "encoder")(pixel_values=pixel_values).last_hidden_state.float().mean(dim=1)


def cross_attention(model: VisionEncoderDecoderModel, pixel_values: Tensor, labels: Tensor) -> Tensor:
    """Return where each text token looks: cross attention averaged over layers and heads.

    Args:
        pixel_values: (N, C, H, W).
        labels: (N, L) token ids, -100 on padding.

    Returns:
        (N, L, T), each row summing to one.
    """
    decoder = tower(model, "decoder")
    before = decoder.config._attn_implementation
    decoder.set_attn_implementation("eager")  # sdpa does not return its weights
    try:
        with evaluating(model):
            image = tower(model, "encoder")(pixel_values=pixel_values).last_hidden_state
            out = model(encoder_outputs=(image,), labels=labels, output_attentions=True, use_cache=False)
    finally:
        decoder.set_attn_implementation(before)
    return torch.stack(out.cross_attentions).mean(dim=(0, 2))
