"""Neutral events: what a sampler draws and what noise one step adds, as plain numbers.

`sampling` makes draws, `accounting` reads them, `plan` brings the two together; none knows the others' types.
"""

import math
from dataclasses import dataclass

from sfumato.base.errors import BadInput
from sfumato.base.relation import Relation


def _check_probability(name: str, value: float) -> None:
    if not 0.0 < value <= 1.0:
        raise BadInput(f"{name} must lie in (0, 1], got {value}.")


def _check_count(name: str, value: int, low: int = 1) -> None:
    if int(value) != value or value < low:
        raise BadInput(f"{name} must be a whole number >= {low}, got {value}.")


@dataclass(frozen=True, kw_only=True)
class PoissonDraw:
    """Every record enters independently with probability `sampling_prob`."""

    sampling_prob: float

    def __post_init__(self) -> None:
        _check_probability("sampling_prob", self.sampling_prob)


@dataclass(frozen=True, kw_only=True)
class CappedPoissonDraw:
    """A Poisson draw out of `num_records`; of a draw larger than `cap` a uniform subset of `cap` records is kept."""

    sampling_prob: float
    num_records: int
    cap: int

    def __post_init__(self) -> None:
        _check_probability("sampling_prob", self.sampling_prob)
        _check_count("num_records", self.num_records)
        _check_count("cap", self.cap)


@dataclass(frozen=True, kw_only=True)
class FixedSizeDraw:
    """A uniform subset of exactly `batch_size` out of `num_records`, without replacement."""

    num_records: int
    batch_size: int

    def __post_init__(self) -> None:
        _check_count("num_records", self.num_records)
        _check_count("batch_size", self.batch_size)
        if self.batch_size > self.num_records:
            raise BadInput(f"batch_size {self.batch_size} exceeds num_records {self.num_records}.")


@dataclass(frozen=True, kw_only=True)
class FullBatchDraw:
    """All `num_records` records, every step."""

    num_records: int

    def __post_init__(self) -> None:
        _check_count("num_records", self.num_records)


Draw = PoissonDraw | CappedPoissonDraw | FixedSizeDraw | FullBatchDraw


@dataclass(frozen=True, kw_only=True)
class GaussianStep:
    """One step: a draw, a sum of clipped units, Gaussian noise of standard deviation `std` on every coordinate.

    Attributes:
        draw: what the sampler draws.
        relation: which data sets are neighbours.
        std: standard deviation of the noise on the un-normalised sum, in the unit of the clip norm.
        presence: how far (L2) the sum moves when a record joins or leaves the draw.
        swap: how far (L2) the sum moves when a drawn record is exchanged, the draw's size being fixed.
    """

    draw: Draw
    relation: Relation
    std: float
    presence: float
    swap: float

    def __post_init__(self) -> None:
        for name in ("std", "presence", "swap"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise BadInput(f"{name} must be positive and finite, got {value}.")
