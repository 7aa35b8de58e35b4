"""A plan in words and figures, for the planner's table and for the card of a run."""

import math
from functools import lru_cache
from typing import Any

from sfumato import accounting
from sfumato.base import BadInput, Relation
from sfumato.base.rounding import upper
from sfumato.plan.plan import Plan
from sfumato.sampling import FixedSize, FullBatch

FALSE_POSITIVE_RATE = 0.01
NUM_PARAMETERS = {
    "pico": 130_000,
    "micro": 170_000,
    "nano": 20_800_000,
    "tiny": 59_400_000,
    "small": 115_700_000,
    "base": 189_800_000,
    "large": 407_400_000,
}
"""Trainable parameters of the captioner's sizes, rounded: they enter the signal-to-noise ratio under a root.

With a vocabulary of 30,522 words, but for pico and micro: those are for the few hundred words of the built-in captions.
"""

NOT_COVERED: tuple[str, ...] = (
    "Groups: records are protected one at a time. A person behind several records (that no owner column joins) is "
    "protected less, and what is true of many people is what the model is meant to learn.",
    "Tuning: every run on the same records, also one that is thrown away or simulated at less noise, is a further "
    "look. The epsilon of one run does not cover the choice among several.",
    "What was fixed before training: vocabulary, normalisation, initial weights, prompts and deduplication are covered "
    "only as far as they came from public data.",
    "Evaluation: scores and pictures shown from private data are not covered.",
    "Who holds the private folder: seed, logs and draws are outside the claim; the claim is about what is exported.",
    "Floating point and side channels: the proof is over real numbers; run time and memory are not considered.",
)


def not_covered(plan: Plan) -> list[str]:
    """Return, as sentences, what the plan's epsilon does not cover."""
    found: list[str] = list(NOT_COVERED)
    if plan.relation is Relation.ADD_REMOVE:
        found.append(
            "The number of records is protected only if it is nowhere printed. "
            f"delta = {upper(plan.delta)} has to be well below 1 / N, which cannot be checked here."
        )
    elif plan.sampler.num_records is not None:
        found.append(f"The number of records, {plan.sampler.num_records:,}, is public.")
    return found


def epochs(plan: Plan) -> float:
    """Return how often a record takes part, in expectation: steps x sampling_prob."""
    return plan.steps * plan.sampling_prob


def noise_per_coordinate(plan: Plan) -> float:
    """Return the std of the noise on one coordinate of the mean gradient: noise_std / divisor."""
    return plan.noise_std / plan.divisor


def tan_eta(plan: Plan) -> float | None:
    """Return eta of the plan (total amount of noise), None without noise."""
    if not plan.noise_multiplier:
        return None
    return accounting.tan_eta(plan.sampling_prob, plan.steps, plan.noise_multiplier)


@lru_cache(maxsize=256)
def max_true_positive_rate(plan: Plan, steps: int | None = None) -> float | None:
    """Return the largest true-positive rate of any membership test at 1 % false positives, after `steps` steps.

    From the whole privacy loss distribution; None where the sampler has none.

    Raises:
        Refused: the plan carries no epsilon.
    """
    plan.check_proved()
    if not accounting.supported(plan.step_event, "pld"):
        return None
    count = plan.steps if steps is None else steps
    return accounting.max_true_positive_rate([(plan.step_event, count)], FALSE_POSITIVE_RATE)


def num_parameters(size: str) -> int:
    """Return the number of trainable parameters of a captioner's size. Raises BadInput for an unknown one."""
    if size not in NUM_PARAMETERS:
        raise BadInput(f"unknown size {size!r}: one of {', '.join(NUM_PARAMETERS)}.")
    return NUM_PARAMETERS[size]


def figures(plan: Plan, parameters: int) -> dict[str, Any]:
    """Return what the planner shows of one plan beside its summary: plain JSON values, None where there is none."""
    claimed = plan.claim(plan.steps).epsilon is not None
    return {
        "expected_batch_size": plan.sampler.expected_batch_size,
        "epochs": epochs(plan),
        "num_parameters": parameters,
        "signal_to_noise": _finite(plan.signal_to_noise(parameters)),
        "noise_per_coordinate": noise_per_coordinate(plan),
        "max_true_positive_rate": max_true_positive_rate(plan) if claimed else None,
        "tan_eta": tan_eta(plan),
        "warnings": plan.warnings_for(parameters),
        "not_covered": not_covered(plan),
    }


def describe_sampling(plan: Plan) -> str:
    """Return the sampler in words; a hidden number of records is not named."""
    sampler = plan.sampler
    if isinstance(sampler, FullBatch):
        return f"all {sampler.num_records:,} records in every step"
    if isinstance(sampler, FixedSize):
        return (
            f"{sampler.batch_size:,} of {sampler.num_records:,} records, uniformly without replacement, anew each step"
        )
    words = f"Poisson: each record independently with probability {plan.sampling_prob:.6g}, anew each step"
    if sampler.cap is not None:
        words += f"; of a larger draw a uniform subset of {sampler.cap:,}"
    return words


def check_claim(plan: Plan) -> None:
    """Compute whatever the card of a finished run states by an accountant, so that what fails does so before step 1.

    A plan that claims nothing (a simulation, a conjecture, no noise) has nothing to fail.

    Raises:
        Refused: an accountant that the card names has no figure for all planned steps.
    """
    claim = plan.claim(plan.steps)
    if claim.epsilon is not None:
        max_true_positive_rate(plan, claim.steps_charged)


def plan_facts(plan: Plan) -> dict[str, Any]:
    """Return what a card states of the plan itself, in the card's keys: plain JSON values, whatever was executed."""
    return {
        "unit": plan.unit.describe(),
        "relation": str(plan.relation),
        "sampling": describe_sampling(plan),
        "sampling_prob": plan.sampling_prob,
        "expected_batch_size": plan.sampler.expected_batch_size,
        "mechanism": f"sum of clipped terms, Gaussian noise of std {plan.noise_std:.6g} on every coordinate, "
        f"divided by the public constant {plan.divisor:g}",
        "presence": plan.presence,
        "swap": plan.swap,
        "noise_std": plan.noise_std,
        "noise_multiplier": plan.noise_multiplier,
        "divisor": plan.divisor,
        "delta": plan.delta,
        "steps_planned": plan.steps,
        "tan_eta": tan_eta(plan),
        "num_records": plan.sampler.num_records,
        "is_simulation": plan.is_simulation,
        "warnings": plan.warnings,
        "not_covered": not_covered(plan),
    }


def card_facts(plan: Plan, steps_executed: int, *, stop_was_public: bool = False) -> dict[str, Any]:
    """Return what the plan knows of a run's card, in the card's keys: plain JSON values.

    Args:
        plan: the plan of the run.
        steps_executed: all executed steps, all attempts together.
        stop_was_public: see `Plan.claim`.

    Raises:
        Refused: an accountant that the card names has no figure for these steps; `check_claim` says so beforehand.
    """
    claim = plan.claim(steps_executed, stop_was_public=stop_was_public)
    rate = None if claim.epsilon is None else max_true_positive_rate(plan, claim.steps_charged)
    return {
        **plan_facts(plan),
        "accountant": claim.accountant or "none",
        "epsilon": claim.epsilon,
        "epsilon_pld": claim.epsilon_pld,
        "epsilon_rdp": claim.epsilon_rdp,
        "max_true_positive_rate": rate,
        "steps_executed": claim.steps_executed,
        "steps_charged": claim.steps_charged,
        "stamps": list(claim.stamps),
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
