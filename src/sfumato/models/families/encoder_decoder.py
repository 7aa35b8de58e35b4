"""Encoder-decoder reading: the question is encoded with the picture, a decoder writes the answer."""

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sfumato.base import UndecodableRow
from sfumato.models.captioner import evaluating
from sfumato.models.families.family import Rows, Setup
from sfumato.models.families.words import IGNORED, Words, padded

Memory = tuple[Tensor, Tensor]


class EncoderDecoder(ABC):
    """Encodes and generates for every encoder-decoder architecture; what differs is asked of the subclass."""

    name = "encoder-decoder"
    idle: tuple[str, ...] = ()

    def __init__(self, setup: Setup, words: Words, prompt_length: int, start_id: int, facts: dict[str, Any]) -> None:
        self.setup = setup
        self.words = words
        self.prompt_length = prompt_length
        self.start_id = start_id
        public = {"max_question": setup.max_question, "max_answer": setup.max_answer, "family": self.name}
        self.facts = public | {"padding_side": setup.pads, "prompt_length": prompt_length} | facts

    # ------------------------------------------------------------ what an architecture says for itself

    @abstractmethod
    def read(self, picture: np.ndarray, question: str) -> tuple[list[int], list[int], Rows]:
        """Return the encoder's tokens, which of them the picture takes (0 or 1 each), and the picture's tensors."""

    @abstractmethod
    def remember(self, model: Any, batch: Rows) -> Memory:
        """Return what the decoder attends to, (N, T, D), and its mask (N, T)."""

    @abstractmethod
    def decode(self, model: Any, memory: Memory, ids: Tensor) -> Tensor:
        """Return the decoder's logits (N, L, V) behind its inputs (N, L)."""

    # ------------------------------------------------------------ the family

    def encode(self, picture: np.ndarray, question: str, answer: str) -> Rows:
        """Return one row; see `Family.encode`."""
        said = self.words.answer(answer, self.setup.max_answer)
        return self.ask(picture, question) | {"labels": padded(said, self.setup.max_answer, IGNORED, "right")}

    def fits(self, answer: str) -> bool:
        """Return whether the answer is fed uncut; see `Family.fits`."""
        return self.words.fits(answer, self.setup.max_answer)

    def ask(self, picture: np.ndarray, question: str) -> Rows:
        """Return one row without an answer; see `Family.ask`."""
        ids, slots, pixels = self._prompt(picture, question)
        tokens = [token if not slot else self.words.pad_id for token, slot in zip(ids, slots, strict=True)]
        length, side = self.prompt_length, self.setup.pads
        row = {
            "input_ids": padded(tokens, length, self.words.pad_id, side),
            "attention_mask": padded([1] * len(ids), length, 0, side),
        }
        if any(slots):
            row["image_slots"] = padded(slots, length, 0, side)
        return row | pixels

    def logits(self, model: Any, batch: Rows) -> Tensor:
        """Return (N, K, V); see `Family.logits`. Padding stands behind the answer, where the decoder does not look."""
        labels = batch["labels"]
        shifted = torch.cat([torch.full_like(labels[:, :1], self.start_id), labels[:, :-1]], 1)
        inputs = shifted.masked_fill(shifted == IGNORED, self.words.pad_id)
        return self.decode(model, self.remember(model, batch), inputs)

    @torch.no_grad()
    def generate(self, model: Any, batch: Rows, *, max_new_tokens: int) -> list[str]:
        """Return the greedy answers; see `Family.generate`. Without a cache: the same path as in training."""
        with evaluating(model):
            memory = self.remember(model, batch)
            count = len(batch["input_ids"])
            ids = batch["input_ids"].new_full((count, 1), self.start_id)
            ended = torch.zeros(count, dtype=torch.bool, device=ids.device)
            for _ in range(max_new_tokens):
                token = self.decode(model, memory, ids)[:, -1].argmax(-1).masked_fill(ended, self.words.end_id)
                ids, ended = torch.cat([ids, token[:, None]], 1), ended | (token == self.words.end_id)
                if bool(ended.all()):
                    break
        return [self.words.text(row) for row in ids[:, 1:].tolist()]

    # ------------------------------------------------------------ shared by the subclasses

    def positions(self, batch: Rows) -> Tensor:
        """Return positions (N, L) that count the tokens that are no padding."""
        return (batch["attention_mask"].cumsum(1) - 1).clamp(min=0)

    def _prompt(self, picture: np.ndarray, question: str) -> tuple[list[int], list[int], Rows]:
        for kept in range(self.setup.max_question, -1, -1):
            ids, slots, pixels = self.read(picture, self.words.cut(question, kept) if kept else "")
            if len(ids) <= self.prompt_length:
                return ids, slots, pixels
        raise UndecodableRow("a question does not fit the public length.")
