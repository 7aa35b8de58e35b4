"""Which facts a privacy statement must hold, and what makes a set of facts contradict itself.

The list follows NIST SP 800-226 (evaluating differential privacy guarantees) and "How to DP-fy ML" (Ponomareva et al.,
JAIR 2023): unit of privacy, neighbouring relation, sampling, mechanism, accountant, delta, who sees what, and what the
guarantee leaves out.
"""

import json
import math
from collections.abc import Mapping
from typing import Any

from sfumato.base import BadInput, Relation
from sfumato.base.rounding import upper

SECRET = "secret"
NOT_PROVED = "NOT PROVED"
NOT_PRIVATE = "NOT PRIVATE"

MANDATORY = {
    "record": "what one person contributes, in words",
    "owner_column": "the column that joins the rows of one person, or None",
    "unit": "what is clipped: example, group or pair",
    "relation": "which data sets are neighbours",
    "sampling": "how the records of a step are drawn",
    "sampling_prob": "the probability that a record is in a step",
    "mechanism": "what is done to the gradients, in words",
    "presence": "how far the sum moves when a record joins",
    "swap": "how far the sum moves when a record is exchanged",
    "noise_std": "the standard deviation of the noise on the sum",
    "noise_multiplier": "noise_std / presence",
    "divisor": "the public constant that the noisy sum is divided by",
    "accountant": "the accountant that epsilon comes from",
    "epsilon": "epsilon for the executed steps, or None under a stamp",
    "delta": "the delta that epsilon is stated at",
    "steps_executed": "the steps that the ledger holds, all attempts together",
    "steps_planned": "the steps of the plan",
    "attempts": "the attempts that the ledger holds: their number, or a list",
    "ledger_head": "the hash at the end of the ledger",
    "public": "what is declared public",
    "left_out": "what the claim leaves out",
    "looks": "unaccounted looks at the data (simulations, tuning runs); may be empty",
    "versions": "versions of the code and its libraries",
    "stamps": "NOT PROVED or NOT PRIVATE, with the reason; may be empty",
}
PUBLIC = {
    "num_records": "the number of records N, or None if it is hidden",
    "vocabulary": "where the vocabulary comes from",
    "normalisation": "where mean and standard deviation of the pictures come from",
    "initialisation": "where the first weights come from",
    "seed": f"{SECRET!r}, or what is known of the seed",
}
LEFT_OUT = {
    "tuning": "which settings were chosen on private data, and whether that is accounted",
    "evaluation": "what data the evaluation used, and whether it is public",
    "who_sees_what": "who may see export/, and who private/",
}
STANDING = {
    "floating_point": "The proof is over real numbers. Noise is drawn and added in 64-bit floating point, whose gaps "
    "can in principle be exploited (Mironov, CCS 2012).",
    "side_channels": "Run time, memory use and the files in private/ are outside the claim. A micro-batch that follows "
    "no certified path is computed row by row, which takes longer: the time of a step may depend on values of records.",
    "groups": "Records are protected one at a time. What is true of many people (a disease and how it looks) is what "
    "the model is meant to learn.",
}
_SEVERAL_ROWS = (
    "No owner column was given: a person who contributed several rows is protected less, with an epsilon that grows "
    "more than in proportion to the number of rows."
)


def _require(facts: Mapping[str, Any], names: Mapping[str, str], where: str) -> None:
    for name, meaning in names.items():
        if name not in facts:
            raise BadInput(f"the privacy card lacks the fact {where + name!r} ({meaning}).")


def _check_number(facts: Mapping[str, Any], name: str, low: float, high: float = math.inf) -> None:
    value = facts[name]
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not (is_number and low <= value <= high):
        raise BadInput(f"the privacy card's fact {name!r} must be a finite number >= {low:g}, got {value!r}.")


def _check_noise(facts: Mapping[str, Any], proved: bool) -> None:
    """A distance may be unknown only where nothing is proved; the multiplier is always std / presence."""
    for name in ("presence", "swap", "noise_std", "noise_multiplier"):
        if facts[name] is not None or proved:
            _check_number(facts, name, 0.0)
    parts = [facts[name] for name in ("noise_multiplier", "presence", "noise_std")]
    if None not in parts and not math.isclose(parts[0] * parts[1], parts[2], rel_tol=1e-6):
        raise BadInput(
            f"the privacy card contradicts itself: noise_multiplier {parts[0]} times presence {parts[1]} "
            f"is not noise_std {parts[2]}."
        )


def stamps(facts: Mapping[str, Any]) -> list[str]:
    """Return the stamps that are given, and those that follow from the facts: a seed not secret, no noise."""
    found = list(facts["stamps"])
    for stamp in found:
        if not stamp.startswith((f"{NOT_PROVED}: ", f"{NOT_PRIVATE}: ")):
            raise BadInput(f"a stamp reads 'NOT PROVED: reason' or 'NOT PRIVATE: reason', got {stamp!r}.")
    if facts["public"]["seed"] != SECRET and not any("seed" in stamp for stamp in found):
        found.append(f"{NOT_PRIVATE}: public seed")
    if facts["noise_std"] == 0 and not any("noise" in stamp for stamp in found):
        found.append(f"{NOT_PRIVATE}: no noise was added")
    return found


def _check_claim(facts: Mapping[str, Any], found: list[str]) -> None:
    epsilon = facts["epsilon"]
    if epsilon is None and not found:
        raise BadInput("the privacy card has no epsilon and no stamp that says why.")
    if epsilon is not None:
        _check_number(facts, "epsilon", 0.0)
        if any(stamp.startswith(NOT_PROVED) for stamp in found):
            raise BadInput("the privacy card is stamped NOT PROVED, so it may not state an epsilon.")
    if facts["relation"] not in list(Relation):
        raise BadInput(f"unknown relation {facts['relation']!r}: one of {', '.join(Relation)}.")
    if facts["relation"] == Relation.ADD_REMOVE and facts["public"]["num_records"] is not None:
        raise BadInput("relation add_remove hides the number of records, but the card would publish it: use zero_out.")


def check(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return a complete copy of `facts`: stamps that follow are added, and the standing limits of any run.

    Raises:
        BadInput: a mandatory fact is missing (the message names it), or two facts contradict one another.
    """
    _require(facts, MANDATORY, "")
    _require(facts["public"], PUBLIC, "public.")
    _require(facts["left_out"], LEFT_OUT, "left_out.")
    found = stamps(facts)
    proved = not any(stamp.startswith(NOT_PROVED) for stamp in found)
    for name in ("sampling_prob", "delta"):
        if facts[name] is not None or proved:
            _check_number(facts, name, 0.0, 1.0)
    for name in ("steps_executed", "steps_planned", "divisor"):
        _check_number(facts, name, 0.0)
    if not facts["attempts"]:
        raise BadInput("the privacy card's fact 'attempts' is empty: nothing was run.")
    _check_noise(facts, proved)
    _check_claim(facts, found)
    left_out = {**STANDING, **facts["left_out"]}
    if facts["owner_column"] is None:
        left_out.setdefault("several_rows", _SEVERAL_ROWS)
    complete = {**facts, "stamps": found, "left_out": left_out, "warnings": _warnings(facts)}
    try:
        return json.loads(json.dumps(complete, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise BadInput(f"the privacy card holds a fact that is not plain JSON: {error}.") from error


def _warnings(facts: Mapping[str, Any]) -> list[str]:
    found = list(facts.get("warnings", []))
    num_records = facts["public"]["num_records"]
    if num_records and facts["delta"] is not None and facts["delta"] >= 1 / num_records:
        found.append(
            f"delta {upper(facts['delta'])} is not below 1/N = {1 / num_records:.3g}: "
            "publishing one whole record, picked at random, would satisfy it."
        )
    return list(dict.fromkeys(found))
