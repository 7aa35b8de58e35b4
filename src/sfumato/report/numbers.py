"""Numbers as a reader meets them."""

import math
from typing import Any, TypeGuard

from sfumato.base import BadInput

_LARGEST = 1e100  # beyond it the arithmetic of a chart overflows


def plain(value: Any) -> str:
    """Return any fact as short text: numbers to six digits, thousands grouped, nothing as "none".

    >>> plain(233804767), plain(1.6666666e-06), plain(None), plain(True), plain(["a", 2])
    ('233,804,767', '1.66667e-06', 'none', 'yes', 'a, 2')
    """
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.6g}" if abs(value) < 1e6 else f"{value:.6g}"
    if isinstance(value, dict):
        return "; ".join(f"{str(key).replace('_', ' ')}: {plain(item)}" for key, item in value.items()) or "none"
    if isinstance(value, list | tuple):
        return ", ".join(plain(item) for item in value) or "none"
    return str(value)


def can_be_drawn(value: Any) -> TypeGuard[int | float]:
    """Return whether a value is a number that has a place on an axis.

    >>> can_be_drawn(0.5), can_be_drawn(True), can_be_drawn(math.nan), can_be_drawn(1e300)
    (True, False, False, False)
    """
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= _LARGEST


def most_recognised(epsilon: float, delta: float, false_alarms: float = 0.01) -> float:
    """Return the largest true-positive rate that (epsilon, delta) leaves to a membership test at a false-positive rate.

    min(e^epsilon a + delta, 1 - e^-epsilon (1 - a - delta)), a = `false_alarms` [Kairouz et al., ICML 2015, Thm 2.1].
    The privacy loss distribution of a run gives a smaller bound than this; both hold.

    >>> most_recognised(0.0, 0.0)
    0.01
    >>> round(most_recognised(1.0, 1e-6), 4), round(most_recognised(8.0, 1e-6), 4)
    (0.0272, 0.9997)
    """
    if not (epsilon >= 0 and 0 <= delta < 1 and 0 <= false_alarms <= 1):
        raise BadInput(f"epsilon {epsilon}, delta {delta}, false_alarms {false_alarms}: not a privacy statement.")
    rising = math.exp(min(epsilon, 700.0)) * false_alarms + delta
    falling = 1.0 - math.exp(-epsilon) * (1.0 - false_alarms - delta)
    return max(0.0, min(1.0, rising, falling))
