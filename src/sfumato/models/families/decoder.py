"""Decoder-only reading: prompt, question and answer stand in one sequence, with the picture in it or beside it.

Left padding: [padding, prompt | answer, padding], the answer at one place in all rows, labels of that place alone.
Right padding: [prompt, answer, padding], labels of the whole sequence. Positions are counted from the attention mask,
so that both give the same loss.
"""

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sfumato.base import UndecodableRow
from sfumato.models.captioner import evaluating
from sfumato.models.families.family import Rows, Setup
from sfumato.models.families.words import IGNORED, Words, padded


class Decoder(ABC):
    """Encodes, shifts and generates for every decoder-only architecture; what differs is asked of the subclass.

    Attributes:
        first_position: of the first token that is no padding.
    """

    name = "decoder"
    idle: tuple[str, ...] = ()
    first_position = 0

    def __init__(self, setup: Setup, words: Words, prompt_length: int, facts: dict[str, Any]) -> None:
        self.setup = setup
        self.words = words
        self.prompt_length = prompt_length
        public = {"max_question": setup.max_question, "max_answer": setup.max_answer, "family": self.name}
        self.facts = public | {"padding_side": setup.pads, "prompt_length": prompt_length} | facts

    # ------------------------------------------------------------ what an architecture says for itself

    @abstractmethod
    def read(self, picture: np.ndarray, question: str) -> tuple[list[int], list[int], Rows]:
        """Return the prompt's tokens, which of them the picture takes (0 or 1 each), and the picture's tensors."""

    @abstractmethod
    def see(self, model: Any, batch: Rows) -> Tensor | None:
        """Return what is computed from the pictures once, for all tokens."""

    @abstractmethod
    def run(self, model: Any, batch: Rows, seen: Tensor | None, keep: int) -> Tensor:
        """Return the logits at the last `keep` positions, (N, keep, V)."""

    def extras(self, mask: Tensor, slots: Tensor, prompt: Tensor) -> Rows:
        """Return further tensors of a row, from its mask, its picture's places and its prompt's places, all (L,)."""
        return {}

    def grown(self, batch: Rows) -> Rows:
        """Return the further tensors with one token more."""
        return {}

    # ------------------------------------------------------------ the family

    def encode(self, picture: np.ndarray, question: str, answer: str) -> Rows:
        """Return one row; see `Family.encode`."""
        ids, slots, pixels = self._prompt(picture, question)
        said = self.words.answer(answer, self.setup.max_answer)
        room, total = self.setup.max_answer, self.prompt_length + self.setup.max_answer
        if self.setup.pads == "right":
            labels = [IGNORED] * len(ids) + said
            return self._row(ids, slots, said, total, "right", pixels) | {
                "labels": padded(labels, total, IGNORED, "right")
            }
        before = [0] * (self.prompt_length - len(ids))
        row = self._row(ids, slots, said, self.prompt_length - len(before) + room, "right", pixels, before)
        return row | {"labels": padded(said, room, IGNORED, "right")}

    def fits(self, answer: str) -> bool:
        """Return whether the answer is fed uncut; see `Family.fits`."""
        return self.words.fits(answer, self.setup.max_answer)

    def ask(self, picture: np.ndarray, question: str) -> Rows:
        """Return one row that ends where the answer begins; see `Family.ask`."""
        ids, slots, pixels = self._prompt(picture, question)
        return self._row(ids, slots, [], self.prompt_length, "left", pixels)

    def logits(self, model: Any, batch: Rows) -> Tensor:
        """Return (N, K, V); see `Family.logits`."""
        length, labelled = batch["input_ids"].shape[1], batch["labels"].shape[1]
        found = self.run(model, batch, self.see(model, batch), min(labelled + 1, length))[:, :-1]
        if labelled < length:
            return found
        return torch.cat([torch.zeros_like(found[:, :1]), found], 1)  # nothing predicts the first token

    @torch.no_grad()
    def generate(self, model: Any, batch: Rows, *, max_new_tokens: int) -> list[str]:
        """Return the greedy answers; see `Family.generate`. Without a cache: the same path as in training."""
        with evaluating(model):
            seen = self.see(model, batch)
            ended = torch.zeros(len(batch["input_ids"]), dtype=torch.bool, device=batch["input_ids"].device)
            said: list[Tensor] = []
            while len(said) < max_new_tokens and not bool(ended.all()):
                token = self.run(model, batch, seen, 1)[:, -1].argmax(-1)
                said.append(token.masked_fill(ended, self.words.end_id))
                ended = ended | (said[-1] == self.words.end_id)
                batch = batch | self.grown(batch) | self._longer(batch, said[-1])
        rows = torch.stack(said, 1).tolist() if said else [[] for _ in ended]
        return [self.words.text(row) for row in rows]

    # ------------------------------------------------------------ shared by the subclasses

    def positions(self, batch: Rows) -> Tensor:
        """Return positions (N, L) that count the tokens that are no padding."""
        return (batch["attention_mask"].cumsum(1) - 1).clamp(min=0) + self.first_position

    def _prompt(self, picture: np.ndarray, question: str) -> tuple[list[int], list[int], Rows]:
        """Return `read` of as much of the question as fits; joined to the prompt it may take other tokens."""
        for kept in range(self.setup.max_question, -1, -1):
            short = self.words.cut(question, kept) if kept else ""
            ids, slots, pixels = self.read(picture, short)
            if len(ids) <= self.prompt_length:
                return ids, slots, pixels
        raise UndecodableRow("a question does not fit the public length.")

    def _row(
        self,
        ids: list[int],
        slots: list[int],
        said: list[int],
        length: int,
        side: str,
        pixels: Rows,
        before: list[int] | None = None,
    ) -> Rows:
        front = before or []
        tokens = [token if not slot else self.words.pad_id for token, slot in zip(ids, slots, strict=True)]

        def line(values: list[int], fill: int) -> Tensor:
            return torch.cat([torch.tensor([fill] * len(front), dtype=torch.int64), padded(values, length, fill, side)])

        mask = line([1] * (len(ids) + len(said)), 0)
        places = line([*slots, *[0] * len(said)], 0)
        row = {"input_ids": line([*tokens, *said], self.words.pad_id), "attention_mask": mask}
        if any(slots):
            row["image_slots"] = places
        return row | self.extras(mask, places, line([1] * len(ids), 0)) | pixels

    def _longer(self, batch: Rows, token: Tensor) -> Rows:
        column = token[:, None]
        longer = {
            "input_ids": column,
            "attention_mask": torch.ones_like(column),
            "image_slots": torch.zeros_like(column),
        }
        return {name: torch.cat([batch[name], value], 1) for name, value in longer.items() if name in batch}
