"""Decoders with the picture's tokens at placeholders in the prompt: LLaVA, PaliGemma, Idefics3 and SmolVLM."""

from abc import abstractmethod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sfumato.base import BadInput
from sfumato.models.families.decoder import Decoder
from sfumato.models.families.family import QUESTION, Rows, Setup
from sfumato.models.families.pictures import place
from sfumato.models.families.prompts import PromptReader, chat, end_of_turn, filled, has_chat
from sfumato.models.families.words import words_of


def causal(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Return what a decoder attends to, of the words in `mask` (N, L): 0, or the least number of `dtype`, (N, 1, L, L).

    transformers leaves out a mask of two dimensions where it is all ones: the words of one row would so decide by which
    kernel the others are computed, which half precision does not hide.
    """
    length = mask.shape[1]
    own = torch.eye(length, dtype=torch.bool, device=mask.device)  # a position of padding sees itself
    seen = torch.ones_like(own).tril() & (mask.bool()[:, None, None] | own)
    return torch.zeros((), dtype=dtype, device=mask.device).where(seen, torch.finfo(dtype).min)


class Placeholders(Decoder):
    """What these decoders share; a subclass says how pictures become features (N, T, D).

    Attributes:
        plain: the prompt where the processor has no chat template, around the placeholder and the question.
        between: what parts the placeholder from a prompt that was given without one.
    """

    name = "placeholders"
    plain = f"<image>\n{QUESTION}\n"
    between = "\n"

    def __init__(self, setup: Setup, *, side: int | None, nested: bool = False, facts: dict[str, Any]) -> None:
        processor = setup.processor
        tokenizer = processor.tokenizer
        end = (end_of_turn(processor) if has_chat(processor) else None) or tokenizer.eos_token_id
        placeholder = str(processor.image_token)
        self.placeholder_id = tokenizer.convert_tokens_to_ids(placeholder)
        declared = _placeholder_id(setup.config)
        if declared is not None and declared != self.placeholder_id:
            raise BadInput(
                f"the tokenizer numbers {placeholder} {self.placeholder_id}, the model's config.json says {declared}."
            )
        text = self._text(setup, placeholder)
        words = words_of(tokenizer, end=end, tail=self.ending(text("")))
        self.reader = PromptReader(
            setup, text, placeholder=placeholder, placeholder_id=self.placeholder_id, side=side, nested=nested
        )
        public = {"num_image_tokens": self.reader.num_slots, "prompt": text(QUESTION)}
        super().__init__(setup, words, self.reader.length + setup.max_question, public | facts)

    def ending(self, prompt: str) -> str:
        """Return the last character before an answer."""
        return prompt[-1:]

    def read(self, picture: np.ndarray, question: str) -> tuple[list[int], list[int], Rows]:
        ids, slots, pixels = self.reader(picture, question)
        return ids, slots, {"pixel_values": self.one(pixels)}

    def one(self, pixels: Tensor) -> Tensor:
        """Return the processor's pixels of one row without its batch dimension."""
        return pixels[0]

    def see(self, model: Any, batch: Rows) -> Tensor:
        """Return the picture's tokens; BadInput, at the synthetic row before training, if they do not fit the prompt.

        Both counts are public: the model makes one of every picture, and `PromptReader` refuses rows with another one.
        """
        found = self.features(model, batch["pixel_values"])
        if found.shape[1] != self.reader.num_slots:
            raise BadInput(
                f"{self.name}: the model makes {found.shape[1]} tokens of a picture, its processor leaves room for "
                f"{self.reader.num_slots}: processor_config.json does not fit the model."
            )
        return found

    @abstractmethod
    def features(self, model: Any, pixels: Tensor) -> Tensor:
        """Return the picture's tokens (N, T, D)."""

    def run(self, model: Any, batch: Rows, seen: Tensor | None, keep: int) -> Tensor:
        assert seen is not None
        embeds = place(model.get_input_embeddings()(batch["input_ids"]), seen, batch["image_slots"])
        return self.language(model, embeds, batch, keep)

    def language(self, model: Any, embeds: Tensor, batch: Rows, keep: int) -> Tensor:
        """Return the language model's logits at the last `keep` positions."""
        mask = batch["attention_mask"]
        out = model(
            inputs_embeds=embeds,
            attention_mask=causal(mask, embeds.dtype) if embeds.dtype.itemsize < 4 else mask,
            position_ids=self.positions(batch),
            use_cache=False,
            logits_to_keep=keep,
        )
        return out.logits

    def _text(self, setup: Setup, placeholder: str) -> Any:
        prompt = setup.prompt or QUESTION
        if has_chat(setup.processor):
            return lambda question: chat(setup.processor, filled(prompt, question))
        if setup.prompt is None:
            prompt = self.plain.replace("<image>", placeholder)
        elif placeholder not in prompt:
            prompt = f"{placeholder}{self.between}{prompt}"
        return lambda question: filled(prompt, question)


class Llava(Placeholders):
    """`LlavaForConditionalGeneration`: a vision tower, a projector, a language model."""

    name = "LlavaForConditionalGeneration"
    plain = f"USER: <image>\n{QUESTION} ASSISTANT:"

    def __init__(self, setup: Setup) -> None:
        side = setup.fixed_side(setup.config.vision_config.image_size, self.name)
        super().__init__(setup, side=None, facts={"image_size": side})
        _same_side(self.reader.shape, side, self.name)

    def features(self, model: Any, pixels: Tensor) -> Tensor:
        config = model.config
        out = model.get_image_features(
            pixel_values=pixels,
            vision_feature_layer=config.vision_feature_layer,
            vision_feature_select_strategy=config.vision_feature_select_strategy,
            return_dict=True,
        ).pooler_output
        return _stacked(out)


class PaliGemma(Placeholders):
    """`PaliGemmaForConditionalGeneration`: picture and question see each other both ways, the answer looks back."""

    name = "PaliGemmaForConditionalGeneration"
    plain = f"<image>answer en {QUESTION}"
    between = ""
    first_position = 1

    def __init__(self, setup: Setup) -> None:
        side = setup.fixed_side(setup.config.vision_config.image_size, self.name)
        super().__init__(setup, side=None, facts={"image_size": side})
        _same_side(self.reader.shape, side, self.name)

    def ending(self, prompt: str) -> str:
        return "\n"  # which the processor adds

    def features(self, model: Any, pixels: Tensor) -> Tensor:
        return _stacked(model.get_image_features(pixels, return_dict=True).pooler_output)

    def extras(self, mask: Tensor, slots: Tensor, prompt: Tensor) -> Rows:
        return {"token_type_ids": mask * (1 - prompt)}  # 1 on the answer

    def grown(self, batch: Rows) -> Rows:
        kinds = batch["token_type_ids"]
        return {"token_type_ids": torch.cat([kinds, torch.ones_like(kinds[:, :1])], 1)}

    def language(self, model: Any, embeds: Tensor, batch: Rows, keep: int) -> Tensor:
        out = model(
            inputs_embeds=embeds,
            attention_mask=batch["attention_mask"],
            position_ids=self.positions(batch),
            token_type_ids=batch["token_type_ids"],
            use_cache=False,
            logits_to_keep=keep,
        )
        return out.logits


class Idefics(Placeholders):
    """`Idefics3ForConditionalGeneration` and `SmolVLMForConditionalGeneration`, with one square picture, not split.

    The vision tower is called itself: transformers drops pictures that are all zero after normalisation, so that one
    grey picture would shift the pictures of the other rows.
    """

    name = "Idefics3 / SmolVLM"

    def __init__(self, setup: Setup) -> None:
        side = setup.fixed_side(setup.config.vision_config.image_size, self.name)
        image_processor = setup.processor.image_processor
        image_processor.do_image_splitting = False
        image_processor.size = {"longest_edge": side}
        image_processor.max_image_size = {"longest_edge": side}
        super().__init__(setup, side=side, nested=True, facts={"image_size": side})
        _same_side(self.reader.shape, side, self.name)

    def one(self, pixels: Tensor) -> Tensor:
        return pixels[0, 0]

    def features(self, model: Any, pixels: Tensor) -> Tensor:
        inner = model.model
        # The other families' towers cast by themselves.
        pixels = pixels.to(inner.vision_model.embeddings.patch_embedding.weight.dtype)
        return inner.connector(inner.vision_model(pixel_values=pixels).last_hidden_state)


def _placeholder_id(config: Any) -> int | None:
    found = getattr(config, "image_token_id", None)
    return found if found is not None else getattr(config, "image_token_index", None)


def _same_side(shape: tuple[int, ...], side: int, name: str) -> None:
    if tuple(shape[-2:]) != (side, side):
        raise BadInput(
            f"{name}: the image processor makes pictures of {shape[-2:]} pixels, the model takes {side} a side."
        )


def _stacked(features: Any) -> Tensor:
    return features if isinstance(features, Tensor) else torch.stack(list(features))
