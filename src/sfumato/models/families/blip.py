"""BLIP: answers by `BlipForQuestionAnswering`, captions with the question as their beginning by its captioner."""

from typing import Any

import numpy as np
from torch import Tensor, nn
from transformers.models.blip.modeling_blip_text import BlipTextAttention

from sfumato.base import BadInput
from sfumato.models.families.decoder import Decoder
from sfumato.models.families.encoder_decoder import EncoderDecoder, Memory
from sfumato.models.families.family import QUESTION, Rows, Setup, require_positions
from sfumato.models.families.prompts import blank_image, filled, pixels_of
from sfumato.models.families.words import words_of


class BlipAnswering(EncoderDecoder):
    """`BlipForQuestionAnswering`: a question encoder that attends to the picture, and an answer decoder.

    Its own forward returns one scalar; the same three modules are called here for the logits. The answer begins with
    the configuration's start token, as in `generate`, and ends with its end token ([SEP]).
    """

    name = "BlipForQuestionAnswering"

    def __init__(self, setup: Setup) -> None:
        self.prompt = setup.prompt or QUESTION
        self.image_processor = setup.processor.image_processor
        text = setup.config.text_config
        words = words_of(setup.processor.tokenizer, end=text.sep_token_id)
        self.tokenizer = setup.processor.tokenizer
        side = setup.fixed_side(setup.config.vision_config.image_size, self.name)
        _check_size(blank_image(self.image_processor), side, self.name)
        length = len(self.tokenizer.encode(filled(self.prompt, ""))) + setup.max_question
        require_positions(length + setup.max_answer, text.max_position_embeddings)
        super().__init__(setup, words, length, text.bos_token_id, {"image_size": side, "prompt": self.prompt})

    def read(self, picture: np.ndarray, question: str) -> tuple[list[int], list[int], Rows]:
        ids = self.tokenizer.encode(filled(self.prompt, question))
        return ids, [0] * len(ids), {"pixel_values": pixels_of(self.image_processor, picture)}

    def remember(self, model: Any, batch: Rows) -> Memory:
        image = model.vision_model(pixel_values=batch["pixel_values"]).last_hidden_state
        mask = batch["attention_mask"]
        question = model.text_encoder(
            input_ids=batch["input_ids"],
            attention_mask=mask,
            position_ids=self.positions(batch),
            encoder_hidden_states=image,
        )
        return question.last_hidden_state, mask

    def decode(self, model: Any, memory: Memory, ids: Tensor) -> Tensor:
        states, mask = memory
        out = model.text_decoder(
            input_ids=ids, encoder_hidden_states=states, encoder_attention_mask=mask, use_cache=False
        )
        return out.logits


class BlipCaptioning(Decoder):
    """`BlipForConditionalGeneration`: a text decoder that attends to the picture; the question is its beginning."""

    name = "BlipForConditionalGeneration"

    def __init__(self, setup: Setup) -> None:
        self.prompt = setup.prompt or QUESTION
        self.image_processor = setup.processor.image_processor
        text = setup.config.text_config
        self.start_id = text.bos_token_id
        words = words_of(setup.processor.tokenizer, end=text.sep_token_id)
        side = setup.fixed_side(setup.config.vision_config.image_size, self.name)
        _check_size(blank_image(self.image_processor), side, self.name)
        length = 1 + len(words.ids(filled(self.prompt, ""))) + setup.max_question
        require_positions(length + setup.max_answer, text.max_position_embeddings)
        super().__init__(setup, words, length, {"image_size": side, "prompt": self.prompt})

    def read(self, picture: np.ndarray, question: str) -> tuple[list[int], list[int], Rows]:
        ids = [self.start_id, *self.words.ids(filled(self.prompt, question))]
        return ids, [0] * len(ids), {"pixel_values": pixels_of(self.image_processor, picture)}

    def see(self, model: Any, batch: Rows) -> Tensor:
        return model.vision_model(pixel_values=batch["pixel_values"]).last_hidden_state

    def run(self, model: Any, batch: Rows, seen: Tensor | None, keep: int) -> Tensor:
        out = model.text_decoder(
            input_ids=batch["input_ids"],
            attention_mask=batch["attention_mask"],
            position_ids=self.positions(batch),
            encoder_hidden_states=seen,
            use_cache=False,
            logits_to_keep=keep,
        )
        return out.logits


class _HeldTextAttention(BlipTextAttention):
    """Attention to the question that hands its mask on; transformers drops it, and answers then read the padding."""

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        **cache: Any,
    ) -> tuple[Tensor, Tensor]:
        seen, weights = self.self(
            hidden_states,
            attention_mask=attention_mask,
            encoder_hidden_states=encoder_hidden_states,
            encoder_attention_mask=attention_mask,  # its own name for the mask of what is attended to
            **cache,  # under whichever name this version of transformers gives it
        )
        return self.output(seen, hidden_states), weights


def hold_masks(model: nn.Module) -> None:
    """Make BLIP's text attention heed the mask of what it attends to, in place.

    A question without padding gives the same answer with and without it, so that exports agree. Only the class changes,
    by which `forward` is found: names of tensors do not.
    """
    for module in model.modules():
        if type(module) is BlipTextAttention:
            module.__class__ = _HeldTextAttention


def _check_size(blank: Tensor, side: int, name: str) -> None:
    if tuple(blank.shape) != (3, side, side):
        raise BadInput(
            f"{name}: the image processor makes pictures of {tuple(blank.shape)}, the model takes (3, {side}, {side})."
        )
