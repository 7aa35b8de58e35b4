import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tests.evaluate.stand_ins import clouds

from sfumato.base import BadInput
from sfumato.evaluate.fewshot import balanced_draw, few_shot


def test_draws_are_balanced_seeded_and_distinct():
    labels = np.array([0, 1, 0, 1, 2, 2, 0, 2, 1, 0, 2, 1])
    rows = balanced_draw(labels, 3, seed=0, draw=0)
    assert np.bincount(labels[rows]).tolist() == [3, 3, 3]
    assert len(set(rows.tolist())) == 9
    assert rows.tolist() == balanced_draw(labels, 3, seed=0, draw=0).tolist()
    for settings in ([(0, 0), (0, 1), (0, 2)], [(0, 0), (1, 0), (2, 0)]):  # by draw, and by seed
        assert len({tuple(balanced_draw(labels, 3, seed=seed, draw=draw)) for seed, draw in settings}) == 3


def test_accuracies_are_those_of_the_drawn_pictures():
    train, train_labels = clouds(300, spread=2.0)
    test, test_labels = clouds(200, spread=2.0, seed=1)
    (found,) = few_shot(train, train_labels, test, test_labels, shots=(5,), num_draws=3, seed=4)
    expected = []
    for draw in range(3):
        rows = balanced_draw(train_labels, 5, seed=4, draw=draw)
        reference = make_pipeline(StandardScaler(), LogisticRegression(C=1.0, tol=1e-8, max_iter=5000))
        expected.append(reference.fit(train[rows], train_labels[rows]).score(test, test_labels))
    assert found.accuracies == pytest.approx(expected, abs=1 / 200)
    assert found.mean == pytest.approx(np.mean(found.accuracies))
    assert found.std == pytest.approx(np.std(found.accuracies, ddof=1))
    assert found.chance == 0.25
    assert found.n == 200


def test_more_shots_help_and_informative_features_beat_noise():
    train, train_labels = clouds(400, spread=2.5)
    test, test_labels = clouds(400, spread=2.5, seed=1)
    found = few_shot(train, train_labels, test, test_labels)
    assert [shot.num_shots for shot in found] == [1, 2, 5, 10]
    assert found[0].mean < found[-1].mean
    noise = np.random.default_rng(0).normal(size=train.shape).astype(np.float32)
    blind = few_shot(noise, train_labels, test, test_labels, shots=(10,))[0]
    assert abs(blind.mean - 0.25) < 0.1 < found[-1].mean - blind.mean


def test_a_single_draw_has_no_spread():
    train, labels = clouds(40)
    assert few_shot(train, labels, train, labels, shots=(1,), num_draws=1)[0].to_json()["std"] == 0.0


def test_a_class_that_cannot_give_the_shots_is_named():
    with pytest.raises(BadInput, match="class 1 has 2 pictures, fewer than 5 shots"):
        few_shot(np.zeros((12, 2)), np.array([0] * 10 + [1] * 2), np.zeros((1, 2)), np.zeros(1, int), shots=(5,))


def test_chance_is_less_where_test_classes_have_no_training_pictures():
    train, labels = clouds(40, num_classes=4)
    test, truth = clouds(20, num_classes=4, seed=1)
    truth = np.arange(20) % 8  # classes 4 to 7 were never trained on
    (found,) = few_shot(train, labels, test, truth, shots=[1], num_draws=1)
    assert found.chance == pytest.approx(12 / 20 / 4)
