"""Rounding of upper bounds: what is printed is never below what is proved."""

import math
from decimal import ROUND_CEILING, Context, Decimal

_ALL_DIGITS = Context(prec=400)


def upper(value: float, places: int = 2, digits: int = 3) -> str:
    """Return `value` rounded up, for epsilons, deltas and other upper bounds: the only way in which one is printed.

    To `places` decimals, and to `digits` significant digits where few of those would be left.

    >>> upper(7.34), upper(7.9999), upper(8.001), upper(float("inf"))
    ('7.34', '8.00', '8.01', 'infinite')
    >>> upper(1e-9), upper(0.0123456), upper(1 / 600_000), upper(1 / 600_000, digits=6), upper(0.0)
    ('1e-09', '0.0124', '1.67e-06', '1.66667e-06', '0.00')
    """
    if math.isinf(value):
        return "infinite"
    exact = Decimal(repr(float(value) and max(float(value), 1e-300)))  # below, floats lose digits
    if 0 < exact < Decimal(1).scaleb(-max(places - 1, 1)):
        rounded = exact.quantize(Decimal(1).scaleb(exact.adjusted() + 1 - digits), rounding=ROUND_CEILING)
        return f"{float(rounded):.{digits}g}"
    return str(exact.quantize(Decimal(1).scaleb(-places), rounding=ROUND_CEILING, context=_ALL_DIGITS))


def percent_at_most(share: float, places: int = 1) -> str:
    """Return a share in 0..1 as a percentage rounded up to `places` decimals, at most 100; whole ones without zeros.

    >>> percent_at_most(0.01), percent_at_most(0.41026), percent_at_most(0.41026, 2), percent_at_most(0.99999)
    ('1 %', '41.1 %', '41.03 %', '100 %')
    """
    if share >= 1:
        return "100 %"
    text = upper(float(100 * Decimal(repr(float(share)))), places)
    return f"{text.removesuffix('.' + '0' * places)} %"
