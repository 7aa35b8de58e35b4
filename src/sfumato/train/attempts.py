"""Which attempt a run goes on with, and whether a step is charged, replayed or in conflict. Runs on rank 0.

An attempt is a promise: one fingerprint, one set of keys, each step at most once. A step that was charged may be
computed again, after a crash, if weights and clipped sum come out equal: then it gives the same bits and costs
nothing. Whatever would give other bits belongs to a new attempt, with new draws and noise, and is charged again.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, NoReturn

from sfumato.base import BadInput, Refused
from sfumato.base.ledger import Ledger
from sfumato.base.rounding import upper
from sfumato.plan import Plan, check_claim
from sfumato.plan.spent import DECLARED, QUICK, spent
from sfumato.train import fingerprint

_HOW = "To go on all the same, pass --new-attempt (in Python accept_new_attempt=True)."


class Verdict(StrEnum):
    """What the ledger says of a step that was just computed."""

    CHARGE = "charge"
    REPLAY = "replay"
    CONFLICT = "conflict"


def join(ledger: Ledger, fields: Mapping[str, Any], plan: Plan, *, step: int, accept: bool) -> tuple[int, str]:
    """Return the attempt to go on with, its number and its own fingerprint: the last one, or a new one if it changed.

    Raises:
        BadInput: steps were charged under another fingerprint, and a new attempt was not accepted. The message names
            each field that differs, and what going on would cost.
        Refused: what the run's card needs cannot be computed for the planned steps: nothing is spent on it.
    """
    attempts, digest = ledger.history.attempts, fingerprint.digest(fields)
    if attempts and (attempts[-1].fingerprint == digest or step >= plan.steps):
        # A run that is done goes on with nothing, under whatever versions. Its fingerprint stays in its keys: should it
        # be taken back to an earlier checkpoint, a step that is computed again must get the noise it had.
        return attempts[-1].number, attempts[-1].fingerprint
    if ledger.history.steps and not accept:
        hidden = "data." if plan.sampler.num_records is None else "\0"  # N is not public under ADD_REMOVE
        named = "; ".join(fingerprint.differences(attempts[-1].fields, fields, hidden))
        raise BadInput(f"this run was begun with other settings: {named}. {_cost(ledger, plan, step)} {_HOW}")
    if DECLARED not in fields:
        check_claim(plan)
    return open_attempt(ledger, fields, plan, step=step), digest


def open_attempt(ledger: Ledger, fields: Mapping[str, Any], plan: Plan, *, step: int) -> int:
    """Write a new attempt that starts at `step`, and return its number."""
    return ledger.attempt(fingerprint=fingerprint.digest(fields), fields=fields, plan=plan.to_json(), start_step=step)


def judge(ledger: Ledger, attempt: int, step: int, weights: str, clipped_sum: str) -> Verdict:
    """Compare a computed step with what the ledger holds of it."""
    entry = ledger.history.steps.get((attempt, step))
    if entry is None:
        return Verdict.CHARGE
    return Verdict.REPLAY if (entry.weights, entry.clipped_sum) == (weights, clipped_sum) else Verdict.CONFLICT


def refuse_conflict(ledger: Ledger, plan: Plan, *, step: int) -> NoReturn:
    """Raise BadInput for a charged step that came out otherwise, naming the cost of charging it again."""
    raise BadInput(
        f"step {step} was already charged, and does not come out the same this time (other weights, data or rounding), "
        f"so nothing was released. Load the last checkpoint first (private.load). {_cost(ledger, plan, step)} {_HOW}"
    )


def _cost(ledger: Ledger, plan: Plan, step: int) -> str:
    more = plan.steps - step
    try:
        now = spent(ledger.history).epsilon(discretization=QUICK)
        then = spent(ledger.history, more=(plan, more)).epsilon(discretization=QUICK)
    except Refused as error:
        return f"No epsilon can be given: {error}"
    return (
        f"So far epsilon is {upper(now)}; a new attempt draws anew and charges {more:,} step{'s' * (more != 1)} more, "
        f"which brings it to {upper(then)} at delta {upper(plan.delta)}."
    )
