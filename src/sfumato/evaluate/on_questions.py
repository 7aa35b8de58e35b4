"""The suite of visual questions: what the model answers, beside what the questions alone give away."""

import hashlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sfumato.base import BadInput, UndecodableRow
from sfumato.evaluate.answers import answer_type, vqa_accuracy
from sfumato.evaluate.bench import Bench, NotApplicableError, Results, is_private
from sfumato.evaluate.blind import commonest_answer, commonest_by_kind, question_only
from sfumato.evaluate.clusters import clustered_difference
from sfumato.evaluate.vqa import Questions, best_answers, chance_of, common_answers, distinct_answers, vqa_figures

logger = logging.getLogger(__name__)

NUM_CANDIDATES = 100  # of a public training set: each costs a pass over all questions
_HELD = 1 << 24  # numbers of the pictures of a batch; one that is larger is asked about by itself
_NO_ANSWERS = (
    "answers are ranked among declared ones (answers=...), or the commonest of a training set that is declared public"
)

Learned = Callable[[], Questions]  # the training questions, read when first asked for
_Asking = Callable[[int], Mapping[str, Any]]  # a row's question and answers, by its number


@dataclass(frozen=True, kw_only=True)
class Answered:
    """Test questions with the model's answers.

    Attributes:
        asked: the questions.
        free: the answer to each in the model's own words, "" where it could not be fed; None where it gives none.
        ranked: the likeliest candidate for each; None where nothing was ranked.
        candidates: what was ranked.
        lacking: what is wanting, for each of "free" and "ranked" that is None.
        num_unfed: rows that the model could not be fed; of one that only ranks, of which it could score no candidate.
    """

    asked: Questions
    free: list[str] | None = None
    ranked: list[str] | None = None
    candidates: tuple[str, ...] = ()
    lacking: dict[str, str] = field(default_factory=dict)
    num_unfed: int = 0


def training_questions(bench: Bench) -> Questions:
    """Return the questions of the training rows, without reading pictures where the set can (`_asking`).

    Raises:
        NotApplicableError: the set has no questions or no answers, or no row can be read.
    """
    dataset, rows, what = bench.train_set, bench.train_rows, "training questions"
    asking = _asking(bench, dataset)
    if asking is None:
        return _questions(bench, dataset, rows, what, lambda pictures, questions: None)
    told = [_told(asking(int(row)), what) for row in rows]
    bench.progress(what, len(rows), len(rows))
    return _gathered(told, list(range(len(rows))), num_unreadable=0)


def answer_questions(bench: Bench, learned: Learned) -> Answered:
    """Return what the model answers to the test questions, every picture being read once.

    Raises:
        NotApplicableError: the model answers no questions, or only ranks and there is nothing to rank; or as
            `training_questions`, of the test set.
        BadInput: the model gives another number of answers than there are questions, or NaN.
    """
    answer, score = bench.subject.answer, bench.subject.score_answers
    if answer is None and score is None:
        raise NotApplicableError("the model answers no questions")
    _first(bench, bench.test_set, bench.test_rows, "test questions")  # before training questions are read for nothing
    candidates, lacking = _candidates(bench, learned)
    if answer is None and not candidates:
        raise NotApplicableError(lacking["ranked"])
    free: list[str | None] = []
    scores: list[np.ndarray] = []

    def ask(pictures: list[np.ndarray], questions: list[str]) -> None:
        if answer is not None:
            free.extend(_as_many(answer(pictures, questions), questions))
        if candidates and score is not None:
            scores.append(score(pictures, questions, candidates))

    asked = _questions(bench, bench.test_set, bench.test_rows, "test questions", ask)
    scored = np.concatenate(scores) if scores else None
    unfed = free.count(None) if answer is not None or scored is None else int(np.isneginf(scored).all(1).sum())
    return Answered(
        asked=asked,
        free=[said or "" for said in free] if answer is not None else None,
        ranked=None if scored is None else best_answers(scored, candidates),
        candidates=candidates,
        lacking=lacking,
        num_unfed=unfed,
    )


def vqa_suite(answered: Answered) -> Results:
    """Return accuracy and exact match of the model's own words (`free`) and of ranking (`ranked`)."""
    asked, lacking = answered.asked, answered.lacking
    found: Results = {"num_unreadable": asked.num_unreadable, "num_unfed": answered.num_unfed}
    found["candidates"] = list(answered.candidates)
    found["free"] = {"skipped": lacking["free"]} if answered.free is None else vqa_figures(answered.free, asked)
    if answered.ranked is None:
        return found | {"ranked": {"skipped": lacking["ranked"]}}
    chance = chance_of(answered.candidates, asked.answers)
    return found | {"ranked": vqa_figures(answered.ranked, asked, chance)}


def vqa_baselines_suite(answered: Answered, learned: Learned) -> Results:
    """Return what needs no picture: the commonest answer, that of each question type, and the words of the question.

    `above_question_only` is the model's accuracy (its own words, else ranked) less that of the last.
    """
    train, asked = learned(), answered.asked
    blind = question_only(train, asked)
    facts = {"converged": blind.converged, "num_answers": blind.num_answers, "num_words": blind.num_words}
    predictions = answered.ranked if answered.free is None else answered.free
    assert predictions is not None
    ours, theirs = (vqa_accuracy(said, asked.answers) for said in (predictions, blind.predictions))
    above = clustered_difference(ours, theirs, asked.pictures).to_json()
    return {
        "majority": vqa_figures(commonest_answer(train, asked), asked),
        "majority_of_kind": vqa_figures(commonest_by_kind(train, asked), asked),
        "question_only": vqa_figures(blind.predictions, asked) | facts,
        "above_question_only": {"difference": above.pop("accuracy"), **above},
        "num_train": len(train),
        "num_train_unreadable": train.num_unreadable,
    }


def _candidates(bench: Bench, learned: Learned) -> tuple[tuple[str, ...], dict[str, str]]:
    """Return what may be ranked, and why there is no free answer or no ranking where there is none."""
    lacking = {} if bench.subject.answer is not None else {"free": "the model writes no answers"}
    if bench.subject.score_answers is None:
        return (), lacking | {"ranked": "the model scores no given answers"}
    if bench.answers is not None:
        candidates = distinct_answers(bench.answers)
        if not candidates:
            raise BadInput("answers: name at least one answer to rank, or None.")
        return candidates, lacking
    if is_private(bench.train_set):  # a list of its answers would tell of it
        return (), lacking | {"ranked": _NO_ANSWERS}
    try:
        return common_answers(learned().answers, NUM_CANDIDATES), lacking
    except NotApplicableError:
        return (), lacking | {"ranked": _NO_ANSWERS}


def _questions(
    bench: Bench, dataset: Any, rows: np.ndarray, what: str, ask: Callable[[list[np.ndarray], list[str]], None]
) -> Questions:
    """Return what the rows ask, handing pictures and questions to `ask` a batch at a time and keeping no picture."""
    logger.info("%s: %d", what, len(rows))
    record_of, asking, examples, records = _records(dataset), _asking(bench, dataset), [], []
    done = 0
    for batch in _batches(dataset, rows, bench.batch_size):
        told = [_told(_with_question(example, row, asking), what) for row, example in batch]
        ask([example["image"] for _, example in batch], [example["question"] for example in told])
        examples += told
        records += [record_of(row, example["image"]) for row, example in batch]
        done += len(batch)
        bench.progress(what, done, len(rows))
    if not done:
        raise NotApplicableError(f"none of {len(rows)} pictures could be read")
    return _gathered(examples, records, num_unreadable=len(rows) - done)


def _gathered(told: list[dict[str, Any]], records: list[Any], *, num_unreadable: int) -> Questions:
    return Questions(
        questions=[example["question"] for example in told],
        answers=[tuple(example["answers"]) for example in told],
        kinds=[example.get("kind") for example in told],
        answer_types=[example.get("answer_type") or answer_type(example["answers"]) for example in told],
        pictures=np.unique(np.array(records), return_inverse=True)[1],
        num_unreadable=num_unreadable,
    )


def _batches(dataset: Any, rows: np.ndarray, batch_size: int) -> Iterator[list[tuple[int, Mapping[str, Any]]]]:
    """Yield the rows that can be decoded; pictures may differ in size, so they are not stacked, and few if large."""
    batch, held = [], 0
    for row in rows:
        try:
            example = dataset[int(row)]
        except UndecodableRow:
            continue
        batch.append((int(row), example))
        held += np.asarray(example["image"]).size
        if len(batch) == batch_size or held > _HELD:
            yield batch
            batch, held = [], 0
    if batch:
        yield batch


def _asking(bench: Bench, dataset: Any) -> _Asking | None:
    """Return what a row asks without its picture, where the set can tell; captions answer the public question."""
    if getattr(dataset, "has_questions", False):
        return lambda row: dataset.asked(row)._asdict()
    question = bench.subject.question
    if question is None or not hasattr(dataset, "captions_of"):
        return None
    return lambda row: {"question": question, "answers": dataset.captions_of(row)}


def _with_question(example: Mapping[str, Any], row: int, asking: _Asking | None) -> Mapping[str, Any]:
    return example if asking is None or example.get("question") else {**example, **asking(row)}


def _told(example: Mapping[str, Any], what: str) -> dict[str, Any]:
    """Return a row without its picture. Raises NotApplicableError where it asks nothing or has no answer."""
    if not example.get("question"):
        raise NotApplicableError(f"the {what.split()[0]} set has no questions")
    if not example.get("answers"):
        raise NotApplicableError(f"the {what.split()[0]} set has no answers")
    return {name: value for name, value in example.items() if name != "image"}


def _first(bench: Bench, dataset: Any, rows: np.ndarray, what: str) -> None:
    for batch in _batches(dataset, rows, 1):
        row, example = batch[0]
        _told(_with_question(example, row, _asking(bench, dataset)), what)
        return


def _records(dataset: Any) -> Callable[[int, np.ndarray], Any]:
    """Return what tells the record of a row: the set's own records, else its picture, pixel by pixel."""
    owners = getattr(dataset, "owners", None)
    if owners is None:
        return lambda row, picture: hashlib.blake2b(np.ascontiguousarray(picture).tobytes(), digest_size=8).hexdigest()
    codes = np.empty(len(dataset), np.int64)
    for code, members in enumerate(owners):
        codes[members] = code
    return lambda row, picture: int(codes[row])


def _as_many(answers: Sequence[str | None], questions: list[str]) -> Sequence[str | None]:
    if len(answers) != len(questions):
        raise BadInput(f"the model gave {len(answers)} answers to {len(questions)} questions.")
    return answers
