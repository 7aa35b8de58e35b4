"""Nearest neighbours: the class that most of the k most similar training pictures have; nothing is fitted.

Shapes: N training pictures, M test pictures, D features, K classes, B test pictures of a block.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sfumato.base import BadInput
from sfumato.evaluate.accuracy import Accuracy, counted, per_class
from sfumato.evaluate.cosine import blocks, unit
from sfumato.evaluate.probe import checked, majority

NUM_NEIGHBOURS = 3  # as Logit-DP counts (PAPERS section 2)
TEST_BLOCK, TRAIN_BLOCK = 1024, 8192  # 32 MB of similarities at a time


@dataclass(frozen=True, kw_only=True)
class Neighbours:
    """What nearest neighbours get right.

    Attributes:
        accuracy: on the test pictures; its chance is that of always naming the commonest training class.
        per_class: share of right answers in each class.
        k: neighbours that vote.
        num_train, num_features: what was searched.
    """

    accuracy: Accuracy
    per_class: dict[str, float]
    k: int
    num_train: int
    num_features: int

    def to_json(self) -> dict[str, Any]:
        """Return the numbers as plain JSON values."""
        names = ("per_class", "k", "num_train", "num_features")
        return self.accuracy.to_json() | {name: getattr(self, name) for name in names}


def knn(
    train_features: np.ndarray,
    train_labels: np.ndarray,
    test_features: np.ndarray,
    test_labels: np.ndarray,
    *,
    k: int = NUM_NEIGHBOURS,
    class_names: Sequence[str] | None = None,
) -> Neighbours:
    """Count the test pictures whose class most of their k nearest training pictures have, by cosine similarity.

    Of classes with as many votes the one wins whose voters are more similar in sum, then the lower class number. Of
    training pictures that are as similar the earlier row is nearer. Features are taken as they are, not standardised;
    a row of zeros is equally far from all. Memory holds blocks of similarities, never (M, N).

    Args:
        train_features: (N, D) float; `test_features` (M, D).
        train_labels: (N,) int; `test_labels` (M,).
        k: neighbours that vote.
        class_names: names for the per-class figures.

    Raises:
        BadInput: k is not in 1..N; or as `linear_probe`: shapes that do not fit, NaN, fewer than two classes.

    Source: the evaluation of Logit-DP (PAPERS section 2).
    """
    train_labels, test_labels = np.asarray(train_labels), np.asarray(test_labels)
    train_features, test_features = checked(train_features, train_labels, test_features, test_labels)
    if not 1 <= k <= len(train_features):
        raise BadInput(f"k must lie between 1 and the {len(train_features)} training pictures, got {k}.")
    classes, codes = np.unique(train_labels, return_inverse=True)
    train, test = unit(train_features, "train"), unit(test_features, "test")
    voted = [vote(*nearest(train, test[rows], k), codes, len(classes)) for rows in blocks(len(test), TEST_BLOCK)]
    correct = classes[np.concatenate(voted)] == test_labels
    return Neighbours(
        accuracy=counted(correct, chance=majority(train_labels, test_labels)),
        per_class=per_class(correct, test_labels, class_names),
        k=k,
        num_train=len(train),
        num_features=train.shape[1],
    )


def nearest(train: np.ndarray, test: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows (B, k) int64 of the most similar training pictures, nearest first, and their similarities (B, k).

    Args:
        train: (N, D) unit rows, N >= k.
        test: (B, D) unit rows.
        k: how many.
    """
    rows, best = np.zeros((len(test), 0), np.int64), np.zeros((len(test), 0), np.float32)
    for block in blocks(len(train), TRAIN_BLOCK):
        found = test @ train[block].T
        places, values = _top(found, min(k, found.shape[1]))
        rows, best = np.hstack([rows, places + block.start]), np.hstack([best, values])
        # stable: at equal similarity what stood before, the earlier row, stays before
        order = np.argsort(-best, axis=1, kind="stable")[:, :k]
        rows, best = np.take_along_axis(rows, order, 1), np.take_along_axis(best, order, 1)
    return rows, best


def _top(values: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return places and values of the k largest of each row, the earlier of equals first; `values` is overwritten."""
    every = np.arange(len(values))
    places, found = np.empty((len(values), k), np.int64), np.empty((len(values), k), np.float32)
    for turn in range(k):  # k is small; a partial sort would not say which of equals it keeps
        places[:, turn] = values.argmax(1)
        found[:, turn] = values[every, places[:, turn]]
        values[every, places[:, turn]] = -np.inf
    return places, found


def vote(rows: np.ndarray, similarities: np.ndarray, codes: np.ndarray, num_classes: int) -> np.ndarray:
    """Return the class code (B,) that wins: by votes, then by summed similarity, then the lower code.

    Args:
        rows: (B, k) training rows.
        similarities: (B, k).
        codes: (N,) class code of each training row, 0..K-1.
        num_classes: K.
    """
    votes = np.zeros((len(rows), num_classes))
    support = np.zeros((len(rows), num_classes))
    at = np.arange(len(rows))[:, None], codes[rows]
    np.add.at(votes, at, 1)
    np.add.at(support, at, similarities.astype(np.float64))
    return np.where(votes == votes.max(1, keepdims=True), support, -np.inf).argmax(1)
