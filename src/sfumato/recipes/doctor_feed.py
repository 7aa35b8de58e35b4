"""Made-up rows for models that write text from pictures, from a configuration alone, and one loss for each row.

N rows, L text tokens, V vocabulary, T places that a picture takes among the text tokens.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sfumato.base import BadInput
from sfumato.base.reason import reason

_ALIKE = ("blip", "blip-2", "git", "llava", "paligemma")  # fed with one square picture and a line of words
_FIRST = 5  # ids below are often special
IGNORED = -100


@dataclass(frozen=True)
class RowLoss:
    """Mean cross entropy of each row over its own labels, (N,): a stand-in for a family's own loss.

    Attributes:
        shift: whether logits at t predict the label at t + 1, as in a causal language model.
        question: whether the text goes through an encoder of its own and the labels to a decoder (BLIP for VQA).
    """

    shift: bool = True
    question: bool = False

    def __call__(self, model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        labels = batch["labels"]
        logits = _answers(model, batch) if self.question else _texts(model, batch)
        logits = logits[:, -labels.shape[1] :]
        if self.shift:
            logits, labels = logits[:, :-1], labels[:, 1:]
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        losses = nn.functional.cross_entropy(
            logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="none"
        )
        return losses.view(labels.shape).sum(1) / (labels != IGNORED).sum(1).clamp(min=1)


def _texts(model: Any, batch: Mapping[str, Tensor]) -> Tensor:
    given = {name: tensor for name, tensor in batch.items() if name != "labels"}
    return model(**given, use_cache=False).logits


def _answers(model: Any, batch: Mapping[str, Tensor]) -> Tensor:
    image = model.vision_model(pixel_values=batch["pixel_values"]).last_hidden_state
    asked = model.text_encoder(
        input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], encoder_hidden_states=image
    )[0]
    labels = batch["labels"]
    ids = labels.masked_fill(labels == IGNORED, model.decoder_pad_token_id)
    out = model.text_decoder(
        input_ids=ids, encoder_hidden_states=asked, encoder_attention_mask=batch["attention_mask"], use_cache=False
    )
    return out.logits


@dataclass(frozen=True, kw_only=True)
class Feed:
    """Makes rows of random pixels and words in the shapes that a model reads.

    Attributes:
        image_size, channels, max_tokens, vocab_size: public shapes.
        image_token, places: the token that stands for a picture among the words, and how often; None: nowhere.
        answer: the labels are a text of their own (BLIP for VQA).
    """

    image_size: int
    channels: int
    max_tokens: int
    vocab_size: int
    image_token: int | None = None
    places: int = 0
    answer: bool = False

    def __call__(self, num_rows: int) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(0)
        words = torch.randint(_FIRST, self.vocab_size, (num_rows, self.max_tokens), generator=generator)
        if self.image_token is not None:
            words = torch.where(words == self.image_token, _FIRST - 1, words)
            before = torch.full((num_rows, self.places), self.image_token)
            words = torch.cat([before, words], 1)
        labels = (
            words.masked_fill(words == self.image_token, IGNORED) if self.image_token is not None else words.clone()
        )
        if self.answer:
            labels = torch.randint(_FIRST, self.vocab_size, (num_rows, self.max_tokens // 2 + 1), generator=generator)
        side = self.image_size
        return {
            "pixel_values": torch.randn(num_rows, self.channels, side, side, generator=generator),
            "input_ids": words,
            "attention_mask": torch.ones_like(words),
            "labels": labels,
        }


def feed_of(model: Any, *, image_size: int, channels: int, max_tokens: int) -> tuple[Feed, RowLoss]:
    """Return made-up rows and the loss of a model of transformers that writes text.

    Raises:
        BadInput: only its processor knows how this model is fed.
    """
    config = model.config
    if config.model_type not in _ALIKE or config.get_text_config().is_encoder_decoder:
        raise BadInput(
            f"how a {type(model).__name__} is fed its processor decides, and this folder has a configuration alone: "
            "put processor and weights beside it, as save_pretrained of both writes them."
        )
    text = config.get_text_config()
    question = type(model).__name__.endswith("ForQuestionAnswering")
    token = _image_token(config)
    feed = Feed(
        image_size=image_size,
        channels=channels,
        max_tokens=max_tokens,
        vocab_size=text.vocab_size,
        image_token=token,
        places=_places(model, channels, image_size, text.hidden_size) if token is not None else 0,
        answer=question,
    )
    return feed, RowLoss(question=question)


def _image_token(config: Any) -> int | None:
    for name in ("image_token_id", "image_token_index"):
        if isinstance(found := getattr(config, name, None), int) and found >= 0:
            return found
    return None


@torch.no_grad()
def _places(model: Any, channels: int, image_size: int, width: int) -> int:
    """Return how many places one picture takes among the words."""
    pixels = torch.zeros(1, channels, image_size, image_size)
    try:
        found = model.get_image_features(pixel_values=pixels)
    except Exception as error:
        why = reason(error)
        raise BadInput(f"{type(model).__name__} cannot be fed with made-up pictures here: {why}") from error
    found = getattr(found, "pooler_output", found)
    tensors = found if isinstance(found, list | tuple) else [found]
    return sum(tensor.numel() for tensor in tensors) // width
