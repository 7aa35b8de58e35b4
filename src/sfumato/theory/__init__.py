"""Theory: what clipping and noise cost a linear dual encoder on spiked data, predicted term by term and simulated."""

from sfumato.theory.course import Course, simulate
from sfumato.theory.linear import (
    centred_cross_covariance,
    contrastive_loss,
    gradients,
    minimiser,
    penalty,
    trace_loss,
)
from sfumato.theory.setting import LinearClip
from sfumato.theory.spiked import Spiked, sin_theta, spaced
from sfumato.theory.terms import (
    LEARNING_RATES,
    Terms,
    predict,
    predict_each,
    privacy_floor,
    sampling_floor,
    statistical_error,
    with_best_learning_rate,
)
from sfumato.theory.update import Layers, Sums, from_population, from_records

__all__ = [
    "LEARNING_RATES",
    "Course",
    "Layers",
    "LinearClip",
    "Spiked",
    "Sums",
    "Terms",
    "centred_cross_covariance",
    "contrastive_loss",
    "from_population",
    "from_records",
    "gradients",
    "minimiser",
    "penalty",
    "predict",
    "predict_each",
    "privacy_floor",
    "sampling_floor",
    "simulate",
    "sin_theta",
    "spaced",
    "statistical_error",
    "trace_loss",
    "with_best_learning_rate",
]
