"""Questions and answers to tokens and back, by the checkpoint's own tokenizer."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sfumato.base import BadInput, UndecodableRow

IGNORED = -100


@dataclass(frozen=True, kw_only=True)
class Words:
    """A fast tokenizer, the token at which answers end, and the one that pads.

    Attributes:
        tail: end of the constant text before an answer; whether a space begins the answer depends on it.
    """

    tokenizer: Any
    end_id: int
    pad_id: int
    tail: str = ""

    def ids(self, text: str) -> list[int]:
        """Return the tokens of `text` alone."""
        return self._encoding(text).ids

    def cut(self, question: str, max_tokens: int) -> str:
        """Return the question, or as much of it as its first `max_tokens` tokens cover."""
        found = self._encoding(question)
        return question if len(found.ids) <= max_tokens else question[: found.offsets[max_tokens - 1][1]]

    def answer(self, answer: str, max_tokens: int) -> list[int]:
        """Return the answer's tokens as they follow the prompt, at most max_tokens - 1, and the end token."""
        return [*self._follow(answer)[: max_tokens - 1], self.end_id]

    def fits(self, answer: str, max_tokens: int) -> bool:
        """Return whether `answer` would leave the answer uncut."""
        return len(self._follow(answer)) < max_tokens

    def _follow(self, answer: str) -> list[int]:
        glued = answer if not self.tail or self.tail.isspace() else f" {answer}"
        before, both = self.ids(self.tail), self.ids(self.tail + glued)
        follows = both[: len(before)] == before
        return (both[len(before) :] if follows else self.ids(glued)) if answer else []

    def _encoding(self, text: str) -> Any:
        # One text at a time: a batch would start threads, which do not survive the fork of a loader's workers.
        try:
            return self.tokenizer.backend_tokenizer.encode(text, add_special_tokens=False)
        except TypeError:  # half of a surrogate pair, which JSON can hold
            raise UndecodableRow("a text is no Unicode.") from None

    def text(self, ids: Sequence[int]) -> str:
        """Return the text of generated tokens up to the end token."""
        end = list(ids).index(self.end_id) if self.end_id in ids else len(ids)
        if not end:
            return ""  # some decoders do not take an empty list
        return str(self.tokenizer.decode(list(ids)[:end], skip_special_tokens=True)).strip()


def words_of(tokenizer: Any, *, end: int | None, tail: str = "") -> Words:
    """Return the words of a transformers tokenizer; BadInput where it has no fast version or no end token."""
    if getattr(tokenizer, "backend_tokenizer", None) is None:
        raise BadInput("the checkpoint's tokenizer has no fast version (tokenizer.json), which sfumato needs.")
    tokenizer.backend_tokenizer.no_padding()  # lengths are public and set here
    tokenizer.backend_tokenizer.no_truncation()
    if end is None:
        raise BadInput("the checkpoint's tokenizer has no end token (eos_token or sep_token).")
    pad = tokenizer.pad_token_id
    return Words(tokenizer=tokenizer, end_id=end, pad_id=end if pad is None else pad, tail=tail)


def padded(ids: Sequence[int], length: int, fill: int, side: str) -> Tensor:
    """Return `ids` as (length,) int64, filled up on one side.

    Raises:
        UndecodableRow: they are more than `length`.
    """
    room = [fill] * (length - len(ids))
    if len(ids) > length:
        raise UndecodableRow("a row has more tokens than the public length.")
    return torch.tensor([*room, *ids] if side == "left" else [*ids, *room], dtype=torch.int64)
