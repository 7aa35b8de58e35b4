"""BLIP-2: query tokens read the picture, a language model (OPT, T5, ...) reads them with the question."""

from typing import Any

import numpy as np
from torch import Tensor

from sfumato.base import BadInput
from sfumato.models.families.decoder import Decoder
from sfumato.models.families.encoder_decoder import EncoderDecoder, Memory
from sfumato.models.families.family import QUESTION, Rows, Setup, require_positions
from sfumato.models.families.pictures import place
from sfumato.models.families.prompts import blank_image, filled, pixels_of
from sfumato.models.families.words import words_of

_PROMPT = f"Question: {QUESTION} Answer:"


class _Queries:
    """What both kinds of BLIP-2 share: the prompt behind the query tokens' places, and their features."""

    def __init__(self, setup: Setup) -> None:
        self.prompt = setup.prompt or _PROMPT
        self.image_processor = setup.processor.image_processor
        self.tokenizer = setup.processor.tokenizer
        self.num_queries = int(setup.config.num_query_tokens)
        self.side = setup.fixed_side(setup.config.vision_config.image_size, "Blip2ForConditionalGeneration")
        shape = tuple(blank_image(self.image_processor).shape)
        if shape != (3, self.side, self.side):
            raise BadInput(
                f"Blip2ForConditionalGeneration: the image processor makes pictures of {shape}, the model takes "
                f"{self.side} pixels a side."
            )

    def read(self, picture: np.ndarray, question: str) -> tuple[list[int], list[int], Rows]:
        ids = self.tokenizer.encode(filled(self.prompt, question))
        queries = [1] * self.num_queries
        return [*queries, *ids], [*queries, *[0] * len(ids)], {"pixel_values": pixels_of(self.image_processor, picture)}

    def length(self, setup: Setup) -> int:
        return self.num_queries + len(self.tokenizer.encode(filled(self.prompt, ""))) + setup.max_question

    @property
    def facts(self) -> dict[str, Any]:
        return {"image_size": self.side, "prompt": self.prompt, "num_image_tokens": self.num_queries}


def _features(model: Any, pixels: Tensor) -> Tensor:
    image = model.vision_model(pixel_values=pixels).last_hidden_state
    queries = model.query_tokens.expand(len(image), -1, -1)
    found = model.qformer(query_embeds=queries, encoder_hidden_states=image).last_hidden_state
    return model.language_projection(found.to(image.dtype))


def _embeds(model: Any, batch: Rows, features: Tensor) -> Tensor:
    return place(model.language_model.get_input_embeddings()(batch["input_ids"]), features, batch["image_slots"])


class Blip2Decoder(Decoder):
    """`Blip2ForConditionalGeneration` with a decoder such as OPT."""

    name = "Blip2ForConditionalGeneration"

    def __init__(self, setup: Setup) -> None:
        self.queries = _Queries(setup)
        words = words_of(self.queries.tokenizer, end=self.queries.tokenizer.eos_token_id, tail=self.queries.prompt[-1:])
        length = self.queries.length(setup)
        require_positions(length + setup.max_answer, setup.config.text_config.max_position_embeddings)
        super().__init__(setup, words, length, self.queries.facts)

    def read(self, picture: np.ndarray, question: str) -> tuple[list[int], list[int], Rows]:
        return self.queries.read(picture, question)

    def see(self, model: Any, batch: Rows) -> Tensor:
        return _features(model, batch["pixel_values"])

    def run(self, model: Any, batch: Rows, seen: Tensor | None, keep: int) -> Tensor:
        assert seen is not None
        out = model.language_model(
            inputs_embeds=_embeds(model, batch, seen),
            attention_mask=batch["attention_mask"],
            position_ids=self.positions(batch),
            use_cache=False,
            logits_to_keep=keep,
        )
        return out.logits


class Blip2Answering(EncoderDecoder):
    """`Blip2ForConditionalGeneration` with an encoder-decoder such as T5."""

    name = "Blip2ForConditionalGeneration"

    def __init__(self, setup: Setup) -> None:
        self.queries = _Queries(setup)
        words = words_of(self.queries.tokenizer, end=self.queries.tokenizer.eos_token_id)
        text = setup.config.text_config
        start = getattr(text, "decoder_start_token_id", None)
        start = text.pad_token_id if start is None else start
        super().__init__(setup, words, self.queries.length(setup), start, self.queries.facts)

    def read(self, picture: np.ndarray, question: str) -> tuple[list[int], list[int], Rows]:
        return self.queries.read(picture, question)

    def remember(self, model: Any, batch: Rows) -> Memory:
        features = _features(model, batch["pixel_values"])
        mask = batch["attention_mask"]
        encoder = model.language_model.get_encoder()
        return encoder(inputs_embeds=_embeds(model, batch, features), attention_mask=mask).last_hidden_state, mask

    def decode(self, model: Any, memory: Memory, ids: Tensor) -> Tensor:
        states, mask = memory
        out = model.language_model(
            encoder_outputs=(states,), attention_mask=mask, decoder_input_ids=ids, use_cache=False
        )
        return out.logits


def blip2(setup: Setup) -> Blip2Decoder | Blip2Answering:
    """Return the family of a BLIP-2 configuration."""
    is_decoder = setup.config.use_decoder_only_language_model
    return Blip2Decoder(setup) if is_decoder else Blip2Answering(setup)
