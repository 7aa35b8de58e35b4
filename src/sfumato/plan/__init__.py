"""The promise in numbers: unit, sampler, noise and accountant in one frozen `Plan`. Imports no torch."""

from sfumato.plan.claim import Claim
from sfumato.plan.contrast import ConjecturedLoss, InfoNCE, PairLoss, Sigmoid, SpreadOut
from sfumato.plan.coupled import Group, Pair
from sfumato.plan.defaults import default_batch_size, default_steps
from sfumato.plan.explain import card_facts, check_claim, describe_sampling, figures, num_parameters, plan_facts
from sfumato.plan.grid import epsilon_grid
from sfumato.plan.plan import Plan
from sfumato.plan.units import Conjectured, Example, Unit

__all__ = [
    "Claim",
    "Conjectured",
    "ConjecturedLoss",
    "Example",
    "Group",
    "InfoNCE",
    "Pair",
    "PairLoss",
    "Plan",
    "Sigmoid",
    "SpreadOut",
    "Unit",
    "card_facts",
    "check_claim",
    "default_batch_size",
    "default_steps",
    "describe_sampling",
    "epsilon_grid",
    "figures",
    "num_parameters",
    "plan_facts",
]
