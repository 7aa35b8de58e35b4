from fractions import Fraction

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
