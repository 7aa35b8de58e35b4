"""One model before the pictures that it is measured on: what every suite is given."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from sfumato.base import BadInput
from sfumato.evaluate.embed import Evaluating, Progress
from sfumato.evaluate.subject import Subject

Results = dict[str, Any]  # JSON values only


class NotApplicableError(Exception):
    """The sets lack what a suite needs (classes, scenes): the suite is skipped, and the result says why."""


@dataclass(frozen=True, kw_only=True)
class Bench:
    """One model, its normalisation, and the pictures that are looked at.

    Attributes:
        subject: the model's functions.
        preprocess: the normalisation of training.
        train_set, train_rows: what probes are fitted on.
        test_set, test_rows: what every figure is on.
        batch_size: pictures at a time.
        seed: of splits and draws.
        progress: called after each batch.
    """

    subject: Subject
    preprocess: Evaluating
    train_set: Any
    train_rows: np.ndarray
    test_set: Any
    test_rows: np.ndarray
    batch_size: int
    seed: int
    progress: Progress

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """Names of the test set's classes."""
        return getattr(self.test_set, "class_names", None)


def subset(size: int, limit: int | None, seed: int) -> np.ndarray:
    """Return at most `limit` of `size` row numbers, ascending, drawn by the seed; all of them without a limit."""
    if limit is None or limit >= size:
        return np.arange(size)
    if limit < 1:
        raise BadInput(f"limit must be >= 1, got {limit}.")
    return np.sort(np.random.default_rng([seed, size]).choice(size, limit, replace=False))


def labels_of(dataset: Any, what: str) -> np.ndarray:
    """Return the class number of each row of a set. Raises NotApplicableError where it has none."""
    labels = getattr(dataset, "labels", None)
    if labels is None:
        raise NotApplicableError(f"the {what} set has no class labels")
    return np.asarray(labels, np.int64)


def is_private(dataset: Any) -> bool:
    """Return whether figures on the set may not be shared: everything that was not declared public."""
    return not getattr(dataset, "public", False)
