"""Poisson sampling: every record enters a draw independently with the same probability.

Shapes: a draw is int64, shape (size of the draw,), sorted record indices.
"""

import math
from dataclasses import dataclass

import numpy as np

from sfumato.base import BadInput, CappedPoissonDraw, PoissonDraw, Relation
from sfumato.base.seeds import derive, uniforms
from sfumato.sampling.fixed import check_size
from sfumato.sampling.subset import subset

_BLOCK_GAPS = 1 << 17  # gaps read at a time: about 6 MiB of temporary arrays, whatever the batch


@dataclass(frozen=True, kw_only=True)
class Poisson:
    """Every record enters each draw independently with probability `sampling_prob`.

    Two ways to declare it:

    * `num_records` and `expected_batch_size`: N is public, sampling_prob = expected_batch_size / num_records, and the
      default relation is ZERO_OUT.
    * `sampling_prob`, with `expected_batch_size` as the public divisor: N stays hidden, is nowhere stored, and the
      default relation is ADD_REMOVE.

    With a `cap`, a draw of more than `cap` records is replaced by a uniform subset of `cap` of them. That is not
    Poisson sampling any more: the accountant charges for it, and needs `num_records` for this.

    After construction `sampling_prob` is always set; `num_records` is None where N is hidden.

    Raises:
        BadInput: if neither or both of the two ways are used, or a number is out of its range.
    """

    num_records: int | None = None
    expected_batch_size: float | None = None
    sampling_prob: float | None = None
    cap: int | None = None

    def __post_init__(self) -> None:
        if self.expected_batch_size is not None and not self.expected_batch_size > 0:
            raise BadInput(f"expected_batch_size must be positive, got {self.expected_batch_size}.")
        if self.num_records is not None:
            object.__setattr__(self, "sampling_prob", self._prob_from_records())
        elif self.cap is not None:
            raise BadInput("a cap is charged with the help of N: declare num_records and expected_batch_size with it.")
        if self.sampling_prob is None:
            raise BadInput("Poisson needs num_records and expected_batch_size, or sampling_prob.")
        _ = self.draw_event  # the event checks the probability and the counts

    def _prob_from_records(self) -> float:
        assert self.num_records is not None
        if self.expected_batch_size is None:
            raise BadInput("Poisson with num_records needs expected_batch_size.")
        if self.num_records < 1 or int(self.num_records) != self.num_records:
            raise BadInput(f"num_records must be a whole number >= 1, got {self.num_records}.")
        if self.expected_batch_size > self.num_records:
            raise BadInput(f"expected_batch_size {self.expected_batch_size} exceeds num_records {self.num_records}.")
        prob = self.expected_batch_size / self.num_records
        # A sampler read back from JSON, or copied by dataclasses.replace, brings its own probability along.
        if self.sampling_prob not in (None, prob):
            raise BadInput(
                f"sampling_prob {self.sampling_prob} contradicts expected_batch_size / num_records = {prob}: "
                "give either the two or the one."
            )
        return prob

    @property
    def prob(self) -> float:
        """`sampling_prob`, which is never None after construction."""
        assert self.sampling_prob is not None
        return self.sampling_prob

    @property
    def draw_event(self) -> PoissonDraw | CappedPoissonDraw:
        """What is drawn, as a neutral event for the accountant."""
        if self.cap is None:
            return PoissonDraw(sampling_prob=self.prob)
        assert self.num_records is not None
        return CappedPoissonDraw(sampling_prob=self.prob, num_records=self.num_records, cap=self.cap)

    @property
    def default_relation(self) -> Relation:
        """ZERO_OUT where N is declared (N is public then), ADD_REMOVE where only the probability is."""
        return Relation.ADD_REMOVE if self.num_records is None else Relation.ZERO_OUT

    @property
    def divisor(self) -> float:
        """The public constant that divides the noisy sum: the expected, never the realised, batch size.

        Raises:
            BadInput: if `sampling_prob` was declared without an `expected_batch_size`.
        """
        if self.expected_batch_size is None:
            raise BadInput("declare expected_batch_size with sampling_prob: it is the public divisor of the noisy sum.")
        return float(self.expected_batch_size)

    @property
    def largest_draw(self) -> int | None:
        """How many records a draw can have: the cap, else N; None where N is hidden."""
        return self.num_records if self.cap is None else self.cap

    def draw(self, key: bytes, num_records: int) -> np.ndarray:
        """Return the sorted indices of the drawn records, int64; empty draws are ordinary.

        Args:
            key: 32 bytes derived for this run, attempt and step.
            num_records: the size of the data set at hand.

        Raises:
            BadInput: if N was declared and `num_records` differs from it.
        """
        if self.num_records is not None:
            check_size(num_records, self.num_records)
        drawn = _bernoulli_indices(key, self.prob, num_records)
        if self.cap is None or len(drawn) <= self.cap:
            return drawn
        return drawn[subset(derive(key, "cap"), self.cap, len(drawn))]


def _bernoulli_indices(key: bytes, prob: float, num_records: int) -> np.ndarray:
    """Return the successes of `num_records` independent trials, by jumping from one success to the next.

    The gaps between successes are geometric, P(gap > k) = (1 - prob)^k, so time and memory grow with the number of
    successes, not with the number of trials.
    """
    if prob == 1.0:
        return np.arange(num_records, dtype=np.int64)
    expected = prob * num_records
    block_gaps = min(_BLOCK_GAPS, int(expected + 6.0 * math.sqrt(expected)) + 8)
    parts, last, block = [], -1, 0
    while last < num_records:
        positions = last + np.cumsum(_gaps(derive(key, "gaps", block), block_gaps, prob, num_records + 1))
        last, block = int(positions[-1]), block + 1
        parts.append(positions[: np.searchsorted(positions, num_records)])
    return np.concatenate(parts)


def _gaps(key: bytes, count: int, prob: float, longest: int) -> np.ndarray:
    """Return `count` geometric gaps >= 1, int64, those above `longest` shortened to it.

    A gap is 1 + floor(log(u) / log(1 - prob)). The first uniform gives u on a grid of 2^-53, the second one fills the
    grid's cell: near zero, where long gaps come from, u keeps the full precision of a float, so that every gap's
    probability is right to a relative 1e-11 for prob >= 1e-4 and not only to an absolute 2^-53.
    """
    coarse, fine = uniforms(key, 2 * count).reshape(2, count)
    u = (coarse - 2.0**-54) + fine * 2.0**-53
    gaps = np.floor(np.log(u) / math.log1p(-prob)) + 1.0
    return np.minimum(gaps, longest).astype(np.int64)
