"""Rounding of upper bounds: what is printed is never below what is proved."""

import math
from decimal import ROUND_CEILING, Decimal


def upper(value: float, places: int = 2) -> str:
    """Return `value` rounded up to `places` decimals, for epsilons and other upper bounds.

    >>> upper(7.34), upper(7.9999), upper(8.001), upper(float("inf"))
    ('7.34', '8.00', '8.01', 'infinite')
    """
    if math.isinf(value):
        return "infinite"
    return str(Decimal(repr(float(value))).quantize(Decimal(1).scaleb(-places), rounding=ROUND_CEILING))


def percent_at_most(share: float, places: int = 1) -> str:
    """Return a share in 0..1 as a percentage rounded up to `places` decimals, at most 100; whole ones without zeros.

    >>> percent_at_most(0.01), percent_at_most(0.41026), percent_at_most(0.41026, 2), percent_at_most(0.99999)
    ('1 %', '41.1 %', '41.03 %', '100 %')
    """
    if share >= 1:
        return "100 %"
    text = upper(float(100 * Decimal(repr(float(share)))), places)
    return f"{text.removesuffix('.' + '0' * places)} %"
