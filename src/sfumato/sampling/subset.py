"""Uniform subsets of a range, in time and memory proportional to the subset.

Shapes: indices are int64, shape (size,), sorted.
"""

import math

import numpy as np

from sfumato.base.seeds import derive, integers


def subset(key: bytes, size: int, high: int) -> np.ndarray:
    """Return a uniformly random subset of `size` of the numbers 0..high-1, sorted.

    Above half of the range the complement is drawn instead, so that at most about 1.4 numbers are drawn for each one
    kept.

    Args:
        key: 32 bytes; the subset is a function of it.
        size: how many, 0 <= size <= high.
        high: the size of the range.
    """
    assert 0 <= size <= high
    if size > high // 2:
        mask = np.ones(high, bool)
        mask[_distinct(key, high - size, high)] = False
        return np.flatnonzero(mask)
    return _distinct(key, size, high)


def _distinct(key: bytes, size: int, high: int) -> np.ndarray:
    """Draw independent numbers, drop repeats, and drop a few more at random until `size` are left; sorted.

    Given how many distinct values were seen, their set is by symmetry a uniform subset of that size, and a uniform
    subset of a uniform subset is uniform. One sort, and no record of who came first, is all that this needs.
    """
    seen = np.empty(0, np.int64)
    block = 0
    while len(seen) < size:
        fresh = integers(derive(key, "subset", block), _num_draws(size, len(seen), high), high)
        seen = np.sort(np.concatenate([seen, fresh]))
        seen = seen[np.concatenate([[True], seen[1:] != seen[:-1]])]
        block += 1
    surplus = len(seen) - size
    if surplus:
        seen = np.delete(seen, _first_distinct(derive(key, "surplus"), surplus, len(seen)))
    return seen


def _num_draws(size: int, num_seen: int, high: int) -> int:
    """Return how many draws bring the distinct values from `num_seen` to `size` with a margin of six deviations."""
    draws = high * math.log((high - num_seen) / (high - size))
    repeats = draws - (size - num_seen)
    return math.ceil(draws + 6.0 * math.sqrt(repeats + 1.0))


def _first_distinct(key: bytes, size: int, high: int) -> np.ndarray:
    """Return the first `size` distinct numbers of the key's stream, in order of arrival: for small sizes."""
    kept: dict[int, None] = {}
    block = 0
    while len(kept) < size:
        for value in integers(derive(key, "first", block), 2 * size + 8, high).tolist():
            if len(kept) < size:
                kept[value] = None
        block += 1
    return np.fromiter(kept, np.int64, size)
