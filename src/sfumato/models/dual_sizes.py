"""The two sizes of dual encoder that start at random: micro for a CPU and small pictures, tiny for 224 pixels."""

from typing import Any

import torch
from torch import nn
from transformers import CLIPConfig, CLIPModel, VisionTextDualEncoderConfig, VisionTextDualEncoderModel

from sfumato.base import BadInput
from sfumato.models.initialise import as_key, initialise, torch_seed
from sfumato.models.modeling_sfumato_words import WordsConfig
from sfumato.models.sizes import PATCH, named_size
from sfumato.models.tokenizer import Tokenizer

DUAL_SIZES = ("micro", "tiny")
_EMBED_DIM = {"micro": 64, "tiny": 256}


def build_dual(
    size: str,
    *,
    tokenizer: Tokenizer,
    image_size: int,
    max_tokens: int,
    channels: int,
    seed: bytes | int,
    dropout: float,
    embed_dim: int | None,
) -> Any:
    """Return a dual encoder of `size` with initial weights that are a function of `seed`, as `captioner.build`.

    `micro` is the captioner's convolutional stem beside one BERT layer, both read out as means; `tiny` is a CLIP: a ViT
    of 12 layers of width 192 beside a text transformer of 4.

    Raises:
        BadInput: a size without name, an image size that does not fit.
    """
    if size not in DUAL_SIZES:
        raise BadInput(f"there is no dual encoder of size {size!r}; the sizes are {', '.join(DUAL_SIZES)}.")
    build = _micro if size == "micro" else _tiny
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(torch_seed(as_key(seed), "assemble"))
        model: Any = build(
            tokenizer, image_size, max_tokens, channels, dropout, embed_dim if embed_dim else _EMBED_DIM[size]
        )
    initialise(model, as_key(seed), None if size == "micro" else 0.02)
    with torch.no_grad():
        model.logit_scale.fill_(model.config.logit_scale_init_value)
    return model


def _micro(
    tokenizer: Tokenizer, image_size: int, max_tokens: int, channels: int, dropout: float, embed_dim: int
) -> nn.Module:
    text = WordsConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=64,
        num_hidden_layers=1,
        num_attention_heads=4,
        intermediate_size=128,
        max_position_embeddings=max_tokens,
        type_vocab_size=1,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        pad_token_id=tokenizer.pad_id,
        bos_token_id=tokenizer.bos_id,
        eos_token_id=tokenizer.eos_id,
    )
    image = named_size("micro").encoder(image_size, channels, dropout)
    config = VisionTextDualEncoderConfig.from_vision_text_configs(image, text, projection_dim=embed_dim)
    return VisionTextDualEncoderModel(config)


def _tiny(
    tokenizer: Tokenizer, image_size: int, max_tokens: int, channels: int, dropout: float, embed_dim: int
) -> nn.Module:
    if image_size < PATCH or image_size % PATCH:
        raise BadInput(f"image size {image_size} is not a multiple of the patch of {PATCH} pixels.")
    shared = {"hidden_size": 192, "num_attention_heads": 3, "intermediate_size": 768, "attention_dropout": dropout}
    image = {"num_hidden_layers": 12, "image_size": image_size, "patch_size": PATCH, "num_channels": channels}
    text = {
        "num_hidden_layers": 4,
        "vocab_size": tokenizer.vocab_size,
        "max_position_embeddings": max_tokens,
        "pad_token_id": tokenizer.pad_id,
        "bos_token_id": tokenizer.bos_id,
        "eos_token_id": tokenizer.eos_id,
    }
    config = CLIPConfig(
        vision_config=shared | image | {"hidden_act": "gelu"},
        text_config=shared | text | {"hidden_act": "gelu"},
        projection_dim=embed_dim,
    )
    return CLIPModel(config)
