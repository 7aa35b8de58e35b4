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
from sfumato.evaluate.subject import Subject
from sfumato.models import evaluating

logger = logging.getLogger(__name__)

Row = Mapping[str, Tensor]


class Asked(Protocol):
    """How an architecture is fed, read and asked, as `sfumato.models` says it of each."""

    def encode(self, picture: np.ndarray, question: str, answer: str, /) -> Row: ...

    def logits(self, model: Any, batch: Any, /) -> Tensor: ...

    def ask(self, picture: np.ndarray, question: str, /) -> Row: ...

    def generate(self, model: Any, batch: Any, /, *, max_new_tokens: int) -> list[str]: ...


def answerer(model: nn.Module, family: Asked, *, max_new_tokens: int = 8) -> Subject:
    """Return a vision-language model as a subject; the model is left as it was found.

    A question that the model cannot be fed (too long, say) is answered "", and scored -inf for every candidate: both
    count as wrong. So is a candidate that does not fit its answer: -inf.

    Args:
        model: on the device where it is to compute.
        family: of its architecture.
        max_new_tokens: tokens of an answer at most.
    """

    def answer(pictures: Sequence[np.ndarray], questions: Sequence[str]) -> list[str]:
        rows, places = _fed(family.ask, zip(pictures, questions, strict=True))
        found = [""] * len(questions)
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
            rows, places = _fed(family.encode, zip(pictures, questions, [candidate] * len(questions), strict=True))
            if rows:
                batch = _stacked(rows, model)
                with evaluating(model):
                    scores[places, column] = _per_token(family.logits(model, batch), batch["labels"])
        return scores

    return Subject(answer=answer, score_answers=score_answers)


def _fed(feed: Callable[..., Row], given: Any) -> tuple[list[Row], list[int]]:
    """Return the rows that can be fed and their places."""
    rows, places = [], []
    for place, row in enumerate(given):
        try:
            rows.append(feed(*row))
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
