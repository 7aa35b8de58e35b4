"""Answers to visual questions as figures: accuracy by kind of question, ranking of given answers, what guessing gives.

Shapes: N questions, A candidate answers.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sfumato.base import BadInput
from sfumato.evaluate.answers import consensus, exact_match, normalise_answer, one_line, vqa_accuracy
from sfumato.evaluate.clusters import clustered_share

NO_KIND = "(none)"


@dataclass(frozen=True, kw_only=True)
class Questions:
    """N questions without their pictures.

    Attributes:
        questions: the questions.
        answers: of each, the answers of all people.
        kinds: of each, its question type, or None.
        answer_types: of each, "yes/no", "number" or "other", or what the set calls them.
        pictures: (N,) int64, equal where questions are of one record (a picture, or all pictures of an owner).
        num_unreadable: further rows that could not be decoded.
    """

    questions: list[str]
    answers: list[tuple[str, ...]]
    kinds: list[str | None]
    answer_types: list[str]
    pictures: np.ndarray
    num_unreadable: int = 0

    def __len__(self) -> int:
        return len(self.questions)


def vqa_figures(predictions: Sequence[str], asked: Questions, chance: float | None = None) -> dict[str, Any]:
    """Return official accuracy and exact match, overall, by question type and by answer type, as JSON values.

    Every share has its 95 % interval over pictures (`clustered_share`), its numbers of questions and pictures.

    Args:
        predictions: N answers.
        asked: the questions.
        chance: accuracy that guessing gets, where it is defined.
    """
    accuracy, exact = vqa_accuracy(predictions, asked.answers), exact_match(predictions, asked.answers)
    return {
        **clustered_share(accuracy, asked.pictures).to_json(chance),
        "exact_match": clustered_share(exact, asked.pictures).to_json(),
        "by_kind": _by(accuracy, [NO_KIND if kind is None else kind for kind in asked.kinds], asked.pictures),
        "by_answer_type": _by(accuracy, asked.answer_types, asked.pictures),
        "num_empty": sum(not one_line(said) for said in predictions),
        "num_distinct": len({normalise_answer(said) for said in predictions}),
    }


def _by(values: np.ndarray, names: Sequence[str], pictures: np.ndarray) -> dict[str, Any]:
    of_row = np.array(names, object)
    return {
        name: clustered_share(values[of_row == name], pictures[of_row == name]).to_json() for name in sorted(set(names))
    }


def best_answers(scores: np.ndarray, candidates: Sequence[str]) -> list[str]:
    """Return the candidate of the highest score for each question; "", which is wrong, where several share it.

    Args:
        scores: (N, A), higher is likelier; -inf for an answer that the model cannot give.
        candidates: A answers.

    Raises:
        BadInput: other shapes, or NaN.
    """
    scores = np.asarray(scores)
    if scores.ndim != 2 or scores.shape[1] != len(candidates) or not len(candidates):
        raise BadInput(f"scores must be (questions, {len(candidates)} candidate answers), got {scores.shape}.")
    if np.isnan(scores).any():
        raise BadInput("the model gives NaN for candidate answers: it has diverged.")
    top = scores.max(1, keepdims=True)
    alone = ((scores == top).sum(1) == 1) & np.isfinite(top[:, 0])
    return [candidates[int(place)] if sure else "" for place, sure in zip(scores.argmax(1), alone, strict=True)]


def distinct_answers(candidates: Sequence[str]) -> tuple[str, ...]:
    """Return the candidates, each once: of those that `normalise_answer` makes equal the first, blank ones left out."""
    named: dict[str, str] = {}
    for candidate in filter(None, map(one_line, candidates)):
        named.setdefault(normalise_answer(candidate), candidate)
    return tuple(named.values())


def common_answers(answers: Sequence[Sequence[str]], num: int) -> tuple[str, ...]:
    """Return the `num` answers that are the commonest of most questions, most first (ties: first met).

    Spellings that `normalise_answer` makes equal count as one, written as most questions write it.
    """
    spellings = Counter(consensus(group) for group in answers)
    totals: Counter[str] = Counter()
    for spelling, count in spellings.items():
        totals[normalise_answer(spelling)] += count
    written: dict[str, str] = {}
    for spelling, _ in spellings.most_common():
        written.setdefault(normalise_answer(spelling), spelling)
    return tuple(written[key] for key, _ in totals.most_common(num))


def chance_of(candidates: Sequence[str], answers: Sequence[Sequence[str]]) -> float:
    """Return the accuracy expected of one of the candidates drawn at random for each question."""
    keys = {normalise_answer(candidate): candidate for candidate in candidates}
    total = 0.0
    for group in answers:
        said = {normalise_answer(answer) for answer in group} & keys.keys()  # any other candidate gets 0
        total += float(sum(vqa_accuracy([keys[key]], [group])[0] for key in said))
    return total / len(candidates) / len(answers)
