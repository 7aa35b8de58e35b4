"""What an attacker could know: the best membership test that the privacy loss distribution allows."""

import math

from scipy.optimize import minimize_scalar

from sfumato.accounting.compose import REPORT_DISCRETIZATION
from sfumato.accounting.epsilon import Steps, charged_delta, compose_pld, merge
from sfumato.base import BadInput

_LOWEST_LOG_E = -20.0  # 1 - e is then within 1e-8 of 1


def max_true_positive_rate(
    steps: Steps, false_positive_rate: float = 0.01, discretization: float = REPORT_DISCRETIZATION
) -> float:
    """Return the largest true-positive rate of any membership test at the given false-positive rate.

    "Positive" is "the record was in the data set". With delta(e) = max over tests A of P(A) - e Q(A), the best test at
    false-positive rate a has P(A) = min over e > 0 of delta(e) + a e (Neyman-Pearson in dual form). delta(.) comes from
    the whole distribution, not off one (epsilon, delta). Any e gives a valid bound, so that a numerical minimum errs to
    the safe side.

    Args:
        steps: pairs (step, how often it was executed).
        false_positive_rate: in (0, 1).
        discretization: of the privacy loss.

    Returns:
        A rate in [false_positive_rate, 1]; 1 % at 1 % means that nothing can be learned.

    Raises:
        Refused: no proved PLD charge for some step.
        BadInput: the rate is out of range.
    """
    if not 0.0 < false_positive_rate < 1.0:
        raise BadInput(f"false_positive_rate must lie in (0, 1), got {false_positive_rate}.")
    merged = merge(steps)
    if not merged:
        return false_positive_rate
    # The direction in which the record is present under P: the worse of both is not the question asked here.
    present = compose_pld(merged, discretization).present

    def bound(log_e: float) -> float:
        return float(present.get_delta_for_epsilon(log_e)) + false_positive_rate * math.exp(log_e)

    # The bound is convex in e, above 1 - e everywhere and 1 at e = 1 / a: its minimum lies within these limits.
    limits = (_LOWEST_LOG_E, -math.log(false_positive_rate))
    best = minimize_scalar(bound, bounds=limits, method="bounded", options={"xatol": 1e-5})
    rate = min(float(best.fun), bound(0.0)) + charged_delta(merged)
    return min(max(rate, false_positive_rate), 1.0)
