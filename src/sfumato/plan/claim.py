"""What may be said of a run."""

from dataclasses import dataclass

from sfumato.accounting import Accountant
from sfumato.base import Relation
from sfumato.base.rounding import upper

_PROTECTS = {
    Relation.ADD_REMOVE: "whether or not one record is in the data",
    Relation.ZERO_OUT: "whether or not one record takes part (the number of records is public)",
    Relation.REPLACE_ONE: "which of two records is in the data (their number is public)",
}


@dataclass(frozen=True, kw_only=True)
class Claim:
    """(epsilon, delta) for the charged steps, or the stamps that say why there is none.

    Attributes:
        steps_executed: what was executed, all attempts together.
        steps_planned: what the plan says.
        steps_charged: what epsilon is computed for.
        epsilon: by `accountant`; None under a stamp, as are the two below (also where unsupported).
        epsilon_pld: by privacy loss distributions.
        epsilon_rdp: by Renyi DP.
        delta: the delta of the claim.
        accountant: "pld" or "rdp"; None under a stamp.
        relation: which data sets are neighbours.
        unit: what is clipped, in words.
        stamps: "NOT PROVED: ..." or "NOT PRIVATE: ..."; empty if something is claimed.
    """

    steps_executed: int
    steps_planned: int
    steps_charged: int
    epsilon: float | None
    epsilon_pld: float | None
    epsilon_rdp: float | None
    delta: float
    accountant: Accountant | None
    relation: Relation
    unit: str
    stamps: tuple[str, ...] = ()

    @property
    def sentence(self) -> str:
        """The claim, or that there is none, in one sentence."""
        if self.epsilon is None:
            return f"{'. '.join(self.stamps)}. No epsilon is claimed."
        charged = f"{self.steps_charged:,} charged steps"
        if self.steps_charged != self.steps_executed:
            charged += f" ({self.steps_executed:,} executed)"
        return (
            f"({upper(self.epsilon)}, {upper(self.delta)})-differential privacy for {_PROTECTS[self.relation]}, "
            f"after {charged}, accountant {self.accountant}."
        )
