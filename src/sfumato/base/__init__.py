"""Ground: relation, neutral events, seeds, ledger, errors. Imports no torch."""

from sfumato.base.errors import BadInput, Refused, SfumatoError, Stopped, UndecodableRow
from sfumato.base.events import (
    CappedPoissonDraw,
    Draw,
    FixedSizeDraw,
    FullBatchDraw,
    GaussianStep,
    PoissonDraw,
)
from sfumato.base.relation import Relation

__all__ = [
    "BadInput",
    "CappedPoissonDraw",
    "Draw",
    "FixedSizeDraw",
    "FullBatchDraw",
    "GaussianStep",
    "PoissonDraw",
    "Refused",
    "Relation",
    "SfumatoError",
    "Stopped",
    "UndecodableRow",
]
