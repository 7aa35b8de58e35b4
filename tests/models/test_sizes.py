"""The sizes of the paper, counted without allocating them."""

import pytest
import torch
from transformers import VisionEncoderDecoderModel

from sfumato.base import BadInput
from sfumato.models import SIZES, captioner_config, count_parameters
from sfumato.models.sizes import named_size

# Millions in the encoder, millions in all: PAPERS section 1.
PAPER = {
    "nano": (5.5, 20.8),
    "tiny": (21.6, 59.4),
    "small": (48.3, 115.7),
    "base": (85.6, 189.8),
    "large": (303.0, 407.4),
}


def skeleton(size: str, **changes) -> VisionEncoderDecoderModel:
    fields = {"vocab_size": 30_522, "image_size": 224, "max_tokens": 40} | changes
    with torch.device("meta"):
        return VisionEncoderDecoderModel(captioner_config(size, **fields))


@pytest.mark.parametrize("size", PAPER)
def test_paper_sizes_within_one_percent(size: str) -> None:
    counts = count_parameters(skeleton(size))
    encoder, total = PAPER[size]
    assert counts.encoder / 1e6 == pytest.approx(encoder, rel=0.01)
    assert counts.total / 1e6 == pytest.approx(total, rel=0.01)


@pytest.mark.parametrize("size", PAPER)
def test_every_parameter_is_explained(size: str) -> None:
    """The count by hand, difference by difference as docs/captioner.md lists them."""
    counts, config = (
        count_parameters(skeleton(size)),
        captioner_config(size, vocab_size=30_522, image_size=224, max_tokens=40),
    )
    d, depth = config.encoder.hidden_size, config.encoder.num_hidden_layers
    block = 12 * d * d + 6 * d + 4 * d  # q k v o, MLP x4; biases of o and the MLP; two norms
    assert counts.encoder == depth * block + (3 * 256 * d + d) + (197 * d + d) + 2 * d
    w = config.decoder.d_model
    text_block = 16 * w * w + 6 * w + 13 * w  # two attentions, MLP x4; three norms; biases held at zero
    tower = 6 * text_block + 2 * 30_522 * w + (40 + 2) * w + 4 * w  # embedding and head, positions (two unused), norms
    assert counts.decoder == tower + (d * w + w if d != w else 0)


def test_micro_is_small() -> None:
    counts = count_parameters(skeleton("micro", vocab_size=100, image_size=28, max_tokens=16, channels=1))
    assert 100_000 < counts.total < 300_000


@pytest.mark.parametrize("size", [*PAPER, "micro"])
def test_other_image_sizes_vocabularies_lengths(size: str) -> None:
    model = skeleton(size, vocab_size=77, image_size=64, max_tokens=9, channels=1)
    assert model.decoder.lm_head.weight.shape[0] == 77
    assert model.decoder.model.decoder.embed_positions.weight.shape[0] == 9 + 2
    assert next(model.encoder.parameters()).device.type == "meta"


def test_unknown_size_lists_the_names() -> None:
    with pytest.raises(BadInput, match="pico, micro, nano, tiny, small, base, large"):
        named_size("huge")
    assert set(SIZES) == {"pico", "micro", *PAPER}


@pytest.mark.parametrize(("size", "image_size"), [("nano", 28), ("nano", 8), ("micro", 7)])
def test_image_size_that_does_not_tile(size: str, image_size: int) -> None:
    with pytest.raises(BadInput, match=str(image_size)):
        captioner_config(size, vocab_size=50, image_size=image_size, max_tokens=8)
