"""Norms: per-example gradient norms and clipped sums by book-keeping, exact or refused by name."""

from sfumato.norms import convolution as _convolution  # noqa: F401  registers its rule
from sfumato.norms import rules as _rules  # noqa: F401  registers the rules
from sfumato.norms.contract import Staged, not_ended, per_example
from sfumato.norms.factors import Outer, Rows
from sfumato.norms.follow import following
from sfumato.norms.ghost import ClipFactor, ClippedSum, clipped_sum
from sfumato.norms.gram import PairJacobians, pair_jacobians, shared_norms, side_norms
from sfumato.norms.lengths import length
from sfumato.norms.measured import Measured, refuse_unmeasurable, trainable
from sfumato.norms.oracle import oracle_sum
from sfumato.norms.path import OffPath
from sfumato.norms.probe import prepare
from sfumato.norms.synthetic import batch_size, joined, row_of, synthetic_twin
from sfumato.norms.tape import Call, Tape, register_rule
from sfumato.norms.writes import ReadOnly, changes

__all__ = [
    "Call",
    "ClipFactor",
    "ClippedSum",
    "Measured",
    "OffPath",
    "Outer",
    "PairJacobians",
    "ReadOnly",
    "Rows",
    "Staged",
    "Tape",
    "batch_size",
    "changes",
    "clipped_sum",
    "following",
    "joined",
    "length",
    "not_ended",
    "oracle_sum",
    "pair_jacobians",
    "per_example",
    "prepare",
    "refuse_unmeasurable",
    "register_rule",
    "row_of",
    "shared_norms",
    "side_norms",
    "synthetic_twin",
    "trainable",
]
