import numpy as np
import pytest

from sfumato.base import BadInput
from sfumato.evaluate.accuracy import score_interval, wilson
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
    values, clusters = np.array([1, 0.9, 0.3, 0, 1, 0.1]), np.array([5, 5, 2, 2, 9, 2])
    mean = values.mean()
    sums = [sum(values[i] - mean for i in range(6) if clusters[i] == name) for name in (2, 5, 9)]
    variance = 3 / 2 * sum(s * s for s in sums) / 36
    found = clustered_share(values, clusters)
    student = 4.302652729749464  # the quantile at 2 degrees of freedom, from a table
    assert (found.mean, found.n, found.num_clusters) == (pytest.approx(mean), 6, 3)
    assert (found.low, found.high) == pytest.approx(score_interval(mean, mean * (1 - mean) / variance, student))


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
    assert 0.05 < found.low < found.mean < found.high < 0.16  # two shares apart would be .15 to either side


def test_many_differences_have_students_interval():
    rng = np.random.default_rng(3)
    values, clusters = rng.choice([-1.0, 0.0, 1.0], 4000, p=[0.2, 0.5, 0.3]), np.repeat(np.arange(1000), 4)
    found = clustered_difference(np.maximum(values, 0), np.maximum(-values, 0), clusters)
    sums = np.bincount(clusters, weights=values - values.mean())
    half = 1.962 * (1000 / 999 * (sums @ sums)) ** 0.5 / 4000
    assert (found.low, found.high) == pytest.approx((values.mean() - half, values.mean() + half), abs=1e-3)


def test_equal_differences_are_as_sure_as_there_are_pictures():
    none = clustered_difference(np.ones(40), np.ones(40), np.repeat(np.arange(20), 2))
    square = 2.093024**2  # Student's quantile at 19 degrees of freedom, from a table
    assert (none.low, none.mean, none.high) == pytest.approx((-square / (20 + square), 0, square / (20 + square)))
    whole = clustered_difference(np.zeros(40), np.ones(40), np.repeat(np.arange(20), 2))
    assert whole.low == whole.mean == -1
    assert -0.9 < whole.high < -0.5


@pytest.mark.parametrize(
    ("num_clusters", "size", "gain", "loss", "together"),
    [(30, 1, 0.03, 0, 0), (100, 1, 0.02, 0, 0), (20, 1, 0.97, 0, 0), (25, 8, 0.02, 0, 0.5), (25, 8, 0.3, 0.1, 0.5)],
)
def test_the_difference_covers_the_truth_where_few_or_nearly_all_differ(num_clusters, size, gain, loss, together):
    """With Student's interval alone the first four are covered in 45 to 85 of 100 draws."""
    rng = np.random.default_rng(4)
    clusters, covered = np.repeat(np.arange(num_clusters), size), []
    for _ in range(300):
        alone, shared = rng.random((num_clusters, size)), rng.random((num_clusters, 1))
        draw = np.where(rng.random((num_clusters, 1)) < together, shared, alone).ravel()
        ours, theirs = (draw < gain).astype(float), ((draw >= gain) & (draw < gain + loss)).astype(float)
        found = clustered_difference(ours, theirs, clusters)
        covered.append(found.low <= gain - loss <= found.high)
    assert np.mean(covered) > 0.92


def test_shapes_that_differ_are_refused():
    with pytest.raises(BadInput, match="values and clusters"):
        clustered_share(np.ones(3), np.zeros(2))
    with pytest.raises(BadInput, match="values and clusters"):
        clustered_share(np.ones(0), np.zeros(0))


def test_json_has_the_names_of_an_accuracy():
    found = clustered_share(np.array([1.0, 0.0, 1.0]), np.arange(3)).to_json(chance=0.25)
    assert list(found) == ["accuracy", "low", "high", "n", "num_pictures", "chance"]
    assert (found["n"], found["num_pictures"], found["chance"]) == (3, 3, 0.25)
