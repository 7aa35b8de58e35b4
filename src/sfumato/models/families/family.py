"""What a vision-language architecture must be able to do here, and the public constants of how it is fed."""

from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from torch import Tensor

from sfumato.base import BadInput
from sfumato.models.families.words import Words

Rows = dict[str, Tensor]
QUESTION = "{question}"


class Family(Protocol):
    """How one architecture is fed, read and asked. Everything but the model's own code is a function of single rows.

    Attributes:
        name: of the architecture, for messages.
        facts: public constants: lengths, sizes, the prompt.
        idle: names of parameters that autograd reaches with a gradient that is always zero.
        words: the tokenizer, and the tokens that end answers and pad rows.
    """

    name: str
    words: Words
    facts: dict[str, Any]
    idle: tuple[str, ...]

    def encode(self, picture: np.ndarray, question: str, answer: str) -> Rows:
        """Return one row: always the same keys, types and public shapes; `labels` (K,) int64, -100 where nothing is
        learned.

        Raises:
            UndecodableRow: the row cannot be fed; its contents are not told.
        """
        ...

    def fits(self, answer: str) -> bool:
        """Return whether `encode` feeds the whole answer: a longer one is cut to the public length."""
        ...

    def logits(self, model: Any, batch: Rows) -> Tensor:
        """Return (N, K, V): logits[:, t] predicts labels[:, t]; rows are independent of each other."""
        ...

    def ask(self, picture: np.ndarray, question: str) -> Rows:
        """Return one row without an answer, for `generate`; raises as `encode`."""
        ...

    def generate(self, model: Any, batch: Rows, *, max_new_tokens: int) -> list[str]:
        """Return the greedy answer to each row of stacked `ask` rows; it may be empty."""
        ...


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What a family is made from.

    Attributes:
        config: of the transformers model.
        processor: the checkpoint's own.
        max_question: tokens of a question that are kept; the prompt's and the picture's come on top.
        max_answer: tokens of an answer, the end token included.
        prompt: public text around "{question}", or None for the family's own.
        image_size: side of the picture in pixels, or None for the checkpoint's own.
        padding_side: where short questions are padded, None for the family's own: `left` keeps the answers of all rows
            at one place, so that the vocabulary's head runs on them alone; losses are the same.
    """

    config: Any
    processor: Any
    max_question: int
    max_answer: int
    prompt: str | None = None
    image_size: int | None = None
    padding_side: Literal["left", "right"] | None = None

    def __post_init__(self) -> None:
        if self.max_question < 1:
            raise BadInput(f"max_question must be >= 1, got {self.max_question}.")
        if self.max_answer < 2:
            raise BadInput(f"max_answer must be >= 2 (one token and the end), got {self.max_answer}.")
        if self.padding_side not in (None, "left", "right"):
            raise BadInput(f"padding_side is left or right, got {self.padding_side!r}.")
        if self.prompt is not None and QUESTION not in self.prompt:
            raise BadInput(f"the prompt must contain {QUESTION}, where each row's question goes.")

    @property
    def pads(self) -> str:
        """The side on which questions are padded."""
        return self.padding_side or "left"

    def fixed_side(self, side: int, name: str) -> int:
        """Return the picture's side where the architecture allows only one; BadInput for another."""
        if self.image_size not in (None, side):
            raise BadInput(
                f"this {name} takes pictures of {side} pixels a side, image_size asks for {self.image_size}."
            )
        return side


def require_positions(needed: int, there: int) -> None:
    """Raise BadInput where prompt, question and answer need more learned positions than the model has."""
    if needed > there:
        raise BadInput(f"max_question and max_answer need {needed} text positions, the model has {there}.")
