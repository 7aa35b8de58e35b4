import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier
from tests.evaluate.stand_ins import clouds

from sfumato.base import BadInput
from sfumato.evaluate.cosine import unit
from sfumato.evaluate.knn import knn, nearest, vote

EAST, NORTH = [1.0, 0.0], [0.0, 1.0]


def at(*degrees):
    """Return unit rows (N, 2) at these angles."""
    angles = np.deg2rad(degrees)
    return np.stack([np.cos(angles), np.sin(angles)], 1)


def answers(train, labels, test, **settings):
    """Return the class that each test row is given: asked one class at a time."""
    found = []
    for row in test:
        rates = {label: knn(train, labels, row[None], [label], **settings).accuracy.rate for label in np.unique(labels)}
        (right,) = [int(label) for label, rate in rates.items() if rate]
        found.append(right)
    return found


@pytest.mark.parametrize("k", [1, 3, 4])
def test_it_is_what_scikit_learn_finds_where_votes_are_clear(k, monkeypatch):
    monkeypatch.setitem(knn.__globals__, "TRAIN_BLOCK", 37)  # several blocks, the last shorter
    monkeypatch.setitem(knn.__globals__, "TEST_BLOCK", 20)
    train, labels = clouds(150, spread=1.5)
    test, truth = clouds(90, spread=1.5, seed=1)
    model = KNeighborsClassifier(k, metric="cosine", weights=lambda d: 1 + 1e-3 * (1 - d)).fit(train, labels)
    expected = model.predict(test) == truth
    found = knn(train, labels, test, truth, k=k)
    assert 0.3 < expected.mean() < 0.95
    assert found.accuracy.num_correct == expected.sum()
    assert (found.k, found.num_train, found.num_features, found.accuracy.n) == (k, 150, 6, 90)
    assert found.accuracy.chance == pytest.approx((truth == np.bincount(labels).argmax()).mean())


def test_only_directions_count():
    train, labels = clouds(60)
    test, truth = clouds(40, seed=1)
    lengths = np.random.default_rng(0).uniform(0.1, 10, (60, 1))
    assert knn(train * lengths, labels, test * 7, truth) == knn(train, labels, test, truth)


def test_votes_decide_before_similarity():
    # class 0 is nearest, class 1 has two of three votes, and less similarity in sum
    assert answers(at(1, 61, 62, 90), np.array([0, 1, 1, 0]), at(0)) == [1]


def test_equal_votes_are_decided_by_summed_similarity_then_by_the_lower_class():
    assert answers(at(1, 10, 20), np.array([2, 1, 0]), at(0)) == [2]  # a vote each: the nearest
    assert answers(at(1, 30, 20, 21), np.array([5, 5, 3, 3]), at(0), k=4) == [3]  # cos 1 + cos 30 < cos 20 + cos 21
    assert answers(np.array([EAST, EAST, NORTH]), np.array([4, 2, 9]), np.array([EAST]), k=2) == [2]


def test_of_equally_similar_pictures_the_earlier_is_nearer(monkeypatch):
    train = unit(np.array([NORTH, EAST, EAST, EAST, EAST]), "x")
    for block in (1, 2, 3, 8):
        monkeypatch.setitem(knn.__globals__, "TRAIN_BLOCK", block)
        rows, similarities = nearest(train, unit(np.array([EAST, NORTH]), "x"), 3)
        assert rows.tolist() == [[1, 2, 3], [0, 1, 2]]
        assert similarities.tolist() == [[1, 1, 1], [1, 0, 0]]


def test_a_row_of_zeros_is_equally_far_from_all():
    assert answers(np.array([NORTH, EAST, EAST]), np.array([1, 0, 0]), np.zeros((1, 2)), k=1) == [1]
    assert answers(np.array([[0.0, 0.0], EAST]), np.array([0, 1]), np.array([EAST]), k=1) == [1]


def test_votes_by_hand():
    codes = np.array([0, 1, 1, 2])
    rows = np.array([[0, 1, 2], [0, 1, 3], [3, 1, 0]])
    similarities = np.array([[0.9, 0.1, 0.1], [0.5, 0.6, 0.4], [0.5, 0.5, 0.5]], np.float32)
    assert vote(rows, similarities, codes, 3).tolist() == [1, 1, 0]


def test_a_class_that_was_never_trained_on_is_wrong():
    found = knn(at(0, 1, 90), np.array([0, 0, 1]), at(0, 90), np.array([0, 7]), k=1, class_names=list("abcdefgh"))
    assert found.accuracy.rate == 0.5
    assert found.per_class == {"a": 1.0, "h": 0.0}
    assert found.to_json()["k"] == 1


@pytest.mark.parametrize("k", [0, 4])
def test_neighbours_that_there_are_not_are_refused(k):
    with pytest.raises(BadInput, match="k must lie between 1 and the 3 training pictures"):
        knn(at(0, 1, 90), np.array([0, 0, 1]), at(0), np.array([0]), k=k)


def test_nan_is_refused():
    with pytest.raises(BadInput, match="test: the features hold NaN"):
        knn(at(0, 1, 90), np.array([0, 0, 1]), np.array([[np.nan, 0.0]]), np.array([0]))
