"""Privacy loss distributions of compositions, on a grid that is chosen for the losses at hand.

Pessimistic throughout: each step is discretised by connecting the dots (arXiv 2207.04380), whose divergence is nowhere
below the step's own, tails count as infinite losses, and a coarser grid is only higher. How fine the grid has to be
follows from one step: with deviation s and width w connecting the dots adds at most w^2 / 6 to the variance s^2 of a
loss, and deviations of the total grow by w^2 / (12 s^2) of themselves. How fine it may be follows from memory.
"""

import math
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from dp_accounting.pld.pld_pmf import DensePLDPmf
from scipy.fft import next_fast_len
from scipy.optimize import minimize_scalar
from scipy.stats import binom

from sfumato.accounting.conventions import NeighborRel, PldTerms
from sfumato.accounting.pair import Direction, deviation, divergence, range_of_losses
from sfumato.base import Refused

_TAIL = 1e-18
"""Mass of a composition's tails that counts as infinite losses, in all."""
REPORT_DISCRETIZATION = 1e-4
SEARCH_DISCRETIZATION = 1e-3
_MAX_STEP_BINS, _MAX_BINS = 250_000, 1_000_000  # of one step and of a composition, at the report's discretization
_ENOUGH = {"xatol": 0.05, "maxiter": 12}
_SMALL = 100_000  # bins of a composition that need no search for a narrower window
_MAX_LOSS_SCALE, _LEAST_NOISE = 1e5, 1e-300
_LARGEST_LOSS = 700.0  # whose e^-loss is a number

Terms = tuple[tuple[PldTerms, int], ...]


@dataclass(frozen=True, kw_only=True)
class Losses:
    """The distribution of a composition's total loss, in the direction in which the record is present, and its reverse.

    `absent` is None where both are the same.
    """

    present: DensePLDPmf
    absent: DensePLDPmf | None

    def epsilon(self, delta: float) -> float:
        """Return the larger epsilon of both directions at `delta`; infinite where there is none."""
        return max(_epsilon(one, delta) for one in (self.present, self.absent) if one is not None)


def _epsilon(losses: DensePLDPmf, delta: float) -> float:
    """As get_epsilon_for_delta, which goes through the bins one by one in Python, and subtracts masses near 1."""
    if losses._infinity_mass > delta:
        return math.inf
    values = (np.arange(losses.size)[::-1] + losses._lower_loss) * losses._discretization
    values = values[values > 0.0]
    probs = losses._probs[::-1][: len(values)]
    if not len(values):
        return 0.0
    # With `over` the mass above a loss and `under` that mass times e^-loss, the divergence at epsilon less delta is
    # over - delta - e^epsilon under of the bins above epsilon. At a bin's own loss the bin adds nothing.
    if values[0] > _LARGEST_LOSS:
        over = losses._infinity_mass - delta + np.cumsum(probs)
        base = values[int(np.argmax(over > 0.0))]
        under = np.cumsum(probs * np.exp(np.minimum(base - values, _LARGEST_LOSS)))
        last = _last(over > np.exp(np.minimum(values - base, _LARGEST_LOSS)) * under)
        return max(0.0, base + math.log(over[last] / under[last])) if over[last] > 0.0 else 0.0
    under = np.cumsum(probs * np.exp(-values))
    gap = losses._infinity_mass - delta - np.cumsum(probs * np.expm1(-values))  # over - under - delta
    last = _last(gap > np.expm1(values) * under)
    return max(0.0, math.log1p(gap[last] / under[last])) if gap[last] > 0.0 else 0.0


def _last(reached: np.ndarray) -> int:
    """Return the last bin above epsilon; `reached` says at which bins, from the top, the divergence is delta."""
    return max(int(np.argmax(reached)) - 1, 0) if reached.any() else len(reached) - 1


@lru_cache(maxsize=4)
def compose(terms: Terms, discretization: float) -> Losses:
    """Return the losses of a composition, on a grid of width `discretization` or as fine or coarse as they need.

    Raises:
        Refused: the losses are beyond any meaningful epsilon.
    """
    _check_scale(terms)
    terms = tuple(_as_one(term, count) if term.is_gaussian else (term, count) for term, count in terms)
    share = min(1.0, math.sqrt(REPORT_DISCRETIZATION / discretization))  # of the bins: a search is to be fast
    step_bins, limit = int(_MAX_STEP_BINS * share), int(_MAX_BINS * share)
    width = _width(terms, discretization, step_bins)
    while True:
        try:
            found = [_total(terms, width, direction, limit) for direction in _directions(terms[0][0])]
            return Losses(present=found[0], absent=found[1] if len(found) > 1 else None)
        except _TooFine as error:
            width *= 1.05 * error.bins / limit


def total_gaussian(terms: Terms) -> float | None:
    """Return how many deviations apart the two Gaussians are that a composition without draws comes to, else None."""
    if not all(term.is_gaussian for term, _ in terms):
        return None
    _check_scale(terms)
    each = [(_distance(term), count) for term, count in terms]
    return math.sqrt(sum(count * distance * distance for distance, count in each))


def _distance(term: PldTerms) -> float:
    return (2.0 if term.relation is NeighborRel.REPLACE_ONE else 1.0) / term.noise_multiplier


def _as_one(term: PldTerms, count: int) -> tuple[PldTerms, int]:
    return replace(term, noise_multiplier=term.noise_multiplier / math.sqrt(count)), 1


def _check_scale(terms: Terms) -> None:
    """Raise Refused where the losses are beyond any meaningful epsilon."""
    for term, count in terms:
        h = (1.0 if term.truncation is None else 2.0) / max(term.noise_multiplier, _LEAST_NOISE)
        drawn = count * term.sampling_prob
        if (drawn + 1.0) * h * h / 2.0 + 10.0 * (math.sqrt(drawn) + 1.0) * h > _MAX_LOSS_SCALE:
            raise Refused(
                f"a noise multiplier of {term.noise_multiplier:.3g} over {count} steps is too little noise for any "
                "meaningful epsilon: raise it."
            )


def _width(terms: Terms, discretization: float, step_bins: int) -> float:
    """Return the width whose share of the total deviation is at most `discretization`, and which itself is at most it.

    Coarser where one step would have too many bins.
    """
    steps = sum(count for _, count in terms)
    variance = sum(count * _deviation(term) ** 2 for term, count in terms)
    fine = math.sqrt(12.0 * discretization * variance / steps)
    least = max(high - low for term, _ in terms for low, high in _ranges(term)) / step_bins
    return max(min(discretization, fine), least)


def _deviation(term: PldTerms) -> float:
    return deviation(term.noise_multiplier, term.sampling_prob, _directions(term)[0])


def _directions(term: PldTerms) -> tuple[Direction, ...]:
    return ("replace",) if term.relation is NeighborRel.REPLACE_ONE else ("remove", "add")


def _ranges(term: PldTerms) -> list[tuple[float, float]]:
    found = [range_of_losses(term.noise_multiplier, term.sampling_prob, each) for each in _directions(term)]
    if term.truncation is not None:
        found.append(range_of_losses(term.noise_multiplier / 2.0, _prob_when_full(term), "replace"))
    return found


class _TooFine(Exception):
    def __init__(self, bins: int) -> None:
        self.bins = bins


def _total(terms: Terms, width: float, direction: Direction, limit: int) -> DensePLDPmf:
    total = None
    for term, count in terms:
        part = _power(_step(term, width, direction), count, _TAIL / len(terms), limit)
        if total is not None:
            _check_bins(total.size + part.size, limit)
            part = total.compose(part, _TAIL / len(terms))
        total = part
    assert total is not None
    return total


def _power(losses: DensePLDPmf, count: int, tail: float, limit: int) -> DensePLDPmf:
    """Return the `count`-fold composition; `tail` of its mass becomes infinite.

    As dp_accounting's self_compose, whose bounds on the window leave room for many times what is needed where steps
    are many or a loss is rare and large. The transform is circular: what lies outside of the window is wrapped into it,
    and charged all the same.
    """
    if count == 1:
        return losses
    probs = losses._probs
    low, high = _window(probs, count, tail)
    _check_bins(high - low, limit)
    size = next_fast_len(max(high - low + 1, len(probs)), real=True)
    spectrum = np.fft.rfft(probs, size)
    spectrum **= count
    composed = np.roll(np.fft.irfft(spectrum, size), -low)[: high - low + 1]
    infinite = tail - math.expm1(count * math.log1p(-losses._infinity_mass))
    return DensePLDPmf(losses._discretization, losses._lower_loss * count + low, composed, infinite, True)


def _window(probs: np.ndarray, count: int, tail: float) -> tuple[int, int]:
    """Return the bins that hold all but `tail` of the composition, by Chernoff's bound at the best order on each side.

    Any order gives a valid bound, so that a numerical minimum errs to the safe side.
    """
    last = (len(probs) - 1) * count
    if last <= _SMALL:
        return 0, last
    places = np.arange(len(probs), dtype=np.float64)

    def above(log_order: float, side: int) -> float:
        order = math.exp(log_order)
        exponents = order * (places - places[-1]) if side > 0 else -order * places
        moment = math.log(float(np.dot(np.exp(exponents), probs))) + (order * places[-1] if side > 0 else 0.0)
        return (count * moment + math.log(2.0 / tail)) / order

    limits = (math.log(1e-3 / len(probs) / math.sqrt(count)), math.log(600.0 / len(probs)))
    found = [minimize_scalar(above, args=(side,), bounds=limits, method="bounded", options=_ENOUGH) for side in (1, -1)]
    return max(0, math.floor(-found[1].fun)), min(last, math.ceil(found[0].fun))


def _check_bins(bins: int, limit: int) -> None:
    if bins > limit:
        raise _TooFine(bins)


def _step(term: PldTerms, width: float, direction: Direction) -> DensePLDPmf:
    plain = _gaussian(term.noise_multiplier, term.sampling_prob, width, direction)
    if term.truncation is None:
        return plain
    # With the cap reached by the others, a record takes a batch-mate's seat: twice the distance, replace-one, which
    # bounds both directions (the mixture of dp_accounting's from_truncated_subsampled_gaussian_mechanism).
    full = _gaussian(term.noise_multiplier / 2.0, _prob_when_full(term), width, "replace")
    return full.compute_mixture(plain, _prob_full(term)).to_dense_pmf()


def _prob_full(term: PldTerms) -> float:
    assert term.truncation is not None
    num_records, cap = term.truncation
    return float(binom.sf(cap - 1, num_records - 1, term.sampling_prob))


def _prob_when_full(term: PldTerms) -> float:
    """Return how probable it is that a record is in a draw, given that the others fill the cap."""
    assert term.truncation is not None
    num_records, cap = term.truncation
    found = binom.sf(cap, num_records, term.sampling_prob) * cap / num_records / _prob_full(term)
    return min(float(found), 1.0)


@lru_cache(maxsize=32)
def _gaussian(multiplier: float, prob: float, width: float, direction: Direction) -> DensePLDPmf:
    low, high = range_of_losses(multiplier, prob, direction)
    first, last = min(math.floor(low / width), 0), max(math.ceil(high / width), 1)
    deltas = divergence(np.arange(first, last + 1) * width, multiplier, prob, direction)
    # Connect the dots (arXiv 2207.04380, Algorithm 1), as dp_accounting's create_pmf_pessimistic_connect_dots. It is
    # linear, and what `divergence` leaves out stands for a loss of zero.
    rises, step = np.diff(deltas), math.expm1(width)
    probs = np.empty_like(deltas)
    probs[0] = rises[0] / step - deltas[0]
    probs[1:-1] = (rises[1:] - rises[:-1] - step * rises[:-1]) / step
    probs[-1] = -rises[-1] * math.exp(width) / step
    probs[-first] += 1.0
    return DensePLDPmf(width, first, np.maximum(probs, 0.0), float(deltas[-1]), True)
