"""Epsilon of what was run, read off the ledger: all steps of all attempts, whichever checkpoint is kept in the end."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from sfumato import accounting
from sfumato.accounting import Accountant
from sfumato.base import GaussianStep, Refused
from sfumato.base.history import Attempt, BrokenLedger, History
from sfumato.base.rounding import upper
from sfumato.plan.plan import Plan

DECLARED = "batches.declared"
"""Field of an attempt whose micro-batches were not drawn by `loader`."""

EXACT, QUICK = 1e-4, 1e-3  # discretization of the privacy loss: a second, or a tenth of one for .01 % more epsilon


@dataclass(frozen=True, kw_only=True)
class Spent:
    """What the ledger charges, ready for an accountant.

    Attributes:
        steps: each attempt's event and how often it was executed.
        delta: of the latest plan.
    """

    steps: tuple[tuple[GaussianStep, int], ...]
    delta: float

    def epsilon(self, accountant: Accountant | None = None, discretization: float = EXACT) -> float:
        """Return epsilon at `delta`; by PLD where every event supports it, else by RDP, if none is named.

        Raises:
            Refused: the accountant does not support some event.
        """
        return accounting.epsilon(self.steps, self.delta, accountant, discretization)


def spent(history: History, *, more: tuple[Plan, int] | None = None) -> Spent:
    """Return every charged step, and `more` (plan, steps) if given.

    Raises:
        Refused: some step carries no proof (a conjectured rule, a simulation, batches drawn elsewhere), or the attempts
            speak of different neighbours.
    """
    charged = history.charged_attempts()
    more = more if more and more[1] else None
    for attempt, _ in charged:
        _check_proved(attempt)
    runs = [(plan_of(attempt), count) for attempt, count in charged] + ([more] if more else [])
    _check_same_claim([attempt for attempt, _ in charged], [plan for plan, _ in runs])
    plans = [plan for plan, _ in runs] or [plan_of(attempt) for attempt in history.attempts]
    steps = tuple((plan.step_event, count) for plan, count in runs if count)
    return Spent(steps=steps, delta=plans[-1].delta if plans else 0.5)  # without a plan nothing was spent, at any delta


def explained(error: BrokenLedger) -> BrokenLedger:
    """Return the error of a ledger that was changed, with what can be proved of the run all the same."""
    found = BrokenLedger("", error.history, error.later)
    found.args = (
        f"{error} {_bound(error)} The run cannot go on here: put the ledger back from a copy, or name another folder "
        "with --out (for a person in both runs the epsilons add up).",
    )
    return found


def _bound(error: BrokenLedger) -> str:
    """Return the epsilon of all that the file leaves possible: every planned step of each attempt that it shows, and
    one step more for each later line that cannot be read or repeats a step."""
    attempts = [*error.history.attempts, *filter(None, map(_attempt, error.later))]
    if not attempts:
        return "No attempt is left in it, so no epsilon can be proved."
    more = _further(error)
    try:
        for attempt in attempts:
            _check_proved(attempt)
        plans = [plan_of(attempt) for attempt in attempts]
        _check_same_claim(attempts, plans)
        steps = [(plan.step_event, plan.steps) for plan in plans]
        steps += [(plan.step_event, more) for plan in plans[-1:] if more]
        epsilon = Spent(steps=tuple(steps), delta=plans[-1].delta).epsilon(discretization=QUICK)
    except Refused as refused:
        return f"No epsilon can be proved: {refused}"
    return (
        f"What can be proved is an upper bound: epsilon {upper(epsilon)} at delta {plans[-1].delta:.3g}. It charges "
        f"all {sum(plan.steps for plan in plans)} planned steps of the {len(plans)} attempts that the file shows, and "
        f"{more} more for later lines that cannot be read or repeat a step; it assumes that every attempt is in the "
        "file, and that a line stands for one step at most."
    )


def _attempt(entry: Mapping[str, Any] | None) -> Attempt | None:
    if entry is None or entry.get("kind") != "attempt":
        return None
    return Attempt(**{field.name: entry[field.name] for field in fields(Attempt)})


def _further(error: BrokenLedger) -> int:
    """Return how many later lines may stand for a step beyond the planned ones."""
    seen, further = set(error.history.steps), 0
    for entry in error.later:
        if entry is None:
            further += 1
        elif entry.get("kind") == "step":
            step = entry["attempt"], entry["step"]
            further += step in seen
            seen.add(step)
    return further


def plan_of(attempt: Attempt) -> Plan:
    """Return the plan under which an attempt ran."""
    return Plan.from_json(dict(attempt.plan))


def _check_proved(attempt: Attempt) -> None:
    plan_of(attempt).check_proved()
    if DECLARED in attempt.fields:
        raise Refused("NOT PROVED: micro-batches were not drawn by sfumato.loader, so the sampling is not known.")


def _check_same_claim(attempts: list[Attempt], plans: list[Plan]) -> None:
    relations = sorted({str(plan.relation) for plan in plans})
    if len(relations) > 1:
        raise Refused(f"attempts with different relations ({', '.join(relations)}) have no common epsilon.")
    records = sorted({str(attempt.fields.get("data.record")) for attempt in attempts})
    if len(records) > 1:
        raise Refused(f"attempts that protect different records ({', '.join(records)}) have no common epsilon.")
