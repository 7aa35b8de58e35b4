"""Captions for pictures."""

from typing import Any, cast

from torch import Tensor
from transformers import VisionEncoderDecoderModel

from sfumato.models.captioner import evaluating
from sfumato.models.tokenizer import Tokenizer


def generate_captions(
    model: VisionEncoderDecoderModel, tokenizer: Tokenizer, pixel_values: Tensor, *, num_beams: int = 1
) -> list[str]:
    """Return one caption per picture: greedy, or by beam search.

    Args:
        pixel_values: (N, C, H, W), normalised as in training.
    """
    with evaluating(model):
        ids = cast(Any, model).generate(pixel_values, num_beams=num_beams)
    return tokenizer.decode(ids[:, 1:])  # the first column is the start token
