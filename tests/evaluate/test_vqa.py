import json

import numpy as np
import pytest

from sfumato.base import BadInput
from sfumato.evaluate.vqa import Questions, best_answers, chance_of, common_answers, distinct_answers, vqa_figures


def questions(answers, **more):
    num = len(answers)
    settings = {
        "questions": ["what is it?"] * num,
        "answers": [tuple(group) for group in answers],
        "kinds": ["what"] * num,
        "answer_types": ["other"] * num,
        "pictures": np.arange(num),
    }
    return Questions(**(settings | more))


def test_figures_by_kind_and_by_answer_type():
    asked = questions(
        [["cat"], ["dog"], ["yes"], ["no"]],
        kinds=["what", "what", None, "is"],
        answer_types=["other", "other", "yes/no", "yes/no"],
        pictures=np.array([0, 0, 1, 1]),
    )
    found = vqa_figures(["a cat", "", "yes", "yes"], asked, chance=0.25)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert (found["accuracy"], found["n"], found["num_pictures"], found["chance"]) == (0.5, 4, 2, 0.25)
    assert {kind: (one["accuracy"], one["n"]) for kind, one in found["by_kind"].items()} == {
        "(none)": (1.0, 1),
        "is": (0.0, 1),
        "what": (0.5, 2),
    }
    assert {kind: one["accuracy"] for kind, one in found["by_answer_type"].items()} == {"other": 0.5, "yes/no": 0.5}
    assert (found["by_kind"]["what"]["low"], found["by_kind"]["what"]["high"]) == (0.0, 1.0)  # of one picture
    assert (found["num_empty"], found["num_distinct"]) == (1, 3)


def test_accuracy_and_exact_match_are_told_apart():
    asked = questions([["red"] * 6 + ["pink"] * 4] * 2)
    found = vqa_figures(["pink", "red"], asked)
    assert found["accuracy"] == 1.0
    assert found["exact_match"]["accuracy"] == 0.5


def test_the_best_answer_must_stand_alone():
    scores = np.array([[-1.0, -2.0, -3.0], [-1.0, -1.0, -3.0], [-np.inf] * 3, [-np.inf, -np.inf, -9.0]])
    assert best_answers(scores, ["a b", "c", "d"]) == ["a b", "", "", "d"]
    assert best_answers(np.array([[-np.inf], [-1.0]]), ["only"]) == ["", "only"]
    with pytest.raises(BadInput, match="NaN"):
        best_answers(np.array([[np.nan, 0.0]]), ["a", "b"])
    with pytest.raises(BadInput, match="2 candidate answers"):
        best_answers(np.zeros((4, 3)), ["a", "b"])


def test_common_answers_count_questions_and_merge_spellings():
    answers = [["blue"] * 9 + ["green"], ["Red."], ["red"], ["red"], ["the blue"], ["two"], ["2"], ["2"], ["green"]]
    assert common_answers(answers, 2) == ("red", "2")
    assert common_answers(answers, 10) == ("red", "2", "blue", "green")


def test_distinct_candidates():
    assert distinct_answers(["Two", "2", " ", "a red one", "red 1\n"]) == ("Two", "a red one")


def test_chance_is_the_mean_over_candidates():
    from sfumato.evaluate.answers import vqa_accuracy

    answers = [["yes"] * 10, ["no"] * 2 + ["yes"] * 8, ["maybe"] * 10, ["Yes", "no", "no", "no"]]
    candidates = ["yes", "no", "red"]
    literal = np.mean([vqa_accuracy([candidate] * 4, answers).mean() for candidate in candidates])
    assert chance_of(candidates, answers) == pytest.approx(literal)
