"""Mechanisms: from a logical batch to a clipped sum that states its distances, and from there to what may leave."""

from sfumato.mechanisms.batch import Clipped, LogicalBatch, MicroBatch, Tally
from sfumato.mechanisms.clip import ClipFactor, automatic, clip_factor, flat
from sfumato.mechanisms.clip_batch import clip_batch
from sfumato.mechanisms.computation import Computation, Engine, LossFn, MeasureOnce
from sfumato.mechanisms.embedded import Ranks
from sfumato.mechanisms.example import clip_examples
from sfumato.mechanisms.group import clip_groups
from sfumato.mechanisms.pair import clip_pairs
from sfumato.mechanisms.rehearse import rehearse
from sfumato.mechanisms.release import Released, release
from sfumato.mechanisms.state import State

__all__ = [
    "ClipFactor",
    "Clipped",
    "Computation",
    "Engine",
    "LogicalBatch",
    "LossFn",
    "MeasureOnce",
    "MicroBatch",
    "Ranks",
    "Released",
    "State",
    "Tally",
    "automatic",
    "clip_batch",
    "clip_examples",
    "clip_factor",
    "clip_groups",
    "clip_pairs",
    "flat",
    "rehearse",
    "release",
]
