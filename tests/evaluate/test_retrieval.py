import math
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.evaluate.test_knn import at

from sfumato.base import BadInput
from sfumato.evaluate.retrieval import best_ranks, found_within, median_by_chance, retrieval, retrieved


def slow_ranks(queries, candidates, query_keys, candidate_keys):
    """One query and one candidate at a time, in float64, for values that tie exactly or by far."""
    ranks = []
    for query, key in zip(queries, query_keys):
        cosines = [query @ c / (np.linalg.norm(query) * np.linalg.norm(c)) for c in candidates]
        best = max(value for value, other in zip(cosines, candidate_keys) if other == key)
        ranks.append(1 + sum(v >= best - 1e-6 for v, other in zip(cosines, candidate_keys) if other != key))
    return ranks


def test_ranks_by_hand():
    #          key      0   1   2   3
    candidates = at(0, 40, 90, 180)
    assert best_ranks(at(5, 5, 5, 170), candidates, [0, 1, 3, 2], [0, 1, 2, 3]).tolist() == [1, 2, 4, 2]
    # two right candidates: the better one counts, and the other stands ahead of nobody
    assert best_ranks(at(5, 85), candidates, [0, 0], [0, 1, 0, 1]).tolist() == [1, 1]
    assert best_ranks(at(30), candidates, [7], [7, 1, 2, 7]).tolist() == [2]


def test_ties_count_against_the_model():
    candidates = at(10, -10, 10, 90)
    assert best_ranks(at(0, 0, 0), candidates, [0, 1, 3], [0, 1, 2, 3]).tolist() == [3, 3, 4]
    assert best_ranks(at(0), candidates, [0], [0, 1, 0, 3]).tolist() == [2]  # the third is right too
    nearly = np.array([[1.0, 0.0], [1.0, 1e-4]])  # cosines 1 and 1 - 5e-9: rounding could tell them apart
    assert best_ranks(nearly, nearly, [0, 1], [0, 1]).tolist() == [2, 2]
    apart = np.array([[1.0, 0.0], [1.0, 1e-2]])  # 5e-5 is a difference
    assert best_ranks(apart, apart, [0, 1], [0, 1]).tolist() == [1, 1]


@pytest.mark.parametrize("embedding", [[1.0, 2.0, -1.0], [0.0, 0.0, 0.0]])
def test_a_collapsed_model_finds_nothing(embedding):
    rows = np.tile(embedding, (40, 1)) * np.linspace(1, 3, 40)[:, None]
    found = retrieval(rows, rows, np.arange(40))
    for way in found.values():
        assert [share.rate for share in way.recall.values()] == [0, 0, 0]
        assert (way.median_rank.value, way.median_rank.low, way.median_rank.high) == (40, 40, 40)


def test_everything_is_found_where_pictures_are_their_captions():
    rows = np.random.default_rng(0).normal(size=(30, 8))
    for way in retrieval(rows, rows[::-1], np.arange(30)[::-1]).values():
        assert way.recall[1].num_correct == 30
        assert way.median_rank.value == way.median_rank.high == 1


def test_blocks_change_nothing_and_ranks_are_the_slow_ones(monkeypatch):
    rng = np.random.default_rng(1)
    queries, candidates = rng.normal(size=(23, 5)), rng.normal(size=(31, 5))
    query_keys, candidate_keys = rng.integers(6, size=23), np.concatenate([np.arange(6), rng.integers(9, size=25)])
    whole = best_ranks(queries, candidates, query_keys, candidate_keys)
    assert whole.tolist() == slow_ranks(queries, candidates, query_keys, candidate_keys)
    monkeypatch.setitem(best_ranks.__globals__, "QUERY_BLOCK", 4)
    monkeypatch.setitem(best_ranks.__globals__, "CANDIDATE_BLOCK", 7)
    assert best_ranks(queries, candidates, query_keys, candidate_keys).tolist() == whole.tolist()


def test_a_shared_caption_is_one_candidate_and_one_query():
    # pictures 0, 1 share caption 0; picture 1 is far from it
    images, texts = at(0, 120, 80, 200), at(0, 90, 180)
    found = retrieval(images, texts, np.array([0, 0, 1, 2]))
    one, other = found["image_to_text"], found["text_to_image"]
    assert (one.num_candidates, one.recall[1].n, one.recall[1].num_correct) == (3, 4, 3)
    assert (other.num_candidates, other.recall[1].n, other.recall[1].num_correct) == (4, 3, 3)
    assert one.recall[1].chance == pytest.approx(1 / 3)
    assert other.recall[1].chance == pytest.approx((2 / 4 + 1 / 4 + 1 / 4) / 3)


def test_one_caption_for_all_is_right_by_chance():
    for way in retrieval(at(0, 50, 90), at(30), np.zeros(3, int)).values():
        assert [(share.rate, share.chance) for share in way.recall.values()] == [(1, 1)] * 3
        assert way.median_rank.chance == way.median_rank.value == 1


def test_figures_by_hand():
    found = retrieved(at(0, 0, 0, 0), at(0, 10, 20, 30), [0, 1, 2, 3], np.arange(4), recalls=(1, 2))
    assert {k: share.num_correct for k, share in found.recall.items()} == {1: 1, 2: 2}
    assert {k: share.chance for k, share in found.recall.items()} == {1: pytest.approx(0.25), 2: pytest.approx(0.5)}
    assert (found.median_rank.value, found.median_rank.chance) == (2.5, 2.5)
    assert found.recall[1].interval == pytest.approx((0.0456, 0.6994), abs=1e-4)
    json = found.to_json()
    assert (json["r2"]["accuracy"], json["median_rank"]["value"], json["num_candidates"]) == (0.5, 2.5, 4)


def test_the_interval_of_the_median_holds_the_true_one_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    angles = at(*np.linspace(0, 90, 41))
    held = 0
    for _ in range(200):
        own = rng.integers(41, size=60)  # uniform ranks 1..41 seen from angle 0: the median is 21
        middle = retrieved(np.tile(angles[:1], (60, 1)), angles, own, np.arange(41)).median_rank
        held += middle.low <= 21 <= middle.high
    assert 0.9 <= held / 200 <= 1.0


def test_chance_is_the_mean_over_all_orders():
    for size, num_right in ((5, 1), (5, 2), (6, 3), (4, 4)):
        first = [1 + min(order[:num_right]) for order in permutations(range(size))]
        for k in (1, 2, 5, 10):
            expected = np.mean([place <= k for place in first])
            assert found_within(k, np.array([num_right]), size)[0] == pytest.approx(expected)
            closed = 1 - math.comb(size - num_right, k) / math.comb(size, k) if k <= size else 1.0
            assert expected == pytest.approx(closed)
        assert median_by_chance(np.array([num_right]), size) == np.median(first)


def test_chance_of_the_median_mixes_queries_of_several_right_candidates():
    first = [1 + min(order[:p]) for p in (1, 1, 4) for order in permutations(range(6))]
    assert median_by_chance(np.array([4, 1, 1]), 6) == np.median(first)


def test_random_embeddings_get_chance_on_average():
    rng = np.random.default_rng(3)
    keys = np.concatenate([np.arange(20), np.arange(20) // 4, np.zeros(5, int)])  # captions of one picture to ten
    draws = [retrieval(rng.normal(size=(45, 8)), rng.normal(size=(20, 8)), keys) for _ in range(200)]
    for way in ("image_to_text", "text_to_image"):
        for k in (1, 5, 10):
            rates = np.array([draw[way].recall[k].rate for draw in draws])
            error = rates.std(ddof=1) / len(draws) ** 0.5
            assert abs(rates.mean() - draws[0][way].recall[k].chance) < 4 * error < 0.05
        medians = [draw[way].median_rank.value for draw in draws]
        assert np.mean(medians) == pytest.approx(draws[0][way].median_rank.chance, rel=0.1)


@st.composite
def cases(draw):
    num, more = draw(st.integers(1, 8)), draw(st.integers(0, 8))
    seed = draw(st.integers(0, 1000))
    rng = np.random.default_rng(seed)
    keys = rng.integers(4, size=num)
    candidate_keys = rng.permutation(np.concatenate([keys, rng.integers(5, size=more)]))
    # few directions: ties are common
    return at(*(90 * rng.integers(4, size=num))), at(*(45 * rng.integers(8, size=num + more))), keys, candidate_keys


@settings(max_examples=60, deadline=None)
@given(case=cases(), seed=st.integers(0, 100))
def test_ranks_do_not_depend_on_the_order_of_candidates_or_queries(case, seed):
    queries, candidates, keys, candidate_keys = case
    ranks = best_ranks(queries, candidates, keys, candidate_keys)
    assert ranks.tolist() == slow_ranks(queries, candidates, keys, candidate_keys)
    rng = np.random.default_rng(seed)
    order, places = rng.permutation(len(candidates)), rng.permutation(len(queries))
    assert best_ranks(queries, candidates[order], keys, candidate_keys[order]).tolist() == ranks.tolist()
    assert best_ranks(queries[places], candidates, keys[places], candidate_keys).tolist() == ranks[places].tolist()


@settings(max_examples=60, deadline=None)
@given(case=cases())
def test_recall_and_its_chance_never_fall_with_k(case):
    found = retrieved(*case, recalls=(1, 2, 3, 5, 10, 20))
    for figures in ([s.rate for s in found.recall.values()], [s.chance for s in found.recall.values()]):
        assert figures == sorted(figures)
    assert found.recall[20].rate == found.recall[20].chance == 1.0
    assert 1 <= found.median_rank.low <= found.median_rank.value <= found.median_rank.high <= found.num_candidates
    assert 1 <= found.median_rank.chance <= found.num_candidates


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"queries": at(0)}, "need a key each"),
        ({"candidates": np.ones((3, 4))}, "queries are 2 wide, candidates 4"),
        ({"query_keys": [0, 9]}, "1 of 2 queries have no right candidate"),
        ({"queries": np.array([[1.0, np.nan], [1.0, 0.0]])}, "queries: the rows hold NaN"),
        ({"candidates": np.array([[np.inf, 0.0]] * 3)}, "candidates: the rows hold NaN or infinity"),
        ({"candidate_keys": [0, 1]}, "need a key each"),
    ],
)
def test_wrong_arrays_are_refused(change, message):
    case = {"queries": at(0, 1), "candidates": at(0, 1, 2), "query_keys": [0, 1], "candidate_keys": [0, 1, 2]} | change
    with pytest.raises(BadInput, match=message):
        best_ranks(**case)
