"""The suites that classify by features: the encoder's beside pixels, HOG and the untrained encoder's."""

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np

from sfumato.evaluate.baselines import hog, raw_pixels
from sfumato.evaluate.bench import NO_PREPROCESS, Bench, NotApplicableError, Results, labels_of, needed
from sfumato.evaluate.embed import Embedded, Encode, batches, count_shared, embed
from sfumato.evaluate.fewshot import SHOTS, few_shot
from sfumato.evaluate.knn import NUM_NEIGHBOURS, knn
from sfumato.evaluate.probe import linear_probe

logger = logging.getLogger(__name__)

FEATURES = ("encoder", "random_init", "pixels", "hog")
_NO_ENCODER = "the model gives no features"


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """Features and labels of both sets, and how many test pictures are training pictures too."""

    train: Embedded
    train_labels: np.ndarray
    test: Embedded
    test_labels: np.ndarray
    num_shared: int

    def arrays(self, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Return the four arrays that a probe takes."""
        return self.train.features[name], self.train_labels, self.test.features[name], self.test_labels


def prepare(bench: Bench) -> Prepared:
    """Read every picture once and return all features.

    Raises:
        NotApplicableError: no encoder, no normalisation, no labels, fewer than two classes, or no class in common.
        BadInput: all test pictures are training pictures.
    """
    train_labels, test_labels = labels_of(bench.train_set, "training"), labels_of(bench.test_set, "test")
    classes = np.unique(train_labels[bench.train_rows])
    if len(classes) < 2:
        raise NotApplicableError("the training set has fewer than two classes")
    if not np.isin(test_labels[bench.test_rows], classes).any():
        raise NotApplicableError("no class of the test set occurs in the training set")
    extractors = _extractors(bench)
    train = _embed(bench, bench.train_set, bench.train_rows, extractors, "training pictures")
    test = _embed(bench, bench.test_set, bench.test_rows, extractors, "test pictures")
    return Prepared(
        train=train,
        train_labels=train_labels[train.rows],
        test=test,
        test_labels=test_labels[test.rows],
        num_shared=count_shared(train, test),
    )


def probe_suite(bench: Bench, prepared: Prepared) -> Results:
    """Return the linear probe of each kind of features."""
    found = _facts(prepared)
    for name in FEATURES:
        logger.info("linear probe: %s", name)
        probe = linear_probe(*prepared.arrays(name), class_names=bench.class_names, seed=bench.seed)
        found[name] = probe.to_json()
    return found


def few_shot_suite(bench: Bench, prepared: Prepared) -> Results:
    """Return the few-shot probes of each kind of features; shots that a class cannot give are left out and listed."""
    smallest = int(np.unique(prepared.train_labels, return_counts=True)[1].min())
    shots = [num_shots for num_shots in SHOTS if num_shots <= smallest]
    found = _facts(prepared) | {"skipped_shots": [num_shots for num_shots in SHOTS if num_shots > smallest]}
    for name in FEATURES:
        logger.info("few-shot probe: %s", name)
        results = few_shot(*prepared.arrays(name), shots=shots, seed=bench.seed)
        found[name] = {str(result.num_shots): result.to_json() for result in results}
    return found


def knn_suite(bench: Bench, prepared: Prepared) -> Results:
    """Return what nearest neighbours get right by each kind of features.

    Raises:
        NotApplicableError: fewer training pictures than neighbours.
    """
    size = len(prepared.train_labels)
    if size < NUM_NEIGHBOURS:
        raise NotApplicableError(f"{size} training pictures are fewer than {NUM_NEIGHBOURS} neighbours")
    found = _facts(prepared)
    for name in FEATURES:
        logger.info("nearest neighbours: %s", name)
        found[name] = knn(*prepared.arrays(name), class_names=bench.class_names).to_json()
    return found


def _facts(prepared: Prepared) -> Results:
    num_unreadable = prepared.train.num_unreadable + prepared.test.num_unreadable
    return {"num_shared": prepared.num_shared, "num_unreadable": num_unreadable}


def _extractors(bench: Bench) -> dict[str, Encode]:
    channels = slice(0, 1) if _grey(bench.train_set, bench.train_rows) else slice(None)
    return {
        "encoder": needed(bench.subject.encode, _NO_ENCODER),
        "random_init": needed(bench.subject.encode_at_random, _NO_ENCODER),
        "pixels": lambda pictures: raw_pixels(pictures[:, channels]),
        "hog": lambda pictures: hog(pictures[:, channels]),
    }


def _embed(bench: Bench, dataset: Any, rows: np.ndarray, extractors: dict[str, Encode], what: str) -> Embedded:
    return embed(
        dataset,
        needed(bench.preprocess, NO_PREPROCESS),
        extractors,
        rows=rows,
        batch_size=bench.batch_size,
        progress=bench.progress,
        what=what,
    )


def _grey(dataset: Any, rows: np.ndarray) -> bool:
    """Tell from 64 training pictures whether the set is grey: three equal channels would only cost baselines time."""
    look = rows[np.linspace(0, len(rows) - 1, min(64, len(rows))).astype(np.int64)]
    found = list(batches(dataset, _AsItIs(), rows=look, batch_size=1))  # sizes may differ
    return bool(found) and all(batch.pictures.shape[1] == 1 for batch in found)


class _AsItIs:
    """The picture of the file, channels first."""

    def evaluate(self, image: np.ndarray) -> np.ndarray:
        return np.moveaxis(np.asarray(image), 2, 0)
