import warnings

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tests.evaluate.stand_ins import clouds

from sfumato.base import BadInput
from sfumato.evaluate import probe as room
from sfumato.evaluate.probe import fit_predict, linear_probe


@pytest.fixture(scope="module")
def data():
    return *clouds(600, spread=2.0), *clouds(400, spread=2.0, seed=1)


def test_it_is_scikit_learns_pipeline(data):
    train, train_labels, test, test_labels = data
    found = linear_probe(train, train_labels, test, test_labels)
    reference = make_pipeline(StandardScaler(), LogisticRegression(C=found.inverse_penalty, tol=1e-8, max_iter=5000))
    expected = accuracy_score(test_labels, reference.fit(train.astype(float), train_labels).predict(test))
    assert found.converged
    assert abs(found.accuracy.rate - expected) <= 1 / len(test_labels)
    assert found.accuracy.n == 400
    assert found.num_train == 600
    assert 0.3 < found.accuracy.chance + 0.25 < 0.65  # four classes
    recalls = {int(k): v for k, v in found.per_class.items()}
    assert np.average([recalls[y] for y in test_labels]) == pytest.approx(found.accuracy.rate)


def test_the_choice_is_the_best_on_held_training_pictures_and_ignores_the_test_set(data):
    train, train_labels, test, test_labels = data
    found = linear_probe(train, train_labels, test, test_labels)
    rates = dict(found.choices)
    assert rates[found.inverse_penalty] == max(rates.values())
    assert found.inverse_penalty == min(c for c, rate in rates.items() if rate == max(rates.values()))
    other = linear_probe(train, train_labels, test, np.roll(test_labels, 1))
    assert other.choices == found.choices
    assert other.inverse_penalty == found.inverse_penalty


def test_the_penalty_matters_to_the_choice():
    # forty noise features for each informative one: the smallest C of a grid without noise would not be chosen
    rng = np.random.default_rng(0)
    features, labels = clouds(150, spread=3.0)
    noisy = np.concatenate([features, rng.normal(size=(150, 200)).astype(np.float32)], 1)
    found = linear_probe(noisy, labels, noisy, labels, grid=(1e-3, 1e-2, 1e-1, 1e3))
    assert found.inverse_penalty < 1e3
    assert len({rate for _, rate in found.choices}) > 1


def test_features_of_any_scale_do(data):
    train, train_labels, test, test_labels = data
    scale, shift = np.array([1e4, 1e-4, 1, 10, 1, 1], np.float32), np.float32(3)
    one = linear_probe(train, train_labels, test, test_labels)
    other = linear_probe(train * scale + shift, train_labels, test * scale + shift, test_labels)
    assert abs(one.accuracy.rate - other.accuracy.rate) <= 0.0125


def test_a_constant_feature_does_no_harm(data):
    train, train_labels, test, test_labels = data
    dead = lambda features: np.concatenate([features, np.full((len(features), 1), 7, np.float32)], 1)  # noqa: E731
    found = linear_probe(dead(train), train_labels, dead(test), test_labels)
    assert found.accuracy.rate == linear_probe(train, train_labels, test, test_labels).accuracy.rate


def test_running_out_of_iterations_is_reported_and_not_warned_of(data, monkeypatch):
    train, train_labels, test, _ = data
    monkeypatch.setattr(room, "MAX_ITER", 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit = fit_predict(train, train_labels, test, inverse_penalty=10.0)
    assert not fit.converged
    assert fit.num_iter == 2


def test_the_subset_for_the_choice_is_bounded_and_seeded(data):
    train, train_labels, test, test_labels = data
    run = lambda seed: linear_probe(train, train_labels, test, test_labels, num_choose=60, seed=seed)  # noqa: E731
    assert run(1).choices == run(1).choices
    assert run(1).choices != run(2).choices
    # 60 pictures give 12 or so held ones: rates are multiples of 1 / (number held), far coarser than 1 / 120
    held = len(room._split(train_labels, 60, 1)[1])
    assert 8 <= held <= 16
    assert all(abs(rate * held - round(rate * held)) < 1e-9 for _, rate in run(1).choices)


def test_the_split_holds_a_fifth_of_each_class_and_shares_nothing():
    labels = np.repeat([0, 1, 2], [50, 10, 1])
    fit, held = room._split(labels, 1000, 0)
    assert not set(fit) & set(held)
    assert sorted([*fit, *held]) == list(range(61))
    assert np.bincount(labels[held], minlength=3).tolist() == [10, 2, 0]


def test_one_picture_a_class_can_still_be_probed():
    features, labels = np.eye(3, dtype=np.float32), np.arange(3)
    assert linear_probe(features, labels, features, labels).accuracy.rate == 1.0


@pytest.mark.parametrize(
    ("train", "labels", "test", "message"),
    [
        (np.zeros((4, 2)), np.zeros(4, int), np.zeros((2, 2)), "at least two classes"),
        (np.zeros((4, 2)), np.arange(3), np.zeros((2, 2)), "train: a probe needs"),
        (np.zeros((4, 2)), np.arange(4), np.zeros((2, 3)), "2 features per picture, test 3"),
        (np.full((4, 2), np.nan), np.arange(4), np.zeros((2, 2)), "diverged"),
        (np.zeros((0, 2)), np.zeros(0, int), np.zeros((2, 2)), "N >= 1"),
    ],
)
def test_what_cannot_be_probed_is_refused(train, labels, test, message):
    with pytest.raises(BadInput, match=message):
        linear_probe(train, labels, test, np.zeros(len(test), int))


def test_without_scikit_learn_the_error_says_what_to_type(data, monkeypatch):
    train, train_labels, test, test_labels = data

    def missing(name):
        raise ModuleNotFoundError(name)

    monkeypatch.setattr("importlib.import_module", missing)
    with pytest.raises(BadInput, match=r"pip install 'sfumato\[eval\]'"):
        linear_probe(train, train_labels, test, test_labels)
