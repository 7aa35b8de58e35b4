"""One model before the pictures that it is measured on: what every suite is given."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from sfumato.base import BadInput
from sfumato.evaluate.embed import Batch, Evaluating, Progress, batches
from sfumato.evaluate.subject import Subject

logger = logging.getLogger(__name__)

Results = dict[str, Any]  # JSON values only
Part = TypeVar("Part")
NO_PREPROCESS = "no normalisation of pictures was given"


class NotApplicableError(Exception):
    """Sets or model lack what a suite needs (classes, texts): the suite is skipped, and the result says why."""


@dataclass(frozen=True, kw_only=True)
class Bench:
    """One model, its normalisation, and the pictures that are looked at.

    Attributes:
        subject: the model's functions.
        preprocess: the normalisation of training; None: suites that need it are skipped.
        train_set, train_rows: what probes are fitted on.
        test_set, test_rows: what every figure is on.
        batch_size: pictures at a time.
        seed: of splits and draws.
        progress: called after each batch.
        answers: public answers that are ranked; None: the commonest of a public training set.
    """

    subject: Subject
    preprocess: Evaluating | None
    train_set: Any
    train_rows: np.ndarray
    test_set: Any
    test_rows: np.ndarray
    batch_size: int
    seed: int
    progress: Progress
    answers: tuple[str, ...] | None = None

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


def needed(part: Part | None, reason: str) -> Part:
    """Return a part of the subject. Raises NotApplicableError with the reason where the model has it not."""
    if part is None:
        raise NotApplicableError(reason)
    return part


def read(bench: Bench, dataset: Any, rows: np.ndarray, what: str) -> Iterator[Batch]:
    """Yield the batches of a set, reporting progress.

    Raises:
        NotApplicableError: no picture can be read, or there is no normalisation.
    """
    logger.info("%s: %d pictures", what, len(rows))
    done = 0
    preprocess = needed(bench.preprocess, NO_PREPROCESS)
    for batch in batches(dataset, preprocess, rows=rows, batch_size=bench.batch_size):
        yield batch
        done += len(batch.rows)
        bench.progress(what, done, len(rows))
    if not done:
        raise NotApplicableError(f"none of {len(rows)} pictures could be read")
