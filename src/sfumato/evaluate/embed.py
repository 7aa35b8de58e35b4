"""From a data set to arrays: pictures in batches, features, and the refusal to report on training pictures.

Shapes: B pictures of a batch, N pictures that could be read, C channels, S pixels a side, D features.
"""

import hashlib
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from sfumato.base import BadInput, UndecodableRow
from sfumato.data import Captioned
from sfumato.data.split import check_disjoint

logger = logging.getLogger(__name__)

Encode = Callable[[np.ndarray], np.ndarray]  # (B, C, S, S) float32 -> (B, D)
Progress = Callable[[str, int, int], None]  # what, pictures done, pictures in all


class Pictures(Protocol):
    """What is evaluated on: `sfumato.data.Captioned`, or anything that answers like it."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Mapping[str, Any]: ...


class Evaluating(Protocol):
    """The deterministic half of `sfumato.data.Preprocess`."""

    def evaluate(self, image: np.ndarray) -> Any: ...


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Pictures (B, C, S, S) float32 with their row numbers (B,) and what the data set says of them."""

    rows: np.ndarray
    pictures: np.ndarray
    examples: list[Mapping[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Embedded:
    """Features of the pictures that could be read.

    Attributes:
        rows: (N,) int64 row numbers.
        features: for each extractor (N, D) float32.
        digests: (N,) uint64 hashes of the pictures as the encoder saw them.
        num_unreadable: rows that could not be decoded and were left out.
    """

    rows: np.ndarray
    features: dict[str, np.ndarray]
    digests: np.ndarray = field(repr=False)
    num_unreadable: int


def batches(
    dataset: Pictures, preprocess: Evaluating, *, rows: np.ndarray | None = None, batch_size: int = 256
) -> Iterator[Batch]:
    """Yield the pictures of `rows` (default: all) under the evaluation transform: no augmentation, no randomness.

    Rows that cannot be decoded are left out, so that a batch may be shorter; an empty one is not yielded.
    """
    rows = np.arange(len(dataset)) if rows is None else np.asarray(rows, np.int64)
    for start in range(0, len(rows), batch_size):
        kept, examples, pictures = [], [], []
        for row in rows[start : start + batch_size]:
            try:
                example = dataset[int(row)]
            except UndecodableRow:
                continue
            kept.append(int(row))
            pictures.append(np.asarray(preprocess.evaluate(example["image"]), np.float32))
            examples.append({name: value for name, value in example.items() if name != "image"})
        if kept:
            yield Batch(rows=np.array(kept, np.int64), pictures=np.stack(pictures), examples=examples)


def embed(
    dataset: Pictures,
    preprocess: Evaluating,
    extractors: Mapping[str, Encode],
    *,
    rows: np.ndarray | None = None,
    batch_size: int = 256,
    progress: Progress | None = None,
    what: str = "features",
) -> Embedded:
    """Return the features that each extractor finds, every picture being read once.

    Args:
        dataset: rows with an "image".
        preprocess: the normalisation of training (its `evaluate`).
        extractors: name -> function from (B, C, S, S) float32 to (B, D).
        rows: which rows; default all.
        batch_size: B.
        progress: called after each batch.
        what: the name that `progress` hears.

    Raises:
        BadInput: no picture could be read.
    """
    total = len(dataset) if rows is None else len(rows)
    kept = np.empty(total, np.int64)
    digests = np.empty(total, np.uint64)
    features: dict[str, np.ndarray] = {}
    count = 0
    for batch in batches(dataset, preprocess, rows=rows, batch_size=batch_size):
        place = slice(count, count + len(batch.rows))
        kept[place] = batch.rows
        digests[place] = [_digest(picture) for picture in batch.pictures]
        for name, extract in extractors.items():
            found = extract(batch.pictures)
            if name not in features:
                features[name] = np.empty((total, found.shape[1]), np.float32)
            features[name][place] = found
        count += len(batch.rows)
        if progress is not None:
            progress(what, count, total)
    if not count:
        raise BadInput(f"{what}: none of {total} pictures could be read.")
    return Embedded(
        rows=kept[:count],
        features={name: values[:count] for name, values in features.items()},
        digests=digests[:count],
        num_unreadable=total - count,
    )


def _digest(picture: np.ndarray) -> int:
    return int.from_bytes(hashlib.blake2b(picture.tobytes(), digest_size=8).digest(), "big")


def check_distinct(train_set: Any, test_set: Any) -> None:
    """Refuse to report on training rows.

    Raises:
        BadInput: the two are one object, have the same manifest, or share rows, files or owners.
    """
    if train_set is test_set or _identity(train_set) == _identity(test_set):
        raise BadInput("the test set is the training set: a figure on it would say nothing. Hold pictures out.")
    if isinstance(train_set, Captioned) and isinstance(test_set, Captioned):
        check_disjoint(train_set, test_set)


def _identity(dataset: Any) -> dict[str, Any]:
    """Return the manifest without what can differ while the rows are the same."""
    manifest = getattr(dataset, "manifest", None)
    if manifest is None:
        return {"object": id(dataset)}
    return {name: value for name, value in manifest().items() if name not in ("name", "public")}


def count_shared(train: Embedded, test: Embedded) -> int:
    """Return how many test pictures are, pixel for pixel, training pictures too (a copied file, a duplicate).

    Raises:
        BadInput: all of them are: the test set is the training set under another name.
    """
    num_shared = int(np.isin(test.digests, train.digests).sum())
    if num_shared == len(test.digests):
        raise BadInput(f"all {num_shared} test pictures are training pictures too: hold pictures out.")
    if num_shared:
        logger.warning("%d of %d test pictures are in the training set too.", num_shared, len(test.digests))
    return num_shared
