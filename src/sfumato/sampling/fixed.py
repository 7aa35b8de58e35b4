"""Fixed-size sampling without replacement, and the full batch.

Shapes: a draw is int64, shape (batch_size,), sorted record indices.
"""

from dataclasses import dataclass

import numpy as np

from sfumato.base import BadInput, FixedSizeDraw, FullBatchDraw, Relation
from sfumato.sampling.subset import subset


@dataclass(frozen=True, kw_only=True)
class FixedSize:
    """Each step draws a uniform subset of exactly `batch_size` records, independently of every other step.

    This is not an epoch of shuffled batches: shuffling couples the steps and has no proof here.

    Attributes:
        num_records: N, public.
        batch_size: n, public, 1 <= n <= N.

    Raises:
        BadInput: if a count is not a whole number in its range.
    """

    num_records: int
    batch_size: int

    def __post_init__(self) -> None:
        _ = self.draw_event  # the event checks both counts

    @property
    def draw_event(self) -> FixedSizeDraw:
        """What is drawn, as a neutral event for the accountant."""
        return FixedSizeDraw(num_records=self.num_records, batch_size=self.batch_size)

    @property
    def default_relation(self) -> Relation:
        """REPLACE_ONE: the size of the draw is fixed, so a record can only be exchanged."""
        return Relation.REPLACE_ONE

    @property
    def expected_batch_size(self) -> float:
        """The number of records of every draw."""
        return float(self.batch_size)

    @property
    def divisor(self) -> float:
        """The public constant that divides the noisy sum."""
        return float(self.batch_size)

    @property
    def largest_draw(self) -> int:
        """The number of records of every draw."""
        return self.batch_size

    @property
    def sampling_prob(self) -> float:
        """How probable it is that one given record is drawn."""
        return self.batch_size / self.num_records

    def draw(self, key: bytes, num_records: int) -> np.ndarray:
        """Return the sorted indices of the drawn records, int64, shape (batch_size,).

        Args:
            key: 32 bytes derived for this run, attempt and step.
            num_records: the size of the data set at hand.

        Raises:
            BadInput: if `num_records` is not the declared one.
        """
        check_size(num_records, self.num_records)
        return subset(key, self.batch_size, self.num_records)


@dataclass(frozen=True, kw_only=True)
class FullBatch:
    """Every step sees all `num_records` records (public).

    Raises:
        BadInput: if `num_records` is not a whole number >= 1.
    """

    num_records: int

    def __post_init__(self) -> None:
        _ = self.draw_event

    @property
    def draw_event(self) -> FullBatchDraw:
        """What is drawn, as a neutral event for the accountant."""
        return FullBatchDraw(num_records=self.num_records)

    @property
    def default_relation(self) -> Relation:
        """REPLACE_ONE: N is public and every record is drawn."""
        return Relation.REPLACE_ONE

    @property
    def expected_batch_size(self) -> float:
        """N."""
        return float(self.num_records)

    @property
    def divisor(self) -> float:
        """The public constant that divides the noisy sum: N."""
        return float(self.num_records)

    @property
    def largest_draw(self) -> int:
        """N."""
        return self.num_records

    @property
    def sampling_prob(self) -> float:
        """1."""
        return 1.0

    def draw(self, key: bytes, num_records: int) -> np.ndarray:
        """Return 0..N-1, int64; nothing is random. Raises BadInput if `num_records` is not the declared one."""
        del key
        check_size(num_records, self.num_records)
        return np.arange(self.num_records, dtype=np.int64)


def check_size(num_records: int, declared: int) -> None:
    """Raise BadInput unless the data set has the size that the plan was accounted for."""
    if num_records != declared:
        raise BadInput(
            f"the plan declares num_records = {declared}, the data set has {num_records}: "
            "plan again with the right number (rows that cannot be read are records too)."
        )
