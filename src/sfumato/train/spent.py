"""Epsilon of what was run, read off the ledger: all steps of all attempts, whichever checkpoint is kept in the end."""

import functools
import json
from collections.abc import Mapping
from typing import Any

from sfumato import accounting
from sfumato.base import GaussianStep, Refused
from sfumato.base.ledger import Attempt, History
from sfumato.plan import Conjectured, Plan

DECLARED = "batches.declared"
"""Field of an attempt whose micro-batches were not drawn by `loader`."""


def epsilon_of(history: History, *, more: tuple[Plan, int] | None = None) -> float:
    """Return epsilon at the delta of the latest plan for every charged step, and for `more` (plan, steps) if given.

    PLD where every event of the run has a privacy loss distribution, else RDP.

    Raises:
        Refused: some step carries no proof (a conjectured rule, a simulation, batches drawn elsewhere), or the attempts
            speak of different neighbours.
    """
    charged = history.charged_attempts()
    for attempt, _ in charged:
        _check_proved(attempt)
    runs = [(plan_of(attempt), count) for attempt, count in charged] + ([more] if more else [])
    if not runs:
        return 0.0
    _check_same_claim([attempt for attempt, _ in charged], [plan for plan, _ in runs])
    return _epsilon(tuple((json.dumps(plan.to_json(), sort_keys=True), count) for plan, count in runs))


def plan_of(attempt: Attempt) -> Plan:
    """Return the plan under which an attempt ran."""
    return Plan.from_json(dict(attempt.plan))


def _check_proved(attempt: Attempt) -> None:
    plan = plan_of(attempt)
    if plan.is_simulation:
        raise Refused("a simulation at reduced noise was run: it has no epsilon.")
    if isinstance(plan.unit, Conjectured):
        raise Refused("NOT PROVED: the run uses a Conjectured rule, which has no epsilon.")
    if DECLARED in attempt.fields:
        raise Refused("NOT PROVED: micro-batches were not drawn by sfumato.loader, so the sampling is not known.")


def _check_same_claim(attempts: list[Attempt], plans: list[Plan]) -> None:
    relations = sorted({str(plan.relation_) for plan in plans})
    if len(relations) > 1:
        raise Refused(f"attempts with different relations ({', '.join(relations)}) have no common epsilon.")
    records = sorted({str(attempt.fields.get("data.record")) for attempt in attempts})
    if len(records) > 1:
        raise Refused(f"attempts that protect different records ({', '.join(records)}) have no common epsilon.")


@functools.lru_cache(maxsize=64)
def _epsilon(runs: tuple[tuple[str, int], ...]) -> float:
    plans = [(Plan.from_json(json.loads(text)), count) for text, count in runs]
    steps: list[tuple[GaussianStep, int]] = [(plan.step_event, count) for plan, count in plans if count]
    delta = plans[-1][0].delta
    if not steps:
        return 0.0
    try:
        return accounting.epsilon_pld(steps, delta)
    except Refused:
        return accounting.epsilon_rdp(steps, delta)


def epsilons(history: History) -> Mapping[str, Any]:
    """Return epsilon by both accountants (None where an event is not supported) and delta, for the card."""
    plans = [(plan_of(attempt), count) for attempt, count in history.charged_attempts()]
    epsilon_of(history)  # raises for what is not proved
    steps = [(plan.step_event, count) for plan, count in plans]
    delta = plans[-1][0].delta if plans else None
    return {
        "epsilon_pld": _or_none(accounting.epsilon_pld, steps, delta),
        "epsilon_rdp": _or_none(accounting.epsilon_rdp, steps, delta),
        "delta": delta,
    }


def _or_none(epsilon_fn: Any, steps: list[tuple[GaussianStep, int]], delta: float | None) -> float | None:
    if not steps:
        return 0.0
    try:
        return epsilon_fn(steps, delta)
    except Refused:
        return None
