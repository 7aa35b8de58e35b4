from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfumato.base.rounding import percent_at_most, upper


@given(st.floats(0, 1e6), st.integers(0, 6))
def test_a_printed_bound_is_never_below_the_bound(value: float, places: int) -> None:
    """The bound is taken as its shortest decimal, so that 7.34 prints as 7.34."""
    excess = Fraction(upper(value, places)) - Fraction(repr(value))
    assert 0 <= excess < Fraction(1, 10**places)


@given(st.floats(0, 1), st.integers(1, 3))
def test_a_printed_share_is_never_below_the_share(share: float, places: int) -> None:
    assert Fraction(percent_at_most(share, places).removesuffix(" %")) / 100 >= Fraction(share) - Fraction(1, 10**12)


@given(st.floats(0, 1e300), st.integers(0, 6), st.integers(1, 8))
def test_no_bound_prints_as_nothing(value: float, places: int, digits: int) -> None:
    """Read back, what is printed is never below, and small values keep their digits."""
    printed = float(upper(value, places, digits))
    assert printed >= value
    if 1e-290 < value < 0.01:
        assert printed <= value * (1 + 10.0 ** (1 - digits)) or places > 2


@pytest.mark.parametrize(
    ("value", "text"),
    [(1e-9, "1e-09"), (1.001e-9, "1.01e-09"), (0.00999, "0.00999"), (0.099999, "0.1"), (5e-324, "1e-300")],
)
def test_small_bounds_show_digits(value: float, text: str) -> None:
    assert upper(value) == text
