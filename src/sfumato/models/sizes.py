"""The sizes of the captioner: one encoder configuration and one decoder configuration each (PAPERS section 1).

Everything here is a configuration of transformers' own classes, so that an exported folder loads without sfumato. The
classes were chosen for what they leave out: `ViTMSNModel` is transformers' ViT without a pooler (a pooler never gets a
gradient here), `MBartForCausalLM` a pre-norm decoder with learned positions. The convolutional encoder of micro is no
class of transformers: its file travels with every export.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from transformers import MBartConfig, PreTrainedConfig, ViTMSNConfig

from sfumato.base import BadInput
from sfumato.models.modeling_sfumato_stem import StemConfig

PATCH = 16


@dataclass(frozen=True, kw_only=True)
class Size:
    """Widths, depths and heads of one captioner.

    Attributes:
        encoder: (image_size, channels, dropout) -> configuration of the image encoder.
        dim, heads, depth, mlp: width, attention heads, layers and MLP width of the text decoder.
        init_std: standard deviation of the initial weights; None takes 1 / sqrt(fan-in) for each layer.
        max_tokens, vocab_size, image_size: what the paper takes, and the command line's default.
    """

    encoder: Callable[[int, int, float], PreTrainedConfig]
    dim: int
    heads: int
    depth: int
    mlp: int
    init_std: float | None
    max_tokens: int = 40
    vocab_size: int = 30_522
    image_size: int = 224


def _vit(dim: int, depth: int, heads: int) -> Callable[[int, int, float], PreTrainedConfig]:
    def config(image_size: int, channels: int, dropout: float) -> PreTrainedConfig:
        if image_size < PATCH or image_size % PATCH:
            raise BadInput(
                f"image size {image_size} is not a multiple of the patch of {PATCH} pixels; "
                "take a multiple, or the size micro, which has a convolutional stem."
            )
        return ViTMSNConfig(
            hidden_size=dim,
            num_hidden_layers=depth,
            num_attention_heads=heads,
            intermediate_size=4 * dim,
            qkv_bias=False,
            image_size=image_size,
            patch_size=PATCH,
            num_channels=channels,
            hidden_dropout_prob=dropout,
            attention_probs_dropout_prob=dropout,
        )

    return config


def _stem(num_waves: int) -> Callable[[int, int, float], PreTrainedConfig]:
    # Two strided convolutions bring 28 px to 7 x 7 places; three waves for each axis make a token of 64 * 9 numbers.
    def config(image_size: int, channels: int, dropout: float) -> PreTrainedConfig:
        if image_size < 8:
            raise BadInput(f"image size {image_size} is too small for the convolutional stem; the least is 8.")
        return StemConfig(
            num_channels=channels,
            hidden_sizes=(32, 64, 64),
            kernel_sizes=(3, 3, 3),
            strides=(2, 2, 1),
            hidden_dropout_prob=dropout,
            num_waves=num_waves,
        )

    return config


def _small(num_waves: int) -> Size:
    return Size(
        encoder=_stem(num_waves),
        dim=64,
        heads=4,
        depth=1,
        mlp=128,
        init_std=None,
        max_tokens=16,
        vocab_size=200,
        image_size=112,
    )


def _paper(encoder: tuple[int, int, int], dim: int, heads: int) -> Size:
    return Size(encoder=_vit(*encoder), dim=dim, heads=heads, depth=6, mlp=4 * dim, init_std=0.02)


SIZES: dict[str, Size] = {
    "pico": _small(num_waves=1),  # micro that knows no position: for pictures where it matters what, not where
    "micro": _small(num_waves=3),
    "nano": _paper((192, 12, 6), 192, 6),
    "tiny": _paper((384, 12, 6), 384, 6),
    "small": _paper((576, 12, 12), 576, 12),
    "base": _paper((768, 12, 12), 768, 12),
    "large": _paper((1024, 24, 16), 768, 12),
}


def named_size(size: str) -> Size:
    """Return the size called `size`; BadInput lists the names if there is none."""
    if size not in SIZES:
        raise BadInput(f"there is no captioner of size {size!r}; the sizes are {', '.join(SIZES)}.")
    return SIZES[size]


def decoder_config(
    size: Size, *, vocab_size: int, max_tokens: int, dropout: float, pad_id: int, bos_id: int, eos_id: int
) -> MBartConfig:
    """Return the configuration of a causal text decoder with cross attention and an untied head."""
    return MBartConfig(
        vocab_size=vocab_size,
        max_position_embeddings=max_tokens,
        d_model=size.dim,
        decoder_layers=size.depth,
        decoder_attention_heads=size.heads,
        decoder_ffn_dim=size.mlp,
        dropout=dropout,
        attention_dropout=dropout,
        is_decoder=True,
        is_encoder_decoder=False,
        tie_word_embeddings=False,  # transformers 5 ties unless told otherwise
        encoder_layers=0,  # this class has no encoder; zero keeps the exported file honest
        pad_token_id=pad_id,
        bos_token_id=bos_id,
        eos_token_id=eos_id,
        decoder_start_token_id=bos_id,
        forced_eos_token_id=None,
        **_extra(add_cross_attention=True),
    )


def _extra(**fields: Any) -> dict[str, Any]:
    # Fields of the base configuration that the class's own signature does not list.
    return fields
