from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sfumato.base import BadInput
from sfumato.evaluate.answers import answer_type, consensus, exact_match, normalise_answer, vqa_accuracy
from sfumato.evaluate.contractions import contractions

# already as they are after normalisation, so that the rule for equal answers changes nothing
PLAIN = st.sampled_from(["red", "blue", "2", "traffic light", "no"])
TENS = st.lists(PLAIN, min_size=10, max_size=10)
FAST = settings(max_examples=60, deadline=None)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Red", "red"),
        ("  traffic\tlight\n", "traffic light"),
        ("traffic\nlight", "traffic light"),
        ("two   dogs", "2 dogs"),
        ("None", "0"),
        ("ten", "10"),
        ("eleven", "eleven"),  # the table ends at ten
        ("someone", "someone"),  # "one" inside a word
        ("A dog, an ape and the cat", "dog ape and cat"),
        ("an", ""),
        ("dont", "don't"),
        ("cant", "can't"),
        ("couldntve", "couldntve"),  # two apostrophes missing: not in the table
        ("couldn'tve", "couldn't've"),
        ("youd've", "you'd've"),
        ("somebody'd", "somebodyd"),
        ("well", "well"),
        ("its", "its"),
        ("girl's", "girl's"),  # no apostrophe goes
        ("2:50 pm", "2:50 pm"),  # no colon goes
        ("t-shirt", "t shirt"),  # inside: a space
        ("t- shirt", "t shirt"),  # beside a space: deleted
        ("t-shirt - blue", "tshirt blue"),  # beside a space anywhere: deleted everywhere
        ("black/white", "black white"),
        ("yes!", "yes"),
        ("what?!", "what"),
        ("(left)", "left"),
        ("100,978", "100978"),
        ("1,000-2,000", "10002000"),  # a comma in a number deletes every mark
        ("red,blue", "red blue"),
        ("red, blue", "red blue"),
        ("3.5", "3.5"),
        (".5", ".5"),
        ("u.s.a.", "usa"),
        ("no.", "no"),
        ("3.", "3"),
        ("?", ""),
        ("", ""),
    ],
)
def test_normalisation_case_by_case(text, expected):
    assert normalise_answer(text) == expected


def test_contractions_are_those_of_the_official_table():
    table = contractions()
    assert len(table) == 114  # of its 120, four have a capital I and two change nothing
    assert sum(value.endswith("n't") for value in table.values()) == 21
    assert all(wrong != right and wrong == wrong.lower() for wrong, right in table.items())
    apart = {wrong for wrong, right in table.items() if wrong.replace("'", "") != right.replace("'", "")}
    assert apart == set()  # only apostrophes are moved
    assert table["theyve"] == "they've"
    assert table["y'alld've"] == "y'all'd've"
    assert not {"well", "were", "shed", "hell", "ill", "wed", "its", "id"} & table.keys()


def literal(prediction, answers):
    """Return the accuracy as it is defined: a loop over the people left out, one at a time."""
    said, truths = prediction.strip(), [answer.strip() for answer in answers]
    if len(set(truths)) > 1:
        said, truths = normalise_answer(said), [normalise_answer(truth) for truth in truths]
    points = []
    for left_out in range(len(truths)):
        agreeing = [i for i in range(len(truths)) if i != left_out and truths[i] == said]
        points.append(min(1, len(agreeing) / 3))
    return sum(points) / len(points)


@FAST
@given(st.lists(st.sampled_from(["Two.", "two", "2", "the cat", "cat", "no"]), min_size=4, max_size=10), st.data())
def test_accuracy_is_the_mean_over_those_left_out(answers, data):
    said = data.draw(st.sampled_from([*answers, "TWO", "dog"]))
    assert vqa_accuracy([said], [answers])[0] == pytest.approx(literal(said, answers), abs=1e-12)


@pytest.mark.parametrize(("num_equal", "expected"), [(0, 0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1), (9, 1), (10, 1)])
def test_accuracy_by_how_many_of_ten_agree(num_equal, expected):
    answers = ["red"] * num_equal + [f"other {i}" for i in range(10 - num_equal)]
    assert vqa_accuracy(["red"], [answers])[0] == pytest.approx(expected, abs=1e-12)


@FAST
@given(TENS, PLAIN, st.randoms(use_true_random=False))
def test_the_order_of_people_says_nothing(answers, said, random):
    shuffled = random.sample(answers, 10)
    assert vqa_accuracy([said], [answers]) == vqa_accuracy([said], [shuffled])


@FAST
@given(TENS, PLAIN, st.integers(0, 9))
def test_accuracy_is_bounded_and_grows_with_agreement(answers, said, place):
    before = vqa_accuracy([said], [answers])[0]
    after = vqa_accuracy([said], [[said if i == place else answer for i, answer in enumerate(answers)]])[0]
    assert 0 <= before <= after <= 1


@FAST
@given(TENS)
def test_nothing_beats_the_commonest_answer(answers):
    best = vqa_accuracy([consensus(answers)], [answers])[0]
    assert all(vqa_accuracy([answer], [answers])[0] <= best for answer in answers)


def test_where_all_ten_wrote_the_same_nothing_is_normalised():
    assert vqa_accuracy(["Yes", "yes", " yes\n", "two", "2"], [["yes"] * 10] * 3 + [["2"] * 10] * 2).tolist() == [
        *(0, 1, 1),
        *(0, 1),
    ]
    assert vqa_accuracy(["Yes", "two"], [["yes"] * 9 + ["no"], ["2"] * 9 + ["3"]]).tolist() == [1, 1]
    assert exact_match(["Yes", "two"], [["yes"] * 10, ["2"] * 10]).all()  # exact match has no such corner


def test_a_single_answer_must_be_met_exactly_after_normalisation():
    found = vqa_accuracy(["The Dog.", "dogs", "two"], [["dog"], ["dog"], ["2"]])
    assert found.dtype == np.float64
    assert found.tolist() == [1, 0, 1]


def test_few_people_can_still_give_a_whole_point():
    assert vqa_accuracy(
        ["a cat"] * 4, [["cat", "Cat"], ["cat", "dog"], ["cat", "Cat", "a cat"], ["cat", "dog", "cat"]]
    ) == (pytest.approx([1, 1 / 2, 1, 2 / 3]))
    assert vqa_accuracy(["cat"], [["cat", "dog", "ape"]])[0] == pytest.approx(1 / 3)


def test_blank_answers_are_wrong_and_no_error():
    answers = [["a", "an"], ["the"], [""], ["x"] * 10]
    assert vqa_accuracy(["", " \n", "", "\t"], answers).tolist() == [0, 0, 0, 0]
    assert not exact_match(["", " \n", "", "\t"], answers).any()


def test_answers_of_several_words_are_treated_alike():
    answers = [["Traffic  light", "traffic light", "traffic light", "a traffic light"]] * 2
    assert vqa_accuracy(["the traffic light", "light"], answers).tolist() == [1, 0]


def test_consensus_is_the_commonest_and_the_first_of_equals():
    assert consensus(["cat", "A dog", "dog.", "ape", "cat "]) == "cat"
    assert consensus([" b", "a b", "c", "c"]) == "b"
    assert exact_match(["c", "B"], [["b", "c"], ["b", "c"]]).tolist() == [False, True]


@FAST
@given(TENS)
def test_consensus_has_the_highest_count(answers):
    assert Counter(answers)[consensus(answers)] == max(Counter(answers).values())


def test_answer_types():
    assert [answer_type([a]) for a in ("Yes", "no", "3", "2.5", "none", "blue", "1.2.3", "")] == (
        ["yes/no", "yes/no", "number", "number", "number", "other", "other", "other"]
    )


def test_what_cannot_be_compared_is_refused():
    for call in (vqa_accuracy, exact_match):
        with pytest.raises(BadInput, match="2 predictions and 1 questions"):
            call(["a", "b"], [["a"]])
        with pytest.raises(BadInput, match="0 predictions and 0 questions"):
            call([], [])
        with pytest.raises(BadInput, match="at least one answer"):
            call(["a"], [[]])
        with pytest.raises(BadInput, match="bare string"):
            call(["red"], ["red"])
