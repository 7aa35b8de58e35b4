"""Units of losses that couple rows: groups and pairs, with the proofs of their distances."""

import math
from dataclasses import dataclass, replace
from typing import Literal, Self

from sfumato.base import BadInput
from sfumato.plan.checks import positive, whole
from sfumato.plan.contrast import ConjecturedLoss, InfoNCE, PairLoss, Sigmoid, SpreadOut
from sfumato.plan.units import check_clip, factor_in_words

_VACUOUS = 0.5


@dataclass(frozen=True, kw_only=True)
class Group:
    """Groups of records: every group's gradient is scaled to at most `clip_norm` = C, and the scaled ones are added.

    A drawn record enters one of `num_groups` = m groups by an independent uniform id. The loss may couple the records
    of a group (in-batch negatives); it does not see other groups. One group of everything is batch clipping (DP-CLIP,
    arXiv 2306.08173), many small ones are DP-GCL (arXiv 2604.26467).

    Presence 2C and swap 2C. Proof. The id of a record is a function of its own place in the data set, of the step and
    of the secret seed, never of content or of who else was drawn, and m is fixed. Condition on the draw and the ids of
    all other records and on its own id g. The sum is sum_h v_h, v_h = s(|G_h|) G_h a function of the records of group h
    alone, |v_h| <= C; an empty group, one whose loss is undefined, and one whose gradient is not finite contribute
    zero. A record that joins, leaves or is exchanged changes group g and no other, so the sum moves by
    |v_g - v_g'| <= 2C. (It is 2C and not C: the clipped gradient of a group can turn to its opposite.) The bound holds
    for every value of the conditioned variables, which are distributed alike in both data sets; by joint convexity it
    holds for the mixture, and Poisson sampling amplifies it as for a single record. Where at a fixed size another
    record takes the seat, the two may be given one id, as ids are fresh and uniform in every step. Attained, up to the
    safety margin, by a group of two whose second member outweighs the first. Several views of a record are rows of its
    own group and change nothing in this. QED.

    What would break it: ids by position in the shuffled draw (a joining record shifts the others), by content (an
    exchanged record leaves one group and enters another: 4C), or re-balanced sizes.

    Attributes:
        clip_norm: C.
        num_groups: m >= 1, a public constant.
        views: rows that each drawn record gives, by keys of their own (of an owner's rows each draws one); they meet
            rows of other records only.
        clip, gamma: as for `Example`, with the group's norm.

    Raises:
        BadInput: a number is out of range, or `clip` is unknown.
    """

    clip_norm: float
    num_groups: int
    views: int = 1
    clip: Literal["flat", "automatic"] = "flat"
    gamma: float = 0.01

    def __post_init__(self) -> None:
        check_clip(self)
        object.__setattr__(self, "num_groups", whole("num_groups", self.num_groups))
        object.__setattr__(self, "views", whole("views", self.views))

    @property
    def proved(self) -> bool:
        """True: the proof stands above."""
        return True

    @property
    def presence(self) -> float:
        """2C."""
        return 2.0 * self.clip_norm

    @property
    def swap(self) -> float:
        """2C."""
        return 2.0 * self.clip_norm

    def describe(self) -> str:
        """Return the unit in words, for the card."""
        which = "the whole batch's gradient" if self.num_groups == 1 else "each group's gradient"
        return (
            f"group: records are put into {self.num_groups:,} groups by independent uniform ids, "
            f"{which} is scaled by {factor_in_words(self)}"
            + (f"; {self.views} views of each record" if self.views > 1 else "")
        )

    def divisor(self, batch_size: float) -> float:
        """Return m: one term for each group."""
        del batch_size
        return float(self.num_groups)

    def largest_mean(self, batch_size: float) -> float:
        """Return C times the expected share of groups that are not empty."""
        filled = -math.expm1(-batch_size / self.num_groups)
        return self.clip_norm * filled

    def caution(self, batch_size: float) -> str | None:
        """Return None: the distance is as small as the unit's terms."""
        del batch_size
        return None

    def within(self, largest_draw: int | None) -> Self:
        """Return the unit itself."""
        del largest_draw
        return self


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Pairs of records: the gradient of every similarity Z_ij is scaled to at most `clip_norm` = B; then the loss's own
    weights D_ij = dL / dZ_ij are applied, and all n^2 terms are added (Logit-DP, arXiv 2310.03104).

    Presence B x loss.joining(n) and swap B x loss.exchanging(n); the proofs stand with the losses. A record whose
    embedding is not finite leaves before the similarities are formed, as if it had not been drawn; exchanging it for a
    proper one is then a joining, which is never more than an exchange. If the *gradients* of a record are not finite,
    its row and column are left out of the sum in the same way. What the bound needs besides: the plain loss of all
    pairs (no masks, no multi-positive targets, no top-k or rank-local negatives), and unit-norm embeddings.

    Attributes:
        clip_norm: B, in the unit of one similarity per parameter.
        loss: its constants and bounds; a `ConjecturedLoss` makes the unit unproved.
        norms: "exact", or "bound": for a shared encoder the norm of a pair's gradient by the triangle inequality, which
            clips a little more and costs less.
        largest_draw: n, the largest number of records in a draw. The plan sets it from its sampler; None where that
            knows no limit, and then the bounds for every n hold, if the loss has them.

    Raises:
        BadInput: a number is out of range, or the loss has no bound for unlimited draws.
    """

    clip_norm: float
    loss: PairLoss
    norms: Literal["exact", "bound"] = "exact"
    largest_draw: int | None = None

    def __post_init__(self) -> None:
        positive("clip_norm", self.clip_norm)
        if not isinstance(self.loss, InfoNCE | Sigmoid | SpreadOut | ConjecturedLoss):
            raise BadInput(
                f"loss must be InfoNCE, Sigmoid or SpreadOut, got {self.loss!r}: one's own loss, with claimed bounds, "
                "is a ConjecturedLoss."
            )
        if self.norms not in ("exact", "bound"):
            raise BadInput(f"norms must be 'exact' or 'bound', got {self.norms!r}.")
        if self.largest_draw is not None:
            object.__setattr__(self, "largest_draw", whole("largest_draw", self.largest_draw))

    @property
    def proved(self) -> bool:
        """Whether the loss's bounds are proved."""
        return not isinstance(self.loss, ConjecturedLoss)

    @property
    def presence(self) -> float:
        """B x loss.joining(n)."""
        return self.clip_norm * self.loss.joining(self.largest_draw)

    @property
    def swap(self) -> float:
        """B x loss.exchanging(n)."""
        return self.clip_norm * self.loss.exchanging(self.largest_draw)

    def describe(self) -> str:
        """Return the unit in words, for the card."""
        n = "any number of" if self.largest_draw is None else f"at most {self.largest_draw:,}"
        return (
            f"pair: the gradient of each similarity is scaled by min(1, B/norm), B = {self.clip_norm:g}; "
            f"{self.loss.describe()}; {n} records in a draw"
        )

    def divisor(self, batch_size: float) -> float:
        """Return the expected batch size: the losses add up one term for each record."""
        return batch_size

    def largest_mean(self, batch_size: float) -> float:
        """Return B times the largest total weight over the batch size."""
        return self.clip_norm * self.loss.largest_weight(max(1, round(batch_size))) / batch_size

    def caution(self, batch_size: float) -> str | None:
        """Return a sentence where one record may move the sum by half of what all records together can add up to."""
        n = max(2, round(batch_size))
        share = self.loss.joining(self.largest_draw) / self.loss.largest_weight(n)
        if share < _VACUOUS or not isinstance(self.loss, InfoNCE):
            return None
        tau, ratio = self.loss.temperature, self.loss.ratio
        return (
            f"at temperature {tau:g} one record may move the sum by {min(share, 1.0):.0%} of what {n:,} records can "
            "add up to: the bound is vacuous, no better than clipping the whole batch. It would take many more than "
            f"e^(2/temperature) = {ratio:.3g} records in a batch, or a temperature of "
            f"{2.0 / math.log(n / 4.0 + 2.0):.2g} or more, or the unit Group."
        )

    def within(self, largest_draw: int | None) -> Self:
        """Return the unit with n = `largest_draw`.

        Raises:
            BadInput: the loss has no bound for unlimited draws.
        """
        found = replace(self, largest_draw=largest_draw)
        if math.isinf(found.presence):
            raise BadInput(
                f"{self.loss.describe()} needs a public largest number of records in a draw: fixed-size sampling, or "
                "Poisson with a cap or with num_records."
            )
        return found
