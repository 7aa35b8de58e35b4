"""Official VQA accuracy: short answers against what several people answered.

The rules are those that visualqa.org/evaluation.html describes, in the order and with the corners of the evaluation
that published figures were made by.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from sfumato.base import BadInput
from sfumato.evaluate.contractions import contractions

CONSENSUS = 3  # so many other people must say the same for a whole point
_MARKS = frozenset(';/[]"{}()=+\\_-><@`,?!')  # not the apostrophe (girl's), not the colon (2:50)
_COUNTED = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_NUMBERS = {"none": "0"} | {word: str(number) for number, word in enumerate(_COUNTED)}
_ARTICLES = frozenset({"a", "an", "the"})
_CONTRACTIONS = contractions()
_COMMA_IN_NUMBER = re.compile(r"\d,\d")
_PERIOD = re.compile(r"\.(?!\d)")


def vqa_accuracy(predictions: Sequence[str], answers: Sequence[Sequence[str]]) -> np.ndarray:
    """Return the official accuracy of each prediction, (N,) float64 in [0, 1].

    Of a question that K people answered: the mean over those K of min(1, how many of the *other* K - 1 said the same
    / 3). With K = 10 so many equal answers give 0: 0, 1: .3, 2: .6, 3: .9, 4 and more: 1. Texts are compared after
    `normalise_answer`, but as they stand (case too) where all K wrote exactly the same: that is the official way.

    Ours, where the official one says nothing: with K < 4 the divisor is K - 1, so that agreeing with all is a whole
    point; with K = 1 it is 1 for the same text after `normalise_answer`, else 0. A blank prediction is always wrong.

    Args:
        predictions: N answers of the model.
        answers: for each the answers of all people, one or more.

    Raises:
        BadInput: the two lengths differ, N = 0, or a question has no answer.

    Source: Antol et al., ICCV 2015; Goyal et al., CVPR 2017.
    """
    _check(predictions, answers)
    return np.array([_agreement(said, truths) for said, truths in zip(predictions, answers, strict=True)])


def exact_match(predictions: Sequence[str], answers: Sequence[Sequence[str]]) -> np.ndarray:
    """Return whether each prediction is the question's commonest answer, both after `normalise_answer`: (N,) bool.

    A blank prediction is wrong. Args and errors as `vqa_accuracy`.
    """
    _check(predictions, answers)
    return np.array(
        [
            bool(one_line(said)) and normalise_answer(said) == normalise_answer(consensus(truths))
            for said, truths in zip(predictions, answers, strict=True)
        ]
    )


def consensus(answers: Sequence[str]) -> str:
    """Return the commonest answer (first of equals), compared after `normalise_answer`, as it was first written.

    >>> consensus(["a dog", "cat", "Dog."])
    'a dog'
    """
    keys = [normalise_answer(answer) for answer in answers]
    return one_line(answers[keys.index(Counter(keys).most_common(1)[0][0])])


def answer_type(answers: Sequence[str]) -> str:
    """Return "yes/no", "number" or "other", by the commonest answer.

    >>> answer_type(["two", "2"]), answer_type(["Yes"]), answer_type(["a dog"])
    ('number', 'yes/no', 'other')
    """
    answer = normalise_answer(consensus(answers))
    if answer in ("yes", "no"):
        return "yes/no"
    return "number" if answer.replace(".", "", 1).isdecimal() else "other"


def one_line(text: str) -> str:
    """Return the text in Unicode's composed form, line breaks and tabs as spaces, and none around it."""
    return unicodedata.normalize("NFC", text).replace("\n", " ").replace("\t", " ").strip()


@lru_cache(maxsize=1 << 16)  # a few thousand answers make up most of a data set
def normalise_answer(text: str) -> str:
    """Return an answer as the official evaluation compares it.

    In this order. Line breaks and tabs become spaces. Of the marks ; / [ ] " { } ( ) = + \\ _ - > < @ ` , ? ! each is
    deleted where it stands beside a space anywhere in the text, or where the text has a comma between two digits;
    otherwise it becomes a space. Periods go unless a digit follows. Lower case. The words none, zero, one .. ten
    become digits, "a", "an", "the" go, contractions get their missing apostrophe. Words are one space apart.

    >>> normalise_answer("The T-shirt, dont!"), normalise_answer("ten"), normalise_answer("1,000.5")
    ("t shirt don't", '10', '1000.5')
    """
    words = (_NUMBERS.get(word, word) for word in _without_marks(one_line(text)).lower().split())
    return " ".join(_CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)


def _without_marks(text: str) -> str:
    in_number = _COMMA_IN_NUMBER.search(text) is not None
    deleted = {mark for mark in _MARKS if in_number or f"{mark} " in text or f" {mark}" in text}
    return _PERIOD.sub("", text.translate({ord(mark): "" if mark in deleted else " " for mark in _MARKS}))


def _agreement(prediction: str, answers: Sequence[str]) -> float:
    said, truths = one_line(prediction), [one_line(answer) for answer in answers]
    if not said:
        return 0.0
    num = len(truths)
    if num == 1 or len(set(truths)) > 1:
        said, truths = normalise_answer(said), [normalise_answer(truth) for truth in truths]
    same = truths.count(said)
    if num == 1:
        return float(same)
    needed = min(CONSENSUS, num - 1)
    # leaving out one of those who said the same leaves one less; leaving out another leaves all
    return (same * min(1.0, (same - 1) / needed) + (num - same) * min(1.0, same / needed)) / num


def _check(predictions: Sequence[str], answers: Sequence[Sequence[str]]) -> None:
    if isinstance(predictions, str) or isinstance(answers, str) or any(isinstance(group, str) for group in answers):
        raise BadInput("predictions must be a list, and answers must hold a list for each question, not a bare string.")
    if len(predictions) != len(answers) or len(answers) == 0:
        raise BadInput(f"{len(predictions)} predictions and {len(answers)} questions: want the same number, >= 1.")
    if not all(len(group) for group in answers):
        raise BadInput("every question needs at least one answer.")
