"""Ranges of settings, declared where a setting is: `rate: Annotated[float, Real(0.0, 1.0)]`; one function checks them.

A dataclass of settings calls `check_ranges(self)` in `__post_init__`, so that the Python interface and the command line
are checked alike, before any data is read.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from typing import Annotated, Any, get_args, get_origin

from sfumato.base.errors import BadInput

_SHOWN = 40  # characters of a wrong value that a message repeats
_MOST_COST = 1e15  # beyond it an estimate says nothing more


@dataclass(frozen=True)
class Real:
    """The finite numbers that a setting may be.

    Attributes:
        low, high: the ends; both may be taken, unless `above` or `below` says otherwise.
        above, below: `low`, or `high`, itself is left out.
        or_zero: 0 is taken besides.
        why: a sentence for the message: what would become of a value outside, and what to do.
        cost: from a value beyond `high` to a sentence with what it would take.
        name: how the setting is called in messages; None: as its flag.
    """

    low: float
    high: float
    above: bool = False
    below: bool = False
    or_zero: bool = False
    why: str = ""
    cost: Callable[[int | float], str] | None = None
    name: str | None = None

    def holds(self, value: object) -> bool:
        """Whether `value` is a number of this range."""
        if isinstance(value, bool) or not isinstance(value, int | float) or not _is_finite(value):
            return False
        if self.or_zero and value == 0:
            return True
        return (self.low < value if self.above else self.low <= value) and (
            value < self.high if self.below else value <= self.high
        )

    def __str__(self) -> str:
        low = f"{'above' if self.above else 'at least'} {_number(self.low)}"
        high = f"{'below' if self.below else 'at most'} {_number(self.high)}"
        return f"{'0, or ' if self.or_zero else ''}a number {low} and {high}"

    def reason(self, value: object) -> str:
        """Return the sentence that explains why `value` is not taken, or nothing."""
        is_beyond = isinstance(value, int | float) and self.high < value < _MOST_COST
        return self.cost(value) if self.cost and is_beyond else self.why  # pyright: ignore[reportArgumentType]


@dataclass(frozen=True)
class Whole(Real):
    """The whole numbers that a setting may be; see `Real`."""

    def holds(self, value: object) -> bool:
        """Whether `value` is a whole number of this range, as an int."""
        return isinstance(value, int) and super().holds(value)

    def __str__(self) -> str:
        return f"a whole number from {_number(self.low)} to {_number(self.high)}"


def check_ranges(settings: Any) -> None:
    """Check every field of a dataclass whose type names a range; None stands for a setting that was left out.

    Of a tuple every element is checked.

    Raises:
        BadInput: naming the setting, its range and the value.
    """
    for name, own in ranges_of(type(settings)):
        given = getattr(settings, name)
        for value in given if isinstance(given, tuple | list) else (given,):
            if value is not None and not own.holds(value):
                why = own.reason(value)
                raise BadInput(f"{own.name or flag(name)} must be {own}, got {_short(value)}.{why and ' '}{why}")


def ranges_of(settings: type) -> Iterator[tuple[str, Real]]:
    """Yield the name and range of each field of a dataclass that has one."""
    for one in fields(settings):
        if get_origin(one.type) is Annotated:
            yield from ((one.name, own) for own in get_args(one.type)[1:] if isinstance(own, Real))


def flag(name: str) -> str:
    """Return a setting as one types it.

    >>> flag("learning_rate")
    '--learning-rate'
    """
    return f"--{name.replace('_', '-')}"


def _is_finite(value: float) -> bool:
    return isinstance(value, int) or math.isfinite(value)  # an int of a thousand digits is no float


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"


def _short(value: object) -> str:
    if isinstance(value, int) and value.bit_length() > 4 * _SHOWN:
        return f"a number of more than {_SHOWN} digits"
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
