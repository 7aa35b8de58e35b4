"""GIT: one decoder that reads picture tokens first, then question and answer."""

from typing import Any

import numpy as np
from torch import Tensor

from sfumato.base import BadInput
from sfumato.models.families.decoder import Decoder
from sfumato.models.families.family import QUESTION, Rows, Setup, require_positions
from sfumato.models.families.prompts import blank_image, filled, pixels_of
from sfumato.models.families.words import words_of


class Git(Decoder):
    """`GitForCausalLM`: the picture's tokens stand before the text and are seen by all of it."""

    name = "GitForCausalLM"

    def __init__(self, setup: Setup) -> None:
        self.prompt = setup.prompt or QUESTION
        self.image_processor = setup.processor.image_processor
        tokenizer = setup.processor.tokenizer
        words = words_of(tokenizer, end=_either(tokenizer.sep_token_id, tokenizer.eos_token_id))
        start = _either(tokenizer.cls_token_id, tokenizer.bos_token_id)
        if start is None:
            raise BadInput("the checkpoint's tokenizer has no start token (cls_token or bos_token).")
        self.start_id = start
        side = setup.fixed_side(setup.config.vision_config.image_size, self.name)
        shape = tuple(blank_image(self.image_processor).shape)
        if shape != (3, side, side):
            raise BadInput(f"{self.name}: the image processor makes pictures of {shape}, the model takes {side}.")
        length = 1 + len(words.ids(filled(self.prompt, ""))) + setup.max_question
        require_positions(length + setup.max_answer, setup.config.max_position_embeddings)
        super().__init__(setup, words, length, {"image_size": side, "prompt": self.prompt})

    def read(self, picture: np.ndarray, question: str) -> tuple[list[int], list[int], Rows]:
        ids = [self.start_id, *self.words.ids(filled(self.prompt, question))]
        return ids, [0] * len(ids), {"pixel_values": pixels_of(self.image_processor, picture)}

    def see(self, model: Any, batch: Rows) -> Tensor | None:
        return None  # the model reads picture and text in one pass

    def run(self, model: Any, batch: Rows, seen: Tensor | None, keep: int) -> Tensor:
        out = model(
            input_ids=batch["input_ids"],
            attention_mask=batch["attention_mask"],
            position_ids=self.positions(batch),
            pixel_values=batch["pixel_values"],
            use_cache=False,
            logits_to_keep=keep,
        )
        return out.logits


def _either(first: int | None, second: int | None) -> int | None:
    return first if first is not None else second
