"""Ranges of settings: what is taken, what is refused, and that every numeric setting of a recipe has one."""

import dataclasses
import math
import re
import typing
from dataclasses import dataclass
from typing import Annotated, Any, get_args

import pytest

from sfumato.base import BadInput, limits
from sfumato.base.ranges import Real, Whole, check_ranges, flag, ranges_of
from sfumato.recipes.privacy import Loss, Privacy
from sfumato.recipes.run import Adapter, Asking, Data, Model, Training

SETTINGS = (Adapter, Asking, Data, Loss, Model, Privacy, Training)
HOSTILE: tuple[Any, ...] = (math.nan, math.inf, -math.inf, -1, 1e30, 10**400, "8", True, None)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """A stand-in."""

    rate: Annotated[float, Real(0.0, 1.0, above=True, why="Half is usual.")] = 0.5
    count: Annotated[int | None, Whole(1, 10, cost=lambda n: f"That is {n} hours.")] = None
    pair: Annotated[tuple[float, float] | None, Real(0.0, 9.0, below=True, name="pair")] = None
    noise: Annotated[float, Real(0.1, 9.0, or_zero=True)] = 0.0

    def __post_init__(self) -> None:
        check_ranges(self)


@pytest.mark.parametrize("given", [{}, {"rate": 1}, {"count": 10}, {"pair": (0.0, 8.9)}, {"noise": 0.1}])
def test_what_lies_inside_is_taken(given: dict[str, Any]) -> None:
    Settings(**given)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"rate": 0.0}, r"--rate must be a number above 0 and at most 1, got 0\.0\. Half is usual\."),
        ({"rate": math.nan}, "got nan"),
        ({"rate": True}, "got True"),
        ({"rate": "0.5"}, "got '0.5'"),
        ({"count": 0}, r"--count must be a whole number from 1 to 10, got 0\.$"),
        ({"count": 11}, r"got 11\. That is 11 hours\."),
        ({"count": 2.0}, "got 2.0"),
        ({"count": 10**5000}, r"got a number of more than 40 digits\.$"),
        ({"pair": (0.0, 9.0)}, "pair must be a number at least 0 and below 9, got 9.0"),
        ({"noise": 1e-9}, "0, or a number at least 0.1"),
    ],
)
def test_what_lies_outside_is_named_with_its_range(given: dict[str, Any], words: str) -> None:
    with pytest.raises(BadInput, match=words):
        Settings(**given)


def _numeric(settings: type) -> set[str]:
    names = set()
    for field in dataclasses.fields(settings):
        if "Literal" in str(field.type):
            continue  # its values are listed
        kinds = str(typing.get_args(field.type) or field.type)
        if ("int" in kinds or "float" in kinds or field.type in (int, float)) and field.type is not bool:
            names.add(field.name)
    return names


@pytest.mark.parametrize("settings", SETTINGS)
def test_every_numeric_setting_of_a_run_has_a_range(settings: type) -> None:
    assert _numeric(settings) == {name for name, _ in ranges_of(settings)}


@pytest.mark.parametrize("settings", SETTINGS)
def test_no_numeric_setting_takes_what_is_no_number_of_its_range(settings: type) -> None:
    required = {"spec": "shapes"} if settings is Data else {}
    usual = settings(**required)
    for name, own in ranges_of(settings):
        for value in HOSTILE:
            if value is None or own.holds(value):
                continue
            given = (value, value) if isinstance(getattr(usual, name), tuple) else value
            with pytest.raises(BadInput, match=re.escape(own.name or flag(name))):
                settings(**required, **{name: given})


def test_a_steps_estimate_is_in_the_message() -> None:
    with pytest.raises(BadInput, match=r"1,000,000, got 1000000000\. At 0\.01 s a step, .* 116 days"):
        Privacy(steps=10**9)


def test_durations_have_a_unit_that_suits() -> None:
    assert [limits.duration(seconds) for seconds in (3, 300, 9000, 1e6, 1e9)] == [
        "3 seconds",
        "5 minutes",
        "2 hours",
        "12 days",
        "32 years",
    ]


def test_decay_that_takes_the_weights_away_is_refused() -> None:
    with pytest.raises(BadInput, match=r"--weight-decay 200 at --learning-rate 0\.01"):
        Training(learning_rate=0.01, weight_decay=200.0)


def test_two_ranges_of_the_same_numbers_keep_their_own_reasons() -> None:
    """`Annotated[...]` is cached by equality: of two ranges that were equal, the first would speak for both."""

    def dear(value: int | float) -> str:
        return f"{value} is too much."

    with_cost, without = Whole(1, 7, cost=dear), Whole(1, 7)
    assert get_args(Annotated[int, without])[1].reason(9) == ""
    assert get_args(Annotated[int, with_cost])[1].reason(9) == "9 is too much."
