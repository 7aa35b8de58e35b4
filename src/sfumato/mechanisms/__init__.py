"""Mechanisms: from a logical batch to a clipped sum that states its distances, and from there to what may leave."""

from sfumato.mechanisms.batch import Clipped, LogicalBatch, MicroBatch, Tally
from sfumato.mechanisms.clip import ClipFactor, automatic, flat
from sfumato.mechanisms.example import Computation, Engine, LossFn, MeasureOnce, clip_examples, clip_factor
from sfumato.mechanisms.release import Released, release

__all__ = [
    "ClipFactor",
    "Clipped",
    "Computation",
    "Engine",
    "LogicalBatch",
    "LossFn",
    "MeasureOnce",
    "MicroBatch",
    "Released",
    "Tally",
    "automatic",
    "clip_examples",
    "clip_factor",
    "flat",
    "release",
]
