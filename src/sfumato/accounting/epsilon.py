"""Epsilon of a heterogeneous composition of steps, by privacy loss distributions (PLD) and by Renyi DP (RDP).

Both are upper bounds on the same quantity. PLD is tight up to its discretization and is what is reported where it is
supported; RDP is the cross-check, and the only one for fixed-size sampling.
"""

import logging
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache

import numpy as np
from dp_accounting import rdp
from dp_accounting.rdp import rdp_privacy_accountant as rdp_lib

from sfumato.accounting.compose import REPORT_DISCRETIZATION, Losses, compose, total_gaussian
from sfumato.accounting.conventions import Accountant, PldTerms, pld_terms, rdp_terms, supported
from sfumato.accounting.pair import gaussian_epsilon
from sfumato.base import BadInput, GaussianStep, Refused
from sfumato.base.rounding import upper

ROUNDING_PER_STEP = 2.0**-52
"""What a step takes from delta for rounding in the Fourier transforms: a unit of double precision.

Measured against the closed form at q = 1 (1 to 10^7 steps) and against direct convolutions (losses concentrated in few
bins, the worst case): delta came out too small by at most 5e-17 a step. Without the charge, 10^4 steps at delta = 1e-12
read below the truth.
"""
_RDP_ROUNDING = 1e-12
"""What is added to a step's log moments: dp_accounting ends its series there, and its sums cancel to 1e-13."""
_LEAST_RDP_NOISE = 1e-6

Steps = Sequence[tuple[GaussianStep, int]]
Merged = tuple[tuple[GaussianStep, int], ...]


def epsilon_pld(steps: Steps, delta: float, discretization: float = REPORT_DISCRETIZATION) -> float:
    """Return the epsilon of a composition at `delta`, from its privacy loss distribution; never below the true one.

    Args:
        steps: pairs (step, how often it was executed), all under one relation.
        delta: in (0, 1).
        discretization: of the privacy loss, and the share of their deviation that it may add where losses are small;
            1e-3 is fast and a little higher, 1e-4 is what is reported. It is made coarser where the losses are so large
            (epsilon in the hundreds) that it could not matter.

    Raises:
        Refused: no proved PLD charge for some (draw, relation), mixed relations, delta used up by a cap or by rounding,
            or no finite epsilon.
        BadInput: delta or a count out of range.
    """
    return _epsilon_pld(merge(steps), check_delta(delta), discretization)


def epsilon_rdp(steps: Steps, delta: float) -> float:
    """Return the epsilon of a composition at `delta` by Renyi DP; arguments and errors as in `epsilon_pld`."""
    return _epsilon_rdp(merge(steps), check_delta(delta))


def epsilon(
    steps: Steps, delta: float, accountant: Accountant | None = None, discretization: float = REPORT_DISCRETIZATION
) -> float:
    """Return epsilon by one accountant; None takes PLD where every step supports it, else RDP."""
    if accountant is None:
        accountant = "pld" if all(supported(step, "pld") for step, _ in steps) else "rdp"
    if accountant == "rdp":
        return epsilon_rdp(steps, delta)
    return epsilon_pld(steps, delta, discretization)


def merge(steps: Steps) -> Merged:
    """Return the composition with equal steps added up and empty ones left out, checked: the key of the caches."""
    counts: Counter[GaussianStep] = Counter()
    for step, count in steps:
        if isinstance(count, bool) or int(count) != count or count < 0:
            raise BadInput(f"the number of steps must be a whole number >= 0, got {count}.")
        counts[step] += int(count)
    merged = tuple((step, count) for step, count in counts.items() if count)
    relations = sorted({str(step.relation) for step, _ in merged})
    if len(relations) > 1:
        raise Refused(f"steps under different relations ({', '.join(relations)}) have no common epsilon.")
    return merged


def check_delta(delta: float) -> float:
    """Return `delta`, or raise BadInput unless it lies in (0, 1)."""
    if not 0.0 < delta < 1.0:
        raise BadInput(f"delta must lie in (0, 1), got {delta}.")
    return delta


def check_left(steps: Steps, delta: float, accountant: Accountant) -> None:
    """Refuse a delta of which caps and rounding leave nothing: then there is no epsilon, whatever the noise.

    Raises:
        Refused: saying which of the two uses it up.
    """
    (_left_by_rdp if accountant == "rdp" else _left_by_pld)(merge(steps), check_delta(delta))


def _left_by_pld(steps: Merged, delta: float) -> float:
    left = delta - charged_delta(steps)
    if left <= 0.0:
        raise Refused(_spent_message(steps, delta))
    return left


def _left_by_rdp(steps: Merged, delta: float) -> float:
    left = delta - sum(rdp_terms(step).delta * count for step, count in steps)
    if left <= 0.0:
        raise Refused(_cap_message(delta))
    return left


@lru_cache(maxsize=4096)
def _epsilon_pld(steps: Merged, delta: float, discretization: float) -> float:
    if not steps:
        return 0.0
    left = _left_by_pld(steps, delta)
    distance = total_gaussian(_terms(steps))
    if distance is not None:
        return _finite(gaussian_epsilon(distance, left), delta)
    return _finite(compose_pld(steps, discretization).epsilon(left), delta)


@lru_cache(maxsize=4096)
def _epsilon_rdp(steps: Merged, delta: float) -> float:
    if not steps:
        return 0.0
    left = _left_by_rdp(steps, delta)
    orders = np.array(rdp_lib.DEFAULT_RDP_ORDERS)
    total = sum((count * _rdp_of_one(step) for step, count in steps), np.zeros_like(orders))
    value = float(rdp_lib.compute_epsilon(orders.tolist(), total.tolist(), left)[0])
    return _finite(value, delta)


@lru_cache(maxsize=256)
def _rdp_of_one(step: GaussianStep) -> np.ndarray:
    terms = rdp_terms(step)
    accountant = rdp.RdpAccountant(neighboring_relation=terms.relation)
    if step.std < _LEAST_RDP_NOISE * max(step.presence, step.swap):
        raise Refused("this is too little noise for any meaningful epsilon: raise it.")
    with _without_order_warnings():
        accountant.compose(terms.event)
    return np.maximum(accountant.rdp, 0.0) + _RDP_ROUNDING / (np.array(rdp_lib.DEFAULT_RDP_ORDERS) - 1.0)


@contextmanager
def _without_order_warnings() -> Iterator[None]:
    """Silence dp_accounting's remark that it left out an order whose series did not converge.

    An order that is left out can only raise the epsilon, which is a minimum over orders.
    """
    logger = logging.getLogger("absl")

    def keep(record: logging.LogRecord) -> bool:
        return "failed to converge" not in record.getMessage()

    logger.addFilter(keep)
    try:
        yield
    finally:
        logger.removeFilter(keep)


def charged_delta(steps: Merged) -> float:
    """Return what caps and rounding take from delta before the privacy loss distribution gets the rest."""
    terms = _terms(steps)
    rounding = 0.0 if total_gaussian(terms) is not None else ROUNDING_PER_STEP
    return sum((term.delta + rounding) * count for term, count in terms)


def compose_pld(steps: Merged, discretization: float) -> Losses:
    """Return the distribution of the privacy loss of a composition, always rounded to the pessimistic side.

    Raises:
        Refused: no proved PLD charge for some step, or the losses are beyond any meaningful epsilon.
    """
    return compose(_terms(steps), discretization)


def _terms(steps: Merged) -> tuple[tuple[PldTerms, int], ...]:
    return tuple((pld_terms(step), count) for step, count in steps)


def _finite(value: float, delta: float) -> float:
    if not math.isfinite(value):
        raise Refused(f"there is no finite epsilon at delta = {upper(delta)}: raise the noise or delta.")
    return max(value, 0.0)


def _spent_message(steps: Merged, delta: float) -> str:
    if sum(pld_terms(step).delta * count for step, count in steps) >= delta:
        return _cap_message(delta)
    return (
        f"delta = {upper(delta)} is below what double precision resolves over this many steps: "
        "raise delta or use accountant 'rdp'."
    )


def _cap_message(delta: float) -> str:
    return f"the probability that the cap is reached in some step uses up delta = {upper(delta)}: raise the cap."
