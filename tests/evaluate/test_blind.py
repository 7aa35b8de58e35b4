import numpy as np
import pytest

from sfumato.base import BadInput
from sfumato.evaluate import blind
from sfumato.evaluate.blind import commonest_answer, commonest_by_kind, question_only
from sfumato.evaluate.vqa import Questions


def questions(rows):
    """Return questions from (question, answers, kind)."""
    return Questions(
        questions=[row[0] for row in rows],
        answers=[tuple(row[1]) for row in rows],
        kinds=[row[2] for row in rows],
        answer_types=["other"] * len(rows),
        pictures=np.arange(len(rows)),
    )


TRAIN = questions(
    [
        *[("is there a dog?", ["yes"], "is")] * 5,
        *[("is there a car?", ["no"], "is")] * 3,
        *[("what colour is it?", ["light blue"], "colour")] * 4,
        *[("what colour was it?", ["red"], None)] * 2,
    ]
)
TEST = questions(
    [
        ("is there a dog?", ["x"], "is"),
        ("is there a car?", ["x"], "is"),
        ("what colour?", ["x"], "colour"),
        ("how many?", ["x"], "count"),
        ("how?", ["x"], None),
    ]
)


def test_the_commonest_answer():
    assert commonest_answer(TRAIN, TEST) == ["yes"] * 5


def test_the_commonest_answer_of_each_type_and_of_all_where_there_is_none():
    assert commonest_by_kind(TRAIN, TEST) == ["yes", "yes", "light blue", "yes", "yes"]


def test_words_of_the_question_give_answers_away():
    found = question_only(TRAIN, TEST)
    assert found.predictions[:3] == ["yes", "no", "light blue"]
    assert found.converged
    assert found.num_answers == 4
    words = {w for q in TRAIN.questions for w in q.strip("?").split()}
    pairs = {tuple(q.strip("?").split()[i : i + 2]) for q in TRAIN.questions for i in range(3)}
    assert found.num_words == len(words) + len(pairs)
    assert question_only(TRAIN, TEST) == found


def test_pairs_of_words_count():
    train = questions(
        [("left of red", ["yes"], None), ("red of left", ["no"], None)] * 3  # the same words
    )
    test = questions([("left of red", ["x"], None), ("red of left", ["x"], None)])
    assert question_only(train, test).predictions == ["yes", "no"]


def test_weights_are_what_repeated_rows_would_be():
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression

    words = CountVectorizer(token_pattern=r"\b\w+\b", ngram_range=(1, 2), binary=True)
    model = LogisticRegression(C=1.0, max_iter=300)
    model.fit(words.fit_transform(TRAIN.questions), [answers[0] for answers in TRAIN.answers])
    assert question_only(TRAIN, TEST).predictions == list(model.predict(words.transform(TEST.questions)))


def test_rare_answers_are_never_given(monkeypatch):
    monkeypatch.setattr(blind, "MAX_ANSWERS", 2)
    found = question_only(TRAIN, TEST)
    assert found.num_answers == 2
    assert set(found.predictions) <= {"yes", "light blue"}


def test_a_fit_that_stops_early_says_so(monkeypatch):
    monkeypatch.setattr(blind, "MAX_ITER", 1)
    assert not question_only(TRAIN, TEST).converged


def test_one_answer_is_given_always():
    train = questions([("what?", ["red"], None), ("who?", ["Red."], None)])
    assert question_only(train, TEST).predictions == ["red"] * 5


def test_questions_without_words_are_refused():
    with pytest.raises(BadInput, match="no training question has a word"):
        question_only(questions([("?", ["a b"], None), ("??", ["c"], None)]), TEST)
