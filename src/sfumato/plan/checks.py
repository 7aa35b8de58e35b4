"""Checks of a plan's numbers: BadInput naming the field, also for values of the wrong type (from JSON)."""

import math

from sfumato.base import BadInput


def positive(name: str, value: object) -> float:
    """Return `value` if it is a positive finite number, else raise BadInput."""
    if not _is_number(value) or not value > 0.0:  # type: ignore[operator]
        raise BadInput(f"{name} must be a positive number, got {value!r}.")
    return float(value)  # type: ignore[arg-type]


def not_negative(name: str, value: object) -> float:
    """Return `value` if it is a finite number >= 0, else raise BadInput."""
    if not _is_number(value) or value < 0.0:  # type: ignore[operator]
        raise BadInput(f"{name} must be a number >= 0, got {value!r}.")
    return float(value)  # type: ignore[arg-type]


def whole(name: str, value: object, low: int = 1) -> int:
    """Return `value` as an int if it is a whole number >= low, else raise BadInput."""
    if not _is_number(value) or int(value) != value or value < low:  # type: ignore[call-overload,operator]
        raise BadInput(f"{name} must be a whole number >= {low}, got {value!r}.")
    return int(value)  # type: ignore[call-overload]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
