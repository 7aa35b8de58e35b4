"""A vision-language model as a subject: answers in its own words, and how likely it finds given ones.

Shapes: B pictures with a question each, A candidate answers, L positions of labels, V tokens.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from sfumato.base import UndecodableRow
from sfumato.data import eight_bit_rgb
from sfumato.evaluate.subject import Subject
from sfumato.models import evaluating

logger = logging.getLogger(__name__)

Row = Mapping[str, Tensor]


class Asked(Protocol):
    """How an architecture is fed, read and asked, as `sfumato.models` says it of each."""

    def encode(self, picture: np.ndarray, question: str, answer: str, /) -> Row: ...

    def fits(self, answer: str, /) -> bool: ...

    def logits(self, model: Any, batch: Any, /) -> Tensor: ...

    def ask(self, picture: np.ndarray, question: str, /) -> Row: ...

    def generate(self, model: Any, batch: Any, /, *, max_new_tokens: int) -> list[str]: ...


def answerer(model: nn.Module, family: Asked, *, max_new_tokens: int = 8, question: str | None = None) -> Subject:
    """Return a vision-language model as a subject; the model is left as it was found.

    Pictures are given to it as in training: deeper ones rounded to 8 bits, grey ones repeated (`data.eight_bit_rgb`). A
    row that it cannot be fed (the question holds the picture's placeholder, say) has no answer, None, and is scored
    -inf for every candidate: both count as wrong. A candidate that would be cut to the public length is scored -inf.

    Args:
        model: on the device where it is to compute.
        family: of its architecture.
        max_new_tokens: tokens of an answer at most.
        question: the public one that it is asked of pictures without questions; see `Subject`.
    """

    def answer(pictures: Sequence[np.ndarray], questions: Sequence[str]) -> list[str | None]:
        rows, places = _fed(family.ask, zip(pictures, questions, strict=True))
        found: list[str | None] = [None] * len(questions)
        if rows:
            with evaluating(model):
                said = family.generate(model, _stacked(rows, model), max_new_tokens=max_new_tokens)
            for place, text in zip(places, said, strict=True):
                found[place] = text
        return found

    def score_answers(
        pictures: Sequence[np.ndarray], questions: Sequence[str], candidates: Sequence[str]
    ) -> np.ndarray:
        scores = np.full((len(questions), len(candidates)), -np.inf)
        for column, candidate in enumerate(candidates):  # a column at a time: as much memory as one batch
            if not family.fits(candidate):  # cut, it would be another answer
                continue
            rows, places = _fed(family.encode, zip(pictures, questions, [candidate] * len(questions), strict=True))
            if rows:
                batch = _stacked(rows, model)
                with evaluating(model):
                    scores[places, column] = _per_token(family.logits(model, batch), batch["labels"])
        return scores

    return Subject(answer=answer, score_answers=score_answers, question=question)


def _fed(feed: Callable[..., Row], given: Any) -> tuple[list[Row], list[int]]:
    """Return the rows that can be fed and their places."""
    rows, places = [], []
    for place, (picture, *words) in enumerate(given):
        try:
            rows.append(feed(eight_bit_rgb(picture), *words))
            places.append(place)
        except UndecodableRow:
            logger.debug("a question or answer cannot be fed to the model")
    return rows, places


def _stacked(rows: Sequence[Row], model: nn.Module) -> dict[str, Tensor]:
    weight = next(model.parameters())
    batch = {name: torch.stack([row[name] for row in rows]).to(weight.device) for name in rows[0]}
    return {name: value.to(weight.dtype) if value.is_floating_point() else value for name, value in batch.items()}


def _per_token(logits: Tensor, labels: Tensor) -> np.ndarray:
    """Return the mean log-likelihood per label token of each row, (B,) float64; -inf for a row without any.

    Args:
        logits: (B, L, V).
        labels: (B, L) int64, -100 where nothing is asked.
    """
    asked = labels != -100
    # only what is asked in double: whole sequences by a large vocabulary would be tens of gigabytes
    losses = nn.functional.cross_entropy(logits[asked].double(), labels[asked], reduction="none")
    count = asked.sum(1)
    row = torch.arange(len(labels), device=labels.device).repeat_interleave(count)
    total = torch.zeros(len(labels), dtype=losses.dtype, device=labels.device).index_add(0, row, losses)
    means = torch.where(count > 0, -total / count.clamp(min=1), -torch.inf)
    return means.cpu().numpy()
