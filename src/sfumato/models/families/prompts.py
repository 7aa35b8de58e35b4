"""Prompts: the checkpoint's own chat template where it has one, else the family's text; what reads a row's prompt."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from sfumato.base import BadInput, UndecodableRow
from sfumato.base.reason import named
from sfumato.models.families.family import QUESTION, Setup
from sfumato.models.families.pictures import as_rgb, squared

ASPECT = 16  # public: a picture may be so many times as long as wide where its shorter side is scaled to the model's


def filled(prompt: str, question: str) -> str:
    """Return the prompt with the question in its place; braces in the question stay what they are."""
    return prompt.replace(QUESTION, question)


def has_chat(processor: Any) -> bool:
    """Whether the processor brings a chat template."""
    return bool(getattr(processor, "chat_template", None))


def chat(processor: Any, text: str, answer: str | None = None) -> str:
    """Return one user's turn with a picture and `text` in the chat template, up to the assistant's words.

    Raises:
        BadInput: the template takes no such turn.
    """
    turns = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": text}]}]
    if answer is not None:
        turns.append({"role": "assistant", "content": [{"type": "text", "text": answer}]})
    try:
        return processor.apply_chat_template(turns, add_generation_prompt=answer is None, tokenize=False)
    except Exception as error:  # a template may raise anything
        raise BadInput(f"the chat template takes no turn of a picture and a text: {_told(error)}.") from error


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
        try:
            ids, slots, found = self._process(blank, "")
        except Exception as error:  # a processor may raise anything where a setting of it is missing
            raise BadInput(
                f"the processor cannot read a picture with the prompt {text(QUESTION)!r}: processor_config.json lacks "
                f"a setting, or the prompt holds a placeholder too many ({_told(error)})."
            ) from error
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
        except Exception:  # whatever it is, it may not end the run: that would tell that this row exists
            raise UndecodableRow("a row cannot be read by the model's processor.") from None  # it may quote the row
        if sum(slots) != self.num_slots or tuple(found["pixel_values"].shape) != self.shape:
            raise UndecodableRow("a row has another number of picture tokens than the public one.")
        return ids, slots, torch.as_tensor(found["pixel_values"], dtype=torch.float32)

    def _process(self, picture: np.ndarray, question: str) -> tuple[list[int], list[int], Any]:
        image_processor = self.processor.image_processor
        pixels = bounded(image_processor, picture) if self.side is None else squared(as_rgb(picture), self.side)
        images = [[pixels]] if self.nested else [pixels]
        found = self.processor(images=images, text=[self.text(question)], return_tensors="np", padding=False)
        ids = np.asarray(found["input_ids"])[0].tolist()
        return ids, [int(token == self.placeholder_id) for token in ids], found


def blank_image(image_processor: Any, side: int = 32) -> Tensor:
    """Return the pixels that an image processor makes of a black picture, (C, H, W): its public shape.

    Raises:
        BadInput: it makes none.
    """
    try:
        return _pixels(image_processor, torch.zeros(3, side, side, dtype=torch.uint8))
    except Exception as error:
        raise BadInput(f"the image processor cannot read a picture: {_told(error)}.") from error


def pixels_of(image_processor: Any, picture: np.ndarray) -> Tensor:
    """Return a picture as the image processor alone prepares it, (C, H, W).

    Raises:
        UndecodableRow: it cannot.
    """
    pixels = bounded(image_processor, picture)
    try:
        return _pixels(image_processor, pixels)
    except Exception:  # as in `PromptReader`
        raise UndecodableRow("a picture cannot be read by the model's image processor.") from None


def bounded(image_processor: Any, picture: np.ndarray) -> Tensor:
    """Return a decoded picture as (3, H, W) for an image processor.

    One that scales the shorter side (GIT, LLaVA, CoCa, which then crop), or pads to a square, makes of a single line of
    pixels a picture of gigabytes. An out-of-memory kill could not become a failed row.

    Raises:
        UndecodableRow: it is no picture, or longer than `ASPECT` times its width where the processor keeps its shape.
    """
    pixels = as_rgb(picture)
    size = getattr(image_processor, "size", None) or {}
    keeps_shape = getattr(image_processor, "do_pad", None) or not (size.get("height") and size.get("width"))
    if keeps_shape and max(pixels.shape[1:]) > ASPECT * min(pixels.shape[1:]):
        raise UndecodableRow("a picture is too long and thin for the model's image processor.")
    return pixels


def _pixels(image_processor: Any, pixels: Tensor) -> Tensor:
    return image_processor(images=[pixels], return_tensors="pt")["pixel_values"][0].to(torch.float32)


def _told(error: Exception) -> str:
    return named(error)
