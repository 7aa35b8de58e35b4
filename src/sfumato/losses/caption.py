"""The captioner's loss, one value per example, and the likelihood of given captions.

N examples, L text tokens, V vocabulary, T image tokens, D encoder width.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

IGNORED = -100


@dataclass(frozen=True, kw_only=True)
class Likelihood:
    """Log-likelihood of captions.

    Attributes:
        total: (N,) sum over the caption's tokens, the end token included, in nats.
        num_tokens: (N,) how many tokens that are.
    """

    total: Tensor
    num_tokens: Tensor

    @property
    def per_token(self) -> Tensor:
        """(N,) mean over the caption's own tokens; 0 where it has none."""
        return self.total / self.num_tokens.clamp(min=1)


def caption_loss(model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    """Return the next-token cross entropy of each example, averaged over its own tokens.

    loss_i = -(1 / n_i) sum_t log p(y_it | y_i1 .. y_i(t-1), image_i), n_i the number of labels that are not -100; a row
    without any gives 0. Rows are independent: no mean over the batch's tokens, which would let one example's length
    weigh the others.

    Args:
        model: a `VisionEncoderDecoderModel`.
        batch: `pixel_values` (N, C, H, W) float; `labels` (N, L) int64, -100 on padding, L the public text length.

    Returns:
        (N,) in at least float32, whatever the model computes in.

    Source: PAPERS section 1 [code].
    """
    labels = batch["labels"]
    logits = caption_logits(model, labels, pixel_values=batch["pixel_values"])
    return -likelihood(logits, labels).per_token


def encode_images(model: Any, pixel_values: Tensor) -> Tensor:
    """Return the encoder's tokens (N, T, D) of pictures (N, C, H, W)."""
    return model.encoder(pixel_values=pixel_values).last_hidden_state


def caption_log_likelihood(
    model: nn.Module, labels: Tensor, *, pixel_values: Tensor | None = None, image_tokens: Tensor | None = None
) -> Likelihood:
    """Return the log-likelihood of each caption given its picture.

    Args:
        labels: (N, L) int64, -100 on padding.
        pixel_values: (N, C, H, W), or
        image_tokens: (N, T, D) of `encode_images`, computed once for many captions.
    """
    if image_tokens is not None:
        return likelihood(caption_logits(model, labels, encoder_outputs=(image_tokens,)), labels)
    return likelihood(caption_logits(model, labels, pixel_values=pixel_values), labels)


def decoder_inputs(labels: Tensor, *, start_id: int, pad_id: int) -> Tensor:
    """Return the labels shifted one to the right behind the start token, -100 replaced by padding, (N, L)."""
    first = torch.full_like(labels[:, :1], start_id)
    shifted = torch.cat([first, labels[:, :-1]], dim=1)
    return shifted.masked_fill(shifted == IGNORED, pad_id)


def caption_logits(model: Any, labels: Tensor, **image: Any) -> Tensor:
    """Return the logits (N, L, V) that predict `labels`, in at least float32; `image` names the model's image input."""
    config = model.config
    inputs = decoder_inputs(labels, start_id=config.decoder_start_token_id, pad_id=config.pad_token_id)
    # No attention mask: padding stands behind the caption, where causal attention does not look.
    logits = model(**image, decoder_input_ids=inputs, use_cache=False).logits
    # Half precision would round the log-sum-exp over a large vocabulary; float64 stays what it is.
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def likelihood(logits: Tensor, labels: Tensor) -> Likelihood:
    """Return the log-likelihood of labels (N, L), -100 where there is none, under logits (N, L, V)."""
    nll = nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="none")
    return Likelihood(total=-nll.view(labels.shape).sum(dim=1), num_tokens=(labels != IGNORED).sum(dim=1))
