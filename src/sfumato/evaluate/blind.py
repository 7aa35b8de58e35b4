"""Answers without sight: the commonest one, and what the words of the question give away.

A model that reads pictures must beat both. Fitted on the training questions, one answer each (`consensus`).
"""

import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sfumato.base import BadInput
from sfumato.evaluate.answers import consensus, normalise_answer
from sfumato.evaluate.extra import sklearn_part
from sfumato.evaluate.vqa import Questions, common_answers

INVERSE_PENALTY = 1.0  # fixed, so that nothing is chosen on any data
MAX_ITER = 300
MAX_ANSWERS = 500  # rarer answers are never given: VQA2.0 has 20,000, and a column each would take hours
MAX_WORDS = 20_000


@dataclass(frozen=True, kw_only=True)
class QuestionOnly:
    """Predictions (N,) of the classifier, whether its fit converged, and how many answers and words it knows."""

    predictions: list[str]
    converged: bool
    num_answers: int
    num_words: int


def commonest_answer(train: Questions, test: Questions) -> list[str]:
    """Return the commonest training answer, for each test question."""
    return [common_answers(train.answers, 1)[0]] * len(test)


def commonest_by_kind(train: Questions, test: Questions) -> list[str]:
    """Return the commonest training answer to questions of the same type; overall where training has none of it."""
    groups: dict[str | None, list[tuple[str, ...]]] = {}
    for kind, answers in zip(train.kinds, train.answers, strict=True):
        groups.setdefault(kind, []).append(answers)
    overall = common_answers(train.answers, 1)[0]
    best = {kind: common_answers(group, 1)[0] for kind, group in groups.items() if kind is not None}
    return [best.get(kind, overall) if kind is not None else overall for kind in test.kinds]


def question_only(train: Questions, test: Questions) -> QuestionOnly:
    """Return what logistic regression on the words of the question answers.

    Which words and pairs of neighbouring words a question has (the 20,000 commonest), multinomial logistic regression
    with L2 penalty, C = 1, on the 500 commonest training answers. Equal questions with equal answers are one row with
    a weight, which is the same problem. L-BFGS from zero draws nothing, so there is no seed.

    Raises:
        BadInput: scikit-learn is not installed, or no question has a word.
    """
    known = common_answers(train.answers, MAX_ANSWERS)
    if len(known) == 1:
        return QuestionOnly(predictions=list(known) * len(test), converged=True, num_answers=1, num_words=0)
    number = {normalise_answer(answer): place for place, answer in enumerate(known)}
    pairs = zip(train.questions, (number.get(normalise_answer(consensus(a))) for a in train.answers), strict=True)
    weights = Counter((question, label) for question, label in pairs if label is not None)
    words = sklearn_part("feature_extraction.text").CountVectorizer(
        token_pattern=r"\b\w+\b", ngram_range=(1, 2), binary=True, max_features=MAX_WORDS, dtype=np.float64
    )
    features = _words(words, [question for question, _ in weights])
    model = sklearn_part("linear_model").LogisticRegression(C=INVERSE_PENALTY, max_iter=MAX_ITER)
    converged = _fit(
        model, features, np.array([label for _, label in weights]), np.array(list(weights.values()), float)
    )
    labels = model.predict(words.transform(test.questions))
    predictions = [known[label] for label in labels]
    return QuestionOnly(
        predictions=predictions, converged=converged, num_answers=len(known), num_words=features.shape[1]
    )


def _words(words, questions: Sequence[str]):
    try:
        return words.fit_transform(questions)
    except ValueError:  # scikit-learn's "empty vocabulary"
        raise BadInput("no training question has a word: the question-only baseline cannot be fitted.") from None


def _fit(model, features, labels: np.ndarray, weights: np.ndarray) -> bool:
    """Fit and return whether it converged, which scikit-learn says by a warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", sklearn_part("exceptions").ConvergenceWarning)
        # each question once, with many answers: scikit-learn suspects a regression
        warnings.filterwarnings("ignore", "The number of unique classes", UserWarning)
        model.fit(features, labels, sample_weight=weights)
    return bool(np.max(model.n_iter_) < model.max_iter)
