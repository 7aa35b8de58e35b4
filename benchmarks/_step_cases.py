"""The models of step_time.py: random weights and random inputs, each row with a loss of its own."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
import transformers
from torch import Tensor, nn

from sfumato import models
from sfumato.losses import caption_loss

VOCAB = 30_522
MICRO = {"hidden_size": 128, "num_attention_heads": 4, "intermediate_size": 512}
SMALL = {"hidden_size": 384, "num_attention_heads": 6, "intermediate_size": 1536}


@dataclass(frozen=True, kw_only=True)
class Case:
    """One model under measurement.

    Attributes:
        about: what it is, for the table.
        rows: micro-batch size.
        build: makes the model.
        loss_fn: (model, batch) -> (rows,).
        batch: rows -> synthetic micro-batch.
        embed: (model, batch) -> u, v, for a case of a contrastive loss; then `loss_fn` is not used.
        group_rows: rows of a group there.
        parts: micro-batches into which a group that is larger than one is cut.
    """

    about: str
    rows: int
    build: Callable[[], nn.Module]
    loss_fn: Callable[[Any, Any], Tensor]
    batch: Callable[[int], dict[str, Tensor]]
    embed: Callable[[Any, Any], tuple[Tensor, Tensor]] | None = None
    group_rows: int = 1
    parts: int = 2


def _captioner(size: str, image_size: int, max_tokens: int, vocab_size: int = VOCAB) -> Callable[[], nn.Module]:
    return lambda: models.build(size, vocab_size=vocab_size, image_size=image_size, max_tokens=max_tokens, seed=0)


def _captions(image_size: int, max_tokens: int, vocab_size: int = VOCAB) -> Callable[[int], dict[str, Tensor]]:
    def batch(rows: int) -> dict[str, Tensor]:
        labels = torch.randint(4, vocab_size, (rows, max_tokens))
        lengths = torch.randint(max_tokens // 2, max_tokens + 1, (rows, 1))
        labels[torch.arange(max_tokens) >= lengths] = -100
        return {"pixel_values": torch.randn(rows, 3, image_size, image_size), "labels": labels}

    return batch


def _clip(image_size: int = 224, layers: int = 12, sizes: dict[str, int] = SMALL) -> nn.Module:
    text = {**sizes, "num_hidden_layers": layers, "vocab_size": VOCAB, "max_position_embeddings": 32, "eos_token_id": 2}
    vision = {**sizes, "num_hidden_layers": layers, "image_size": image_size, "patch_size": 16}
    config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=sizes["hidden_size"])
    return transformers.CLIPModel(config).train()


def _clip_embed(model: Any, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    image = model.visual_projection(model.vision_model(pixel_values=batch["pixel_values"]).pooler_output)
    text = model.text_projection(model.text_model(input_ids=batch["ids"]).pooler_output)
    return F.normalize(image, dim=-1), F.normalize(text, dim=-1)


def _matching_loss(model: Any, batch: dict[str, Tensor]) -> Tensor:
    """The sigmoid loss of the matching pair alone, so that a row depends on no other row."""
    image, text = _clip_embed(model, batch)
    return F.softplus(-(image * text).sum(-1) * model.logit_scale.exp())


def _blip(image_size: int = 224, layers: int = 12) -> nn.Module:
    text = {
        **SMALL, "num_hidden_layers": layers // 2, "vocab_size": VOCAB, "max_position_embeddings": 32,
        "encoder_hidden_size": 384, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0,
    }  # fmt: skip
    vision = {**SMALL, "num_hidden_layers": layers, "image_size": image_size, "patch_size": 16}
    config = transformers.BlipConfig(text_config=text, vision_config=vision, projection_dim=384)
    return transformers.BlipForQuestionAnswering(config).train()


def _answer_loss(model: Any, batch: dict[str, Tensor]) -> Tensor:
    """Cross entropy of the answer, averaged over each row's own tokens."""
    image = model.vision_model(pixel_values=batch["pixel_values"]).last_hidden_state
    question = model.text_encoder(input_ids=batch["ids"], encoder_hidden_states=image)[0]
    answer = batch["answer"]
    logits = model.text_decoder(input_ids=answer, encoder_hidden_states=question).logits[:, :-1]
    return F.cross_entropy(logits.transpose(1, 2), answer[:, 1:], reduction="none").mean(1)


def _pictures_and_ids(image_size: int = 224, **lengths: int) -> Callable[[int], dict[str, Tensor]]:
    def batch(rows: int) -> dict[str, Tensor]:
        ids = {name: torch.randint(3, VOCAB, (rows, length)) for name, length in lengths.items()}
        return {"pixel_values": torch.randn(rows, 3, image_size, image_size), **ids}

    return batch


CASES = {
    "micro": Case(
        about="captioner micro, 112 px, 16 tokens of 1,000",
        rows=32,
        build=_captioner("micro", 112, 16, 1000),
        loss_fn=caption_loss,
        batch=_captions(112, 16, 1000),
    ),
    "tiny": Case(
        about="captioner tiny, 224 px, 40 tokens",
        rows=8,
        build=_captioner("tiny", 224, 40),
        loss_fn=caption_loss,
        batch=_captions(224, 40),
    ),
    "clip": Case(
        about="CLIPModel, two towers 384 x 12, 224/16 px, 32 tokens, one pair per row",
        rows=8,
        build=_clip,
        loss_fn=_matching_loss,
        batch=_pictures_and_ids(ids=32),
    ),
    "blip": Case(
        about="BlipForQuestionAnswering, 384 x 12 + 6 + 6, 224/16 px, question 20, answer 10 tokens",
        rows=8,
        build=_blip,
        loss_fn=_answer_loss,
        batch=_pictures_and_ids(ids=20, answer=10),
    ),
    "dual": Case(
        about="micro dual encoder, two towers 128 x 4, 112/16 px, 32 tokens, InfoNCE",
        rows=32,
        build=lambda: _clip(112, 4, MICRO),
        loss_fn=_matching_loss,
        batch=_pictures_and_ids(112, ids=32),
        embed=_clip_embed,
        group_rows=4,
    ),
    "clip-contrast": Case(
        about="CLIPModel, two towers 384 x 12, 224/16 px, 32 tokens, InfoNCE",
        rows=8,
        build=_clip,
        loss_fn=_matching_loss,
        batch=_pictures_and_ids(ids=32),
        embed=_clip_embed,
        group_rows=2,
    ),
}
