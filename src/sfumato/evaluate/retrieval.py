"""Retrieval: which caption belongs to a picture and which picture to a caption, found by cosine similarity.

Shapes: N pictures, K distinct captions, Q queries, M candidates, d the width of the embeddings.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sfumato.base import BadInput
from sfumato.evaluate.accuracy import Accuracy, counted, wilson
from sfumato.evaluate.cosine import ROUNDING, blocks, unit

RECALLS = (1, 5, 10)
QUERY_BLOCK, CANDIDATE_BLOCK = 1024, 4096  # 16 MB of similarities at a time


@dataclass(frozen=True, kw_only=True)
class Level:
    """A rank of the middle query, its 95 % interval, and what random order would give."""

    value: float
    low: float
    high: float
    chance: float

    def to_json(self) -> dict[str, float]:
        """Return the numbers as plain JSON values."""
        return {"value": self.value, "low": self.low, "high": self.high, "chance": self.chance}


@dataclass(frozen=True, kw_only=True)
class Retrieved:
    """How well queries find their candidates.

    Attributes:
        recall: for each k the share of queries with a right candidate among the first k.
        median_rank: the rank of the best right candidate, 1 being the best rank.
        num_candidates: M.
    """

    recall: dict[int, Accuracy]
    median_rank: Level
    num_candidates: int

    def to_json(self) -> dict[str, Any]:
        """Return the numbers as plain JSON values: r1, r5, r10, median_rank, num_candidates."""
        shares = {f"r{k}": share.to_json() for k, share in self.recall.items()}
        return shares | {"median_rank": self.median_rank.to_json(), "num_candidates": self.num_candidates}


def retrieval(images: np.ndarray, texts: np.ndarray, caption_of: np.ndarray) -> dict[str, Retrieved]:
    """Return image_to_text (a picture among the distinct captions) and text_to_image (a caption among the pictures).

    A caption that several pictures share is one candidate and one query: all of its pictures are right answers to it.

    Args:
        images: (N, d) embeddings of pictures.
        texts: (K, d) embeddings of the distinct captions.
        caption_of: (N,) int, which caption is each picture's.

    Raises:
        BadInput: as `retrieved`.
    """
    captions = np.arange(len(texts))
    return {
        "image_to_text": retrieved(images, texts, caption_of, captions),
        "text_to_image": retrieved(texts, images, captions, caption_of),
    }


def retrieved(
    queries: np.ndarray,
    candidates: np.ndarray,
    query_keys: np.ndarray,
    candidate_keys: np.ndarray,
    *,
    recalls: Sequence[int] = RECALLS,
) -> Retrieved:
    """Return recalls and median rank of queries among candidates; right are the candidates with the query's own key.

    Chance is exact: what random order of the M candidates gives on average, with as many right ones as each query has.
    The median's chance is the median rank of a query drawn at random, in random order. Its interval holds the ranks
    at the Wilson ends of one half.

    Args:
        queries: (Q, d) embeddings.
        candidates: (M, d).
        query_keys: (Q,) int; `candidate_keys` (M,).
        recalls: the values of k.

    Raises:
        BadInput: as `best_ranks`.
    """
    ranks = best_ranks(queries, candidates, query_keys, candidate_keys)
    num_right = count_right(query_keys, candidate_keys)
    size = len(candidate_keys)
    recall = {k: counted(ranks <= k, chance=float(found_within(k, num_right, size).mean())) for k in recalls}
    low, high = np.quantile(ranks, wilson(len(ranks) / 2, len(ranks)), method="inverted_cdf")
    middle = Level(
        value=float(np.median(ranks)), low=float(low), high=float(high), chance=median_by_chance(num_right, size)
    )
    return Retrieved(recall=recall, median_rank=middle, num_candidates=size)


def best_ranks(
    queries: np.ndarray, candidates: np.ndarray, query_keys: np.ndarray, candidate_keys: np.ndarray
) -> np.ndarray:
    """Return for each query the rank of its best right candidate, (Q,) int64, the best rank being 1.

    Ties count against the model: every wrong candidate that is as similar, up to `ROUNDING`, stands ahead. Where all
    embeddings are equal every rank is the worst. Memory holds blocks of similarities, never (Q, M).

    Args:
        queries: (Q, d); `candidates` (M, d).
        query_keys: (Q,) int; `candidate_keys` (M,): right where equal.

    Raises:
        BadInput: shapes that do not fit, values that are not finite, or a query without a right candidate.
    """
    queries, candidates = unit(queries, "queries"), unit(candidates, "candidates")
    query_keys, candidate_keys = np.asarray(query_keys), np.asarray(candidate_keys)
    _check(queries, candidates, query_keys, candidate_keys)
    ranks = np.empty(len(queries), np.int64)
    for rows in blocks(len(queries), QUERY_BLOCK):
        best = np.full(len(queries[rows]), -np.inf, np.float32)
        ahead = np.zeros(len(best), np.int64)
        for columns in blocks(len(candidates), CANDIDATE_BLOCK):
            right = query_keys[rows, None] == candidate_keys[columns]
            found = queries[rows] @ candidates[columns].T
            np.maximum(best, np.where(right, found, -np.inf).max(1), out=best)
        for columns in blocks(len(candidates), CANDIDATE_BLOCK):
            right = query_keys[rows, None] == candidate_keys[columns]
            found = queries[rows] @ candidates[columns].T
            ahead += ((found >= best[:, None] - ROUNDING) & ~right).sum(1)
        ranks[rows] = 1 + ahead
    return ranks


def _check(queries: np.ndarray, candidates: np.ndarray, query_keys: np.ndarray, candidate_keys: np.ndarray) -> None:
    if queries.shape[1] != candidates.shape[1]:
        raise BadInput(f"queries are {queries.shape[1]} wide, candidates {candidates.shape[1]}.")
    if query_keys.shape != (len(queries),) or candidate_keys.shape != (len(candidates),):
        raise BadInput(
            f"{len(queries)} queries and {len(candidates)} candidates need a key each, got {query_keys.shape} and "
            f"{candidate_keys.shape}."
        )
    num_lost = int((~np.isin(query_keys, candidate_keys)).sum())
    if num_lost:
        raise BadInput(f"{num_lost} of {len(queries)} queries have no right candidate.")


def count_right(query_keys: np.ndarray, candidate_keys: np.ndarray) -> np.ndarray:
    """Return how many candidates are right for each query, (Q,) int64."""
    keys, counts = np.unique(candidate_keys, return_counts=True)
    return counts[np.searchsorted(keys, query_keys)]


def found_within(k: int, num_right: np.ndarray, num_candidates: int) -> np.ndarray:
    """Return the probability that one of the first k candidates in random order is right: 1 - C(M - p, k) / C(M, k).

    >>> found_within(2, np.array([1, 2, 3]), 4).round(4).tolist()
    [0.5, 0.8333, 1.0]
    """
    drawn = np.arange(min(k, num_candidates))
    missed = (num_candidates - np.asarray(num_right)[:, None] - drawn).clip(0) / (num_candidates - drawn)
    return 1.0 - missed.prod(1)


def median_by_chance(num_right: np.ndarray, num_candidates: int) -> float:
    """Return the median, over queries and over random orders, of the rank of the best right candidate.

    Where a rank r is reached with probability exactly one half it is r + 1/2, as for the median of an even number.

    >>> median_by_chance(np.array([1]), 300), median_by_chance(np.array([1]), 5)
    (150.5, 3.0)
    """
    drawn = np.arange(num_candidates)
    reached = np.zeros(num_candidates)  # by rank 1, 2, ..., M
    for right, queries in zip(*np.unique(num_right, return_counts=True)):
        missed = np.cumprod((num_candidates - right - drawn).clip(0) / (num_candidates - drawn))
        reached += (1.0 - missed) * (queries / len(num_right))
    exactly = 1e-9  # more than a product of a million factors loses
    low, high = (int(np.argmax(reached > 0.5 + shift)) + 1 for shift in (-exactly, exactly))
    return (low + high) / 2
