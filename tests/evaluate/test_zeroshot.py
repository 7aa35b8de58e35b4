import numpy as np
import pytest
from sklearn.metrics import accuracy_score, recall_score

from sfumato.base import BadInput
from sfumato.evaluate.zeroshot import choose_caption, zero_shot


def test_it_is_argmax_accuracy_where_nothing_ties():
    rng = np.random.default_rng(0)
    labels = rng.integers(5, size=300)
    scores = rng.normal(size=(300, 5))
    scores[np.arange(300), labels] += 1
    found = zero_shot(scores, labels)
    assert found.accuracy.rate == pytest.approx(accuracy_score(labels, scores.argmax(1)))
    assert list(found.per_class.values()) == pytest.approx(recall_score(labels, scores.argmax(1), average=None))
    assert (found.num_ties, found.accuracy.chance, found.accuracy.n) == (0, 0.2, 300)


def test_a_collapsed_model_gets_nothing():
    found = zero_shot(np.zeros((10, 3)), np.zeros(10, int), ["a", "b", "c"])
    assert found.accuracy.num_correct == 0
    assert found.num_ties == 10
    assert found.per_class == {"a": 0.0}


def test_scores_that_differ_by_rounding_are_equal():
    scores = np.array([[0.5, 0.5 - 1e-7, 0.1], [0.5, 0.4, 0.1]])
    assert zero_shot(scores, np.array([0, 0]), tie=0.0).accuracy.num_correct == 2
    found = zero_shot(scores, np.array([0, 0]), tie=1e-6)
    assert (found.accuracy.num_correct, found.num_ties) == (1, 1)
    assert zero_shot(scores, np.array([1, 1]), tie=1e-6).accuracy.num_correct == 0


def test_from_ten_labels_on_the_first_five_are_counted_too():
    scores = np.arange(10.0)[None, ::-1].repeat(10, 0)  # label 0 is best, label 9 worst
    found = zero_shot(scores, np.arange(10))
    assert found.top5 is not None
    assert (found.top5.num_correct, found.top5.n, found.top5.chance) == (5, 10, 0.5)
    assert found.to_json()["top5"]["accuracy"] == 0.5
    few = zero_shot(scores[:, :9], np.arange(9).repeat(2)[:10])
    assert few.top5 is None
    assert "top5" not in few.to_json()


def test_ties_at_the_fifth_place_count_as_wrong():
    scores = np.array([[9, 8, 7, 6, 5, 5, 1, 1, 1, 1.0]] * 3)
    found = zero_shot(scores, np.array([3, 4, 5]))
    assert found.top5 is not None
    assert found.top5.num_correct == 1
    unreached = np.full((1, 12), -np.inf)
    unreached[0, :3] = [-1, -2, -3]  # a search that found three labels of twelve
    assert zero_shot(unreached, np.array([2])).top5.num_correct == 1
    assert zero_shot(unreached, np.array([7])).top5.num_correct == 0


def test_labels_that_a_search_did_not_reach_cannot_win():
    scores = np.array([[-np.inf, -2.0, -1.0], [-1.0, -np.inf, -np.inf]])
    assert zero_shot(scores, np.array([2, 0])).accuracy.rate == 1.0
    assert zero_shot(scores, np.array([0, 1])).accuracy.rate == 0.0


@pytest.mark.parametrize(
    ("scores", "labels", "message"),
    [
        (np.zeros((2, 3)), [0, 3], "labels reach from 0 to 3"),
        (np.zeros((2, 3)), [0, -1], "labels reach from -1"),
        (np.zeros((2, 3)), [0], "do not fit"),
        (np.full((1, 2), np.nan), [0], "diverged"),
        (np.zeros((0, 3)), [], "N >= 1"),
    ],
)
def test_wrong_arrays_are_refused(scores, labels, message):
    with pytest.raises(BadInput, match=message):
        zero_shot(scores, np.array(labels, int))


def test_caption_choice_by_brute_force():
    rng = np.random.default_rng(1)
    losses = rng.integers(0, 6, (200, 4)).astype(float)
    losses[::3, 3] = np.inf  # two false captions only
    expected = sum(row[0] < min(row[1:]) for row in losses)
    found = choose_caption(losses)
    assert (found.num_correct, found.n) == (expected, 200)
    assert found.chance == pytest.approx((67 / 3 + 133 / 4) / 200)


def test_chance_is_what_guessing_gets():
    losses = np.random.default_rng(2).random((4000, 5))
    found = choose_caption(losses)
    low, high = found.interval
    assert found.chance == pytest.approx(0.2)
    assert low < 0.2 < high


@pytest.mark.parametrize("losses", [np.array([[1.0, np.nan]]), np.array([[1.0, np.inf]]), np.array([[np.inf, 1.0]])])
def test_pictures_without_a_choice_are_refused(losses):
    with pytest.raises(BadInput):
        choose_caption(losses)
