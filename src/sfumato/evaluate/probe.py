"""Linear probe: what a linear classifier can read off frozen features.

Shapes: N training pictures, M test pictures, D features.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sfumato.base import BadInput
from sfumato.evaluate.accuracy import Accuracy, counted, per_class
from sfumato.evaluate.extra import sklearn_part

GRID = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0, 3.0, 10.0)
# Largest entry of the mean loss's gradient at which L-BFGS stops. On Fashion-MNIST a thirty times smaller value takes
# three to five times as long and moves the test accuracy by one or two tenths of a point.
TOLERANCE = 3e-4
MAX_ITER = 300
# C is chosen on this many training pictures at most; the final fit sees all.
NUM_CHOOSE = 30_000


@dataclass(frozen=True, kw_only=True)
class Fit:
    """A fitted classifier's answers.

    Attributes:
        predicted: (M,) int, the class given to each test picture.
        converged: whether L-BFGS reached its tolerance (False: it ran out of iterations or of float32 precision).
        num_iter: how many iterations it took.
    """

    predicted: np.ndarray
    converged: bool
    num_iter: int


@dataclass(frozen=True, kw_only=True)
class Start:
    """A fitted classifier to start from: weights (K, D), or (1, D) for two classes, biases and classes."""

    weights: np.ndarray
    biases: np.ndarray
    classes: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Probe:
    """A linear probe's result.

    Attributes:
        accuracy: on the test pictures; its chance is that of always naming the commonest training class.
        per_class: share of right answers in each class.
        inverse_penalty: C, as chosen.
        choices: (C, accuracy on the held part of the training pictures) for each C that was tried.
        converged, num_iter: of the final fit.
        num_train, num_features: what it was fitted on.
    """

    accuracy: Accuracy
    per_class: dict[str, float]
    inverse_penalty: float
    choices: tuple[tuple[float, float], ...]
    converged: bool
    num_iter: int
    num_train: int
    num_features: int

    def to_json(self) -> dict[str, Any]:
        """Return the numbers as plain JSON values."""
        choices = [{"inverse_penalty": c, "held_accuracy": rate} for c, rate in self.choices]
        names = ("per_class", "inverse_penalty", "converged", "num_iter", "num_train", "num_features")
        return self.accuracy.to_json() | {name: getattr(self, name) for name in names} | {"choices": choices}


def linear_probe(
    train_features: np.ndarray,
    train_labels: np.ndarray,
    test_features: np.ndarray,
    test_labels: np.ndarray,
    *,
    class_names: Sequence[str] | None = None,
    grid: Sequence[float] = GRID,
    num_choose: int = NUM_CHOOSE,
    seed: int = 0,
) -> Probe:
    """Fit multinomial logistic regression on standardised training features and count right answers on the test's.

    C is chosen on a stratified 80/20 split of at most `num_choose` training pictures: from the smallest on, each
    fit starting from the last, until two in a row were worse than the best (ties: the smaller C). Then the
    classifier is fitted on all of them, starting from the chosen one. The test pictures take no part in any choice.

    Args:
        train_features: (N, D) float; `test_features` (M, D).
        train_labels: (N,) int; `test_labels` (M,).
        class_names: names for the per-class figures.
        grid: values of C, the inverse of the L2 penalty on standardised features.
        num_choose: how many training pictures C is chosen on.
        seed: of the subset and of the split.

    Raises:
        BadInput: shapes that do not fit, values that are not finite, or fewer than two classes.
    """
    train_features, test_features = checked(train_features, train_labels, test_features, test_labels)
    choices, best, start = _choose(train_features, train_labels, grid, num_choose, seed)
    fit = fit_predict(train_features, train_labels, test_features, inverse_penalty=best, start=start)
    correct = fit.predicted == test_labels
    return Probe(
        accuracy=counted(correct, chance=majority(train_labels, test_labels)),
        per_class=per_class(correct, test_labels, class_names),
        inverse_penalty=best,
        choices=choices,
        converged=fit.converged,
        num_iter=fit.num_iter,
        num_train=len(train_features),
        num_features=train_features.shape[1],
    )


def checked(
    train_features: np.ndarray, train_labels: np.ndarray, test_features: np.ndarray, test_labels: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return both feature arrays as float32 after checking that they can be probed.

    Raises:
        BadInput: as `linear_probe`.
    """
    for name, features, labels in (("train", train_features, train_labels), ("test", test_features, test_labels)):
        if features.ndim != 2 or len(features) != len(labels) or len(labels) == 0:
            shapes = f"{features.shape} features and {np.shape(labels)} labels"
            raise BadInput(f"{name}: a probe needs (N, D) features and (N,) labels with N >= 1, got {shapes}.")
        if not np.isfinite(features).all():
            raise BadInput(f"{name}: the features hold NaN or infinity, so the encoder has diverged.")
    if train_features.shape[1] != test_features.shape[1]:
        raise BadInput(f"train has {train_features.shape[1]} features per picture, test {test_features.shape[1]}.")
    if len(np.unique(train_labels)) < 2:
        raise BadInput("a probe needs pictures of at least two classes.")
    return np.asarray(train_features, np.float32), np.asarray(test_features, np.float32)


def majority(train_labels: np.ndarray, test_labels: np.ndarray) -> float:
    """Return the test accuracy of always naming the training set's commonest class."""
    names, counts = np.unique(train_labels, return_counts=True)
    return float((test_labels == names[counts.argmax()]).mean())


def fit_predict(
    train_features: np.ndarray,
    train_labels: np.ndarray,
    test_features: np.ndarray,
    *,
    inverse_penalty: float,
    start: Start | None = None,
) -> Fit:
    """Standardise by the training features, fit logistic regression (L-BFGS, float32), classify the test features.

    The problem is strictly convex: `start` moves the answer within the tolerance only.
    """
    scaler = sklearn_part("preprocessing").StandardScaler().fit(train_features)
    model = _classifier(inverse_penalty)
    if start is not None and np.array_equal(start.classes, np.unique(train_labels)):
        model.coef_, model.intercept_, model.classes_ = start.weights, start.biases, start.classes
    converged = _fit(model, scaler.transform(train_features), train_labels)
    predicted = model.predict(scaler.transform(test_features))
    return Fit(predicted=predicted, converged=converged, num_iter=int(np.max(model.n_iter_)))


def _classifier(inverse_penalty: float) -> Any:
    make = sklearn_part("linear_model").LogisticRegression
    return make(C=inverse_penalty, max_iter=MAX_ITER, tol=TOLERANCE, warm_start=True)


def _fit(model: Any, features: np.ndarray, labels: np.ndarray) -> bool:
    """Fit and return whether it converged; scikit-learn says that by a warning, which is not shown twice."""
    kind = sklearn_part("exceptions").ConvergenceWarning
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", kind)
        # one shot of each of many classes: scikit-learn suspects a regression
        warnings.filterwarnings("ignore", "The number of unique classes", UserWarning)
        model.fit(features, labels)
    others = [warning for warning in caught if not issubclass(warning.category, kind)]
    for warning in others:
        warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    return len(others) == len(caught)


def _choose(
    features: np.ndarray, labels: np.ndarray, grid: Sequence[float], num_choose: int, seed: int
) -> tuple[tuple[tuple[float, float], ...], float, Start]:
    """Return (C, accuracy on the held fifth) along the grid, the best C, and the classifier fitted with it.

    The path goes from the smallest C on until two in a row are worse than the best.
    """
    fit_rows, held_rows = _split(labels, num_choose, seed)
    scaler = sklearn_part("preprocessing").StandardScaler().fit(features[fit_rows])
    fit_features, held_features = scaler.transform(features[fit_rows]), scaler.transform(features[held_rows])
    model = _classifier(1.0)
    choices, fitted = [], []
    for inverse_penalty in sorted(grid):
        _fit(model.set_params(C=inverse_penalty), fit_features, labels[fit_rows])
        rate = float((model.predict(held_features) == labels[held_rows]).mean())
        choices.append((float(inverse_penalty), rate))
        fitted.append(Start(weights=model.coef_, biases=model.intercept_, classes=model.classes_))
        best = max(range(len(choices)), key=lambda index: (choices[index][1], -index))
        # a tie goes on: where a larger C did not move the fit beyond the tolerance, the next may
        if len(choices) > 2 and max(rate for _, rate in choices[-2:]) < choices[best][1]:
            break
    return tuple(choices), choices[best][0], fitted[best]


def _split(labels: np.ndarray, num_choose: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return rows to fit on and rows to hold: a fifth of each class, and never all pictures of a class.

    A class with one picture is fitted on only; if no class can give one, fitting and held rows are the same.
    """
    rng = np.random.default_rng([seed, len(labels)])
    rows = np.sort(rng.permutation(len(labels))[:num_choose])
    fit_rows, held_rows = [], []
    for label in np.unique(labels[rows]):
        members = rng.permutation(rows[labels[rows] == label])
        num_held = min(max(1, round(len(members) / 5)), len(members) - 1)
        held_rows.append(members[:num_held])
        fit_rows.append(members[num_held:])
    fit, held = np.concatenate(fit_rows), np.concatenate(held_rows)
    if len(np.unique(labels[fit])) < 2 or len(held) == 0:
        everything = np.arange(len(labels))
        return everything, everything
    return fit, held
