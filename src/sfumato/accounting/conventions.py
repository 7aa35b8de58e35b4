"""What each accountant is given for each (sampler, relation): the only place that converts conventions.

dp_accounting measures noise in two different units, and says so in neither signature:

* A privacy loss distribution (PLD) takes std over the distance of a record that JOINS OR LEAVES, whatever the relation.
  Under REPLACE_ONE it doubles the distance by itself: it compares (1-q) N(0, s^2) + q N(1, s^2) with
  (1-q) N(0, s^2) + q N(-1, s^2). So it is given std / presence. Exchanging a record never moves a sum by more than
  2 presence (take the record out, put the other in), so the pair above is the worst one, whatever `swap` says.
* The full batch has no "joining": its two sums lie `swap` apart. The same function at q = 1 compares N(1, s^2) with
  N(-1, s^2), at distance 2; it is given 2 std / swap.
* The RDP accountant for sampling without replacement, and for the plain Gaussian, takes std over the distance of an
  EXCHANGED record: std / swap. For Poisson under ADD_REMOVE and ZERO_OUT it takes std / presence.

One Gaussian with multiplier 5 reads 1.77 under the one convention and 0.90 under the other.

| draw | relation | PLD | RDP |
|---|---|---|---|
| Poisson | ADD_REMOVE, ZERO_OUT | std / presence | std / presence |
| Poisson | REPLACE_ONE | std / presence | refused |
| Poisson with a cap | as Poisson, not ADD_REMOVE | as Poisson at delta - delta_c, or truncated | at delta - delta_c |
| fixed size | REPLACE_ONE, ZERO_OUT | refused | std / swap |
| full batch | REPLACE_ONE | 2 std / swap | std / swap |

Fixed size under ZERO_OUT is charged as REPLACE_ONE: when the record is not drawn, a batch-mate takes its seat, so the
sums with and without it differ by an exchange, too.

The cap (`delta_c`). Let E be the event that at least `cap` of the OTHER N-1 records are drawn in some step. E does not
depend on the record in question, and outside of E nothing is cut, with the record or without. Condition on the
draws of the others in all steps. Outside of E each such conditional mechanism is the subsampled Gaussian, so it is
(epsilon, delta')-DP, and so is their mixture (joint convexity); E itself costs at most its probability. Hence
(epsilon, delta' + P(E)), with P(E) <= delta_c = steps x P(Bin(N-1, q) >= cap). The truncated event (arXiv 2508.15089)
mixes, per step, the plain pair outside of E with, inside of E, a pair at twice the distance: there the record takes
a batch-mate's seat. Given E the batch is a uniform subset of fixed size, whose seats are taken with one probability
that is known exactly. Pairwise distances inside E are at most max(presence, swap), which has to be <= 2 presence. It is
never worse than delta_c, and is taken where that holds; a cap so high that P(E) is below 1e-17 a step is charged to
delta, which costs no digit of epsilon and a tenth of the time.
"""

from dataclasses import dataclass
from typing import Literal

import dp_accounting
from dp_accounting import NeighboringRelation as NeighborRel
from scipy.stats import binom

from sfumato.base import (
    CappedPoissonDraw,
    Draw,
    FixedSizeDraw,
    FullBatchDraw,
    GaussianStep,
    PoissonDraw,
    Refused,
    Relation,
)

Accountant = Literal["pld", "rdp"]

_DRAW_NAMES: dict[type, str] = {
    PoissonDraw: "Poisson sampling",
    CappedPoissonDraw: "Poisson sampling with a cap",
    FixedSizeDraw: "fixed-size sampling",
    FullBatchDraw: "the full batch",
}
_SUPPORTED: dict[type, dict[Relation, tuple[Accountant, ...]]] = {
    PoissonDraw: {
        Relation.ADD_REMOVE: ("pld", "rdp"),
        Relation.ZERO_OUT: ("pld", "rdp"),
        Relation.REPLACE_ONE: ("pld",),
    },
    CappedPoissonDraw: {Relation.ZERO_OUT: ("pld", "rdp"), Relation.REPLACE_ONE: ("pld",)},
    FixedSizeDraw: {Relation.REPLACE_ONE: ("rdp",), Relation.ZERO_OUT: ("rdp",)},
    FullBatchDraw: {Relation.REPLACE_ONE: ("pld", "rdp")},
}
_WHY_NO_RELATION: dict[tuple[type, Relation], str] = {
    (CappedPoissonDraw, Relation.ADD_REMOVE): "the charge of a cap depends on N, which add_remove hides",
    (FixedSizeDraw, Relation.ADD_REMOVE): "the number of drawn records is a fixed share of a public N",
    (FullBatchDraw, Relation.ADD_REMOVE): "the number of records is public",
    (FullBatchDraw, Relation.ZERO_OUT): "its event is stated for an exchanged record",
}
_NEGLIGIBLE = 1e-17  # over 10^6 steps 1e-11, where delta is 1e-7 or so
_SWAP_SLACK = 1e-9  # presence and swap are products of floats: 2 * C may differ from swap in its last bit
_LARGEST_PLD, _LARGEST_RDP, _LEAST_PROB = 1e12, 1e6, 1e-15
"""More noise, and rarer draws, count as this much: upper bounds, where the accountants' arithmetic would break down."""
_PLD_RELATIONS = {
    Relation.ADD_REMOVE: NeighborRel.ADD_OR_REMOVE_ONE,
    Relation.ZERO_OUT: NeighborRel.REPLACE_SPECIAL,
    Relation.REPLACE_ONE: NeighborRel.REPLACE_ONE,
}


@dataclass(frozen=True, kw_only=True)
class PldTerms:
    """One step in the words of dp_accounting's privacy loss distributions.

    Attributes:
        noise_multiplier: std over the distance of a joining record (see the head of this file).
        sampling_prob: q; 1 for the full batch.
        relation: dp_accounting's relation.
        truncation: (N, cap) if the truncated event is used, else None.
        delta: what one step takes from delta.
    """

    noise_multiplier: float
    sampling_prob: float
    relation: NeighborRel
    truncation: tuple[int, int] | None = None
    delta: float = 0.0

    @property
    def is_gaussian(self) -> bool:
        """Whether nothing is drawn: T such steps are one Gaussian with the noise divided by sqrt(T)."""
        return self.sampling_prob == 1.0 and self.truncation is None


@dataclass(frozen=True, kw_only=True)
class RdpTerms:
    """One step as a dp_accounting event for the RDP accountant under `relation`; `delta` as in `PldTerms`."""

    event: dp_accounting.DpEvent
    relation: NeighborRel
    delta: float = 0.0


def supported(step: GaussianStep, accountant: Accountant) -> bool:
    """Return whether `accountant` has a proved charge for this step's draw and relation."""
    return accountant in _SUPPORTED[type(step.draw)].get(step.relation, ())


def check_supported(step: GaussianStep, accountant: Accountant) -> None:
    """Raise Refused, naming the combination and the nearest supported one, unless the step has a proved charge."""
    if accountant not in ("pld", "rdp"):
        raise Refused(f"unknown accountant {accountant!r}: one of 'pld', 'rdp'.")
    if supported(step, accountant):
        return
    draw, relations = type(step.draw), _SUPPORTED[type(step.draw)]
    if step.relation in relations:
        raise Refused(
            f"{_DRAW_NAMES[draw]} under {step.relation} has no proved {accountant.upper()} charge: "
            f"use accountant {relations[step.relation][0]!r}."
        )
    nearest = next(iter(relations))
    raise Refused(
        f"{_DRAW_NAMES[draw]} under {step.relation} is not supported ({_WHY_NO_RELATION[draw, step.relation]}): "
        f"use relation {str(nearest)!r} with accountant {' or '.join(map(repr, relations[nearest]))}."
    )


def cap_overflow(draw: Draw) -> float:
    """Return P(Bin(N-1, q) >= cap): how probable it is that one step's draw of the others already fills the cap."""
    if not isinstance(draw, CappedPoissonDraw):
        return 0.0
    return float(binom.sf(draw.cap - 1, draw.num_records - 1, draw.sampling_prob))


def pld_terms(step: GaussianStep) -> PldTerms:
    """Return what a privacy loss distribution is given for one step. Raises Refused outside the table."""
    check_supported(step, "pld")
    relation = _PLD_RELATIONS[step.relation]
    draw, multiplier = step.draw, min(step.std / step.presence, _LARGEST_PLD)
    if isinstance(draw, FullBatchDraw):
        multiplier = min(2.0 * step.std / step.swap, _LARGEST_PLD)
        return PldTerms(noise_multiplier=multiplier, sampling_prob=1.0, relation=relation)
    assert isinstance(draw, PoissonDraw | CappedPoissonDraw)
    terms = {
        "noise_multiplier": multiplier,
        "sampling_prob": max(draw.sampling_prob, _LEAST_PROB),
        "relation": relation,
    }
    overflow = cap_overflow(draw)
    if isinstance(draw, PoissonDraw) or overflow == 0.0:
        return PldTerms(**terms)
    if overflow > _NEGLIGIBLE and step.swap <= 2.0 * step.presence * (1.0 + _SWAP_SLACK):
        return PldTerms(**terms, truncation=(draw.num_records, draw.cap))
    return PldTerms(**terms, delta=overflow)


def rdp_terms(step: GaussianStep) -> RdpTerms:
    """Return what the RDP accountant is given for one step. Raises Refused outside the table."""
    check_supported(step, "rdp")
    draw = step.draw
    if isinstance(draw, FullBatchDraw):
        return RdpTerms(event=_gaussian_event(step.std, step.swap), relation=NeighborRel.REPLACE_ONE)
    if isinstance(draw, FixedSizeDraw):
        # Under ZERO_OUT the null record is one of the records that may be exchanged, at distance presence.
        distance = step.swap if step.relation is Relation.REPLACE_ONE else max(step.swap, step.presence)
        event = dp_accounting.SampledWithoutReplacementDpEvent(
            draw.num_records, draw.batch_size, _gaussian_event(step.std, distance)
        )
        return RdpTerms(event=event, relation=NeighborRel.REPLACE_ONE)
    event = dp_accounting.PoissonSampledDpEvent(draw.sampling_prob, _gaussian_event(step.std, step.presence))
    return RdpTerms(event=event, relation=_PLD_RELATIONS[step.relation], delta=cap_overflow(draw))


def _gaussian_event(std: float, distance: float) -> dp_accounting.GaussianDpEvent:
    return dp_accounting.GaussianDpEvent(min(std / distance, _LARGEST_RDP))
