import numpy as np
import pytest

from sfumato.base import BadInput
from sfumato.evaluate.accuracy import wilson
from sfumato.evaluate.clusters import clustered_difference, clustered_share


def clustered_draw(rng, num_clusters, size):
    """Return right answers (N,), alike within a cluster, and clusters (N,); the true share is .7."""
    share = rng.beta(1.4, 0.6, num_clusters)
    clusters = np.repeat(np.arange(num_clusters), size)
    return (rng.random(len(clusters)) < share[clusters]).astype(float), clusters


def test_the_interval_covers_the_truth_where_questions_depend_on_each_other():
    rng = np.random.default_rng(0)
    ours, naive = [], []
    for _ in range(500):
        values, clusters = clustered_draw(rng, 25, 8)
        found = clustered_share(values, clusters)
        ours.append(found.low <= 0.7 <= found.high)
        low, high = wilson(int(values.sum()), len(values))
        naive.append(low <= 0.7 <= high)
    assert 0.92 < np.mean(ours) < 0.98
    assert np.mean(naive) < 0.8


def test_the_variance_is_the_literal_one():
    values, clusters = np.array([1, 0.3, 0.6, 0, 1, 1.0]), np.array([5, 5, 2, 2, 9, 2])
    mean = values.mean()
    sums = [sum(values[i] - mean for i in range(6) if clusters[i] == name) for name in (2, 5, 9)]
    variance = 3 / 2 * sum(s * s for s in sums) / 36
    found = clustered_difference(values, np.zeros(6), clusters)
    half = 4.302652729749464 * variance**0.5  # Student's quantile at 2 degrees of freedom, from a table
    assert (found.mean, found.n, found.num_clusters) == (pytest.approx(mean), 6, 3)
    assert found.high == pytest.approx(min(1, mean + half))
    assert found.low == pytest.approx(mean - half)


def test_questions_of_their_own_pictures_get_nearly_the_plain_interval():
    values = np.arange(1000) % 4 == 0
    found = clustered_share(values, np.arange(1000))
    assert (found.low, found.high) == pytest.approx(wilson(250, 1000), abs=2e-4)


def test_copies_of_a_question_add_nothing():
    rng = np.random.default_rng(1)
    values = (rng.random(40) < 0.6).astype(float)
    once = clustered_share(values, np.arange(40))
    often = clustered_share(np.repeat(values, 9), np.repeat(np.arange(40), 9))
    assert (often.low, often.high) == pytest.approx((once.low, once.high), abs=5e-3)
    assert (often.n, often.num_clusters) == (360, 40)


def test_all_right_and_all_wrong_are_as_sure_as_there_are_pictures():
    for value in (0.0, 1.0):
        found = clustered_share(np.full(60, value), np.repeat(np.arange(20), 3))
        assert found.mean == value
        assert 0.1 < found.high - found.low < 0.25  # 20 pictures, not 60 questions
        assert found.low == 0.0 or found.high == 1.0


def test_one_picture_says_nothing_of_others():
    found = clustered_share(np.array([1.0, 0.0]), np.array([3, 3]))
    assert (found.mean, found.low, found.high, found.num_clusters) == (0.5, 0.0, 1.0, 1)
    less = clustered_difference(np.array([1.0, 0.0]), np.array([0.0, 0.0]), np.array([3, 3]))
    assert (less.mean, less.low, less.high) == (0.5, -1.0, 1.0)


def test_more_than_the_questions_is_never_claimed():
    # every picture half right: no variance between pictures, yet no better than the questions
    found = clustered_share(np.tile([0.0, 1.0], 50), np.repeat(np.arange(50), 2))
    low, high = wilson(50, 100)
    assert found.low <= low
    assert found.high >= high


def test_the_difference_is_paired():
    rng = np.random.default_rng(2)
    base = rng.random(200)
    found = clustered_difference(np.minimum(base + 0.1, 1), base, np.arange(200))
    assert 0.08 < found.low < found.mean < found.high < 0.11


def test_shapes_that_differ_are_refused():
    with pytest.raises(BadInput, match="values and clusters"):
        clustered_share(np.ones(3), np.zeros(2))
    with pytest.raises(BadInput, match="values and clusters"):
        clustered_share(np.ones(0), np.zeros(0))


def test_json_has_the_names_of_an_accuracy():
    found = clustered_share(np.array([1.0, 0.0, 1.0]), np.arange(3)).to_json(chance=0.25)
    assert list(found) == ["accuracy", "low", "high", "n", "num_pictures", "chance"]
    assert (found["n"], found["num_pictures"], found["chance"]) == (3, 3, 0.25)
