"""Subsets of a range: uniform over all subsets, sorted, distinct, cheap."""

from collections import Counter
from itertools import combinations

import numpy as np
import pytest
from scipy.stats import chisquare

import sfumato.sampling.subset as subset_module
from sfumato.base.seeds import derive
from sfumato.sampling.subset import subset

SEED = bytes(range(32))
GOLDEN_SPARSE = [12807396, 33264750, 80300403, 251972817, 292395571, 383553109]
GOLDEN_COMPLEMENT = [0, 1, 2, 4, 5, 6]


@pytest.mark.parametrize(("size", "high"), [(1, 5), (2, 5), (3, 5), (4, 5), (3, 6)])
def test_every_subset_is_equally_likely(size, high):
    """Both sides of N/2: by rejection and by the complement. A cut of the sorted distinct values would fail here."""
    counts = Counter(tuple(subset(derive(SEED, "uniform", i), size, high).tolist()) for i in range(6000))
    assert set(counts) <= set(combinations(range(high), size))
    assert chisquare([counts[c] for c in combinations(range(high), size)]).pvalue > 1e-3


@pytest.mark.parametrize(
    ("size", "high"), [(0, 0), (0, 7), (1, 1), (7, 7), (6, 7), (500, 1000), (999, 2000), (1001, 2000)]
)
def test_sorted_distinct_and_in_range(size, high):
    drawn = subset(derive(SEED, "shape"), size, high)
    assert drawn.dtype == np.int64
    assert len(drawn) == size
    assert np.all(np.diff(drawn) > 0)
    assert size == 0 or (drawn[0] >= 0 and drawn[-1] < high)


def test_function_of_the_key_alone():
    first, again = (subset(derive(SEED, "a"), 50, 1000) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, subset(derive(SEED, "b"), 50, 1000))


def test_golden():
    assert subset(SEED, 6, 1_000_000_000).tolist() == GOLDEN_SPARSE
    assert subset(SEED, 6, 8).tolist() == GOLDEN_COMPLEMENT


@pytest.mark.parametrize(("size", "high"), [(1000, 10**12), (50_000, 100_000), (90_000, 100_000)])
def test_random_words_grow_with_the_subset(monkeypatch, size, high):
    """At most 1.4 words for each number kept, plus a margin; never one per element of the range."""
    used = []

    def counted(key, count, limit):
        used.append(count)
        return original(key, count, limit)

    original = subset_module.integers
    monkeypatch.setattr(subset_module, "integers", counted)
    subset(derive(SEED, "cost"), size, high)
    assert sum(used) < 1.6 * min(size, high - size) + 2000
