"""Prompts: the checkpoint's own chat template where it has one, else the family's text; what reads a row's prompt."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from sfumato.base import BadInput, UndecodableRow
from sfumato.models.families.family import QUESTION, Setup
from sfumato.models.families.pictures import as_rgb, squared

_REFUSALS = (ValueError, IndexError, KeyError, TypeError, RuntimeError, StopIteration)


def filled(prompt: str, question: str) -> str:
    """Return the prompt with the question in its place; braces in the question stay what they are."""
    return prompt.replace(QUESTION, question)


def has_chat(processor: Any) -> bool:
    """Whether the processor brings a chat template."""
    return bool(getattr(processor, "chat_template", None))


def chat(processor: Any, text: str, answer: str | None = None) -> str:
    """Return one user's turn with a picture and `text` in the chat template, up to the assistant's words."""
    turns = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": text}]}]
    if answer is not None:
        turns.append({"role": "assistant", "content": [{"type": "text", "text": answer}]})
    return processor.apply_chat_template(turns, add_generation_prompt=answer is None, tokenize=False)


def end_of_turn(processor: Any) -> int | None:
    """Return the token with which the chat template ends an assistant's turn, if it is a special one."""
    said = "sfumato"
    behind = chat(processor, "a", said).rpartition(said)[2]
    ids = processor.tokenizer.encode(behind.lstrip(), add_special_tokens=False) if behind.strip() else []
    special = set(processor.tokenizer.all_special_ids) | set(processor.tokenizer.added_tokens_decoder)
    return ids[0] if ids and ids[0] in special else None


class PromptReader:
    """Makes a row's prompt and picture with the checkpoint's processor, and holds each row to the public counts.

    Args:
        setup: of the family.
        text: the whole prompt for a question, the picture's placeholder in it.
        placeholder: the token's text, of which a question may hold none.
        placeholder_id: its number.
        side: pictures are resized to this square first, None where the processor makes one size of all.
        nested: whether the processor takes a list of pictures for each text.
    """

    def __init__(
        self,
        setup: Setup,
        text: Any,
        *,
        placeholder: str,
        placeholder_id: int,
        side: int | None = None,
        nested: bool = False,
    ) -> None:
        self.processor = setup.processor
        self.text = text
        self.placeholder = placeholder
        self.placeholder_id = placeholder_id
        self.side = side
        self.nested = nested
        blank = np.zeros((side or 32, side or 32, 3), np.uint8)
        ids, slots, found = self._process(blank, "")
        self.length, self.num_slots = len(ids), sum(slots)
        self.shape = tuple(found["pixel_values"].shape)
        if self.num_slots == 0:
            raise BadInput(f"the prompt holds no {placeholder}: the picture has no place in it.")

    def __call__(self, picture: np.ndarray, question: str) -> tuple[list[int], list[int], Tensor]:
        """Return the prompt's tokens, the picture's places among them, and the pixels.

        Raises:
            UndecodableRow: the question holds the picture's placeholder, or the processor makes another number of
                tokens or pixels of the row than of the public blank one.
        """
        if self.placeholder in question:
            raise UndecodableRow("a question holds the picture's placeholder.")
        try:
            ids, slots, found = self._process(picture, question)
        except _REFUSALS:
            raise UndecodableRow("a row cannot be read by the model's processor.") from None  # it may quote the row
        if sum(slots) != self.num_slots or tuple(found["pixel_values"].shape) != self.shape:
            raise UndecodableRow("a row has another number of picture tokens than the public one.")
        return ids, slots, torch.as_tensor(found["pixel_values"], dtype=torch.float32)

    def _process(self, picture: np.ndarray, question: str) -> tuple[list[int], list[int], Any]:
        pixels = as_rgb(picture)
        pixels = pixels if self.side is None else squared(pixels, self.side)
        images = [[pixels]] if self.nested else [pixels]
        found = self.processor(images=images, text=[self.text(question)], return_tensors="np", padding=False)
        ids = np.asarray(found["input_ids"])[0].tolist()
        return ids, [int(token == self.placeholder_id) for token in ids], found


def blank_image(image_processor: Any, side: int = 32) -> Tensor:
    """Return the pixels that an image processor makes of a black picture, (C, H, W): its public shape."""
    return pixels_of(image_processor, np.zeros((side, side, 3), np.uint8))


def pixels_of(image_processor: Any, picture: np.ndarray) -> Tensor:
    """Return a picture as the image processor alone prepares it, (C, H, W).

    Raises:
        UndecodableRow: it cannot.
    """
    pixels = as_rgb(picture)
    try:
        return image_processor(images=[pixels], return_tensors="pt")["pixel_values"][0].to(torch.float32)
    except _REFUSALS:
        raise UndecodableRow("a picture cannot be read by the model's image processor.") from None
