"""Units: what is clipped, and how far one record can move the sum of clipped things, with the proofs.

A unit is a frozen dataclass with what the protocol `Unit` lists; it stands in `serialise.UNITS` to be written to JSON.
Its fields are public constants.
"""

from dataclasses import dataclass
from typing import Any, Literal, Protocol, Self, runtime_checkable

from sfumato.base import BadInput
from sfumato.plan.checks import positive, whole


@runtime_checkable
class Unit(Protocol):
    """What a plan needs to know of a unit."""

    @property
    def proved(self) -> bool:
        """Whether the two distances are proved; else every epsilon is refused."""
        ...

    @property
    def presence(self) -> float:
        """How far (L2) the sum moves when a record joins or leaves the draw."""
        ...

    @property
    def swap(self) -> float:
        """How far (L2) the sum moves when a drawn record is exchanged for another one."""
        ...

    def describe(self) -> str:
        """Return the unit in words, for the card."""
        ...

    def divisor(self, batch_size: float) -> float:
        """Return the public constant that divides the noisy sum: how many things are clipped, in expectation."""
        ...

    def largest_mean(self, batch_size: float) -> float:
        """Return the largest norm that sum / divisor has when the expected number of records agree fully."""
        ...

    def caution(self, batch_size: float) -> str | None:
        """Return what a user of this unit should hear before training at this batch size, or None."""
        ...

    def within(self, largest_draw: int | None) -> Self:
        """Return the unit for draws of at most so many records (None: unknown). Only pairs depend on it."""
        ...


@dataclass(frozen=True, kw_only=True)
class Example:
    """One example: each row's gradient g is scaled to at most `clip_norm` = C, and the scaled gradients are added.

    `clip="flat"` scales by min(1, C / |g|), `clip="automatic"` by C / (|g| + gamma) (Bu et al., NeurIPS 2023).

    Presence C and swap 2C. Proof. The loss is one value per row and rows are independent (the norm engine refuses
    others), so row i's term in the sum, v_i = s(|g_i|) g_i, is a function of row i and the weights alone. Its norm is
    min(|g|, C) <= C under flat and C |g| / (|g| + gamma) < C under automatic clipping, as gamma > 0; a row whose loss
    or gradient is not finite contributes v_i = 0. When a record joins or leaves the draw, one term appears or
    disappears and no other changes: the sum moves by |v_i| <= C. When a drawn record is exchanged, it moves by
    |v_i - v_i'| <= |v_i| + |v_i'| <= 2C. Both are attained, up to the safety margin of the clip factor, by a gradient
    of norm >= C and by two opposite ones (flat). An owner of several rows enters a draw with one of them, so the same
    holds with "record" read as "owner". With `views` = V > 1 a drawn record gives V rows (of an owner's rows each by a
    key of its own) and g is the gradient of their mean loss, scaled as one: g is still a function of that record and
    the weights alone, of norm at most C after scaling, whatever V is. QED.

    Attributes:
        clip_norm: C, in the unit of the loss per parameter.
        views: rows that each drawn record gives, clipped together.
        clip: "flat" or "automatic".
        gamma: the stability constant of automatic clipping; not used by flat clipping.

    Raises:
        BadInput: a number is not positive, or `clip` is unknown.
    """

    clip_norm: float
    views: int = 1
    clip: Literal["flat", "automatic"] = "flat"
    gamma: float = 0.01

    def __post_init__(self) -> None:
        check_clip(self)
        object.__setattr__(self, "views", whole("views", self.views))

    @property
    def proved(self) -> bool:
        """True: the proof stands above."""
        return True

    @property
    def presence(self) -> float:
        """C."""
        return self.clip_norm

    @property
    def swap(self) -> float:
        """2C."""
        return 2.0 * self.clip_norm

    def describe(self) -> str:
        """Return the unit in words, for the card."""
        whose = "row's gradient" if self.views == 1 else f"record's gradient, over {self.views} of its rows,"
        return f"example: each {whose} is scaled by {factor_in_words(self)}"

    def divisor(self, batch_size: float) -> float:
        """Return the expected batch size: one term for each record."""
        return batch_size

    def largest_mean(self, batch_size: float) -> float:
        """Return C: the mean of vectors of norm at most C."""
        del batch_size
        return self.clip_norm

    def caution(self, batch_size: float) -> str | None:
        """Return None: the distance is as small as the unit's terms."""
        del batch_size
        return None

    def within(self, largest_draw: int | None) -> Self:
        """Return the unit itself."""
        del largest_draw
        return self


@dataclass(frozen=True, kw_only=True)
class Conjectured:
    """A researcher's own rule, its distances claimed and not proved: it trains and is audited, but has no epsilon.

    The rule itself (a clip factor) is code and is handed to the training loop; the plan holds its name. Noise is drawn
    for the claimed distances, every epsilon is refused, and the card says NOT PROVED.

    Attributes:
        rule: what the rule is, in words; printed on the card.
        presence: the claimed distance when a record joins.
        swap: the claimed distance when a record is exchanged.

    Raises:
        BadInput: a distance is not positive, or the rule has no name.
    """

    rule: str
    presence: float
    swap: float

    def __post_init__(self) -> None:
        positive("presence", self.presence)
        positive("swap", self.swap)
        if not isinstance(self.rule, str) or not self.rule.strip():
            raise BadInput("a Conjectured unit needs a rule: say in words what it does.")

    @property
    def proved(self) -> bool:
        """False: the distances are claimed."""
        return False

    def describe(self) -> str:
        """Return the unit in words, for the card."""
        return f"conjectured rule ({self.rule}); claimed, not proved: presence {self.presence:g}, swap {self.swap:g}"

    def divisor(self, batch_size: float) -> float:
        """Return the expected batch size."""
        return batch_size

    def largest_mean(self, batch_size: float) -> float:
        """Return the claimed presence: as if every record could move the sum by it."""
        del batch_size
        return self.presence

    def caution(self, batch_size: float) -> str | None:
        """Return None: the distance is as small as the unit's terms."""
        del batch_size
        return None

    def within(self, largest_draw: int | None) -> Self:
        """Return the unit itself."""
        del largest_draw
        return self


def check_clip(unit: Any) -> None:
    """Raise BadInput unless clip_norm, gamma and clip of a unit are what they may be."""
    positive("clip_norm", unit.clip_norm)
    positive("gamma", unit.gamma)
    if unit.clip not in ("flat", "automatic"):
        raise BadInput(f"clip must be 'flat' or 'automatic', got {unit.clip!r}.")


def factor_in_words(unit: Any) -> str:
    """Return the clip factor of a unit for its card."""
    factor = "min(1, C/norm)" if unit.clip == "flat" else f"C/(norm + {unit.gamma:g})"
    return f"{factor}, C = {unit.clip_norm:g}"
