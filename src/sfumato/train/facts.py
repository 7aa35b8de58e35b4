"""The facts of a run for its privacy card: numbers read off plan and ledger, words given by who trained."""

import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

import sfumato
from sfumato import plan as plans
from sfumato.accounting import Accountant, max_true_positive_rate, supported
from sfumato.base import BadInput, Refused
from sfumato.base.ledger import BrokenLedger, History, Ledger, read
from sfumato.plan import Plan
from sfumato.train import standing
from sfumato.train.folder import RunFolder
from sfumato.train.spent import Spent, explained, plan_of, spent


def card_facts(
    out: str | Path,
    *,
    record: str,
    owner_column: str | None,
    public: Mapping[str, Any],
    left_out: Mapping[str, Any],
    stop_was_public: bool = False,
) -> dict[str, Any]:
    """Return what the card of the run in `out` states; `report.build` makes the card of it.

    Epsilon counts every charged step of every attempt, and the steps that the plan has left. Where it is not proved it
    is None, and a stamp says why.

    Args:
        record: what one person contributes, in words.
        owner_column: what joins the rows of one person, or None.
        public: where vocabulary, normalisation and initialisation come from; seed and N are added.
        left_out: what is to be said of tuning, evaluation and who sees what.
        stop_was_public: an early stop was decided without looking at weights or data; else the whole plan is charged.

    Raises:
        BadInput: there is no ledger in the folder, no attempt in it, or its lines were changed.
    """
    history = _history(Path(out))
    if not history.attempts:
        raise BadInput(f"{out} has a ledger without an attempt: nothing was trained there.")
    plan = plan_of(history.attempts[-1])
    seeds = [str(a.fields.get("seed", "")) for a, _ in history.charged_attempts()]
    of_plan = plans.card_facts(plan, sum(count for _, count in history.charged_attempts()))
    return {
        **of_plan,
        **_claim(history, plan, of_plan["stamps"], stop_was_public=stop_was_public),
        "attempts": len(history.attempts),
        "steps_by_attempt": {str(attempt.number): count for attempt, count in history.charged_attempts()},
        "ledger_head": history.head,
        "plan": plan.to_json(),
        "record": record,
        "owner_column": owner_column,
        "public": {
            **public,
            "num_records": plan.sampler.num_records,
            "seed": "secret" if all(seed.startswith("secret") for seed in seeds) else "chosen by the user: public",
        },
        "left_out": dict(left_out),
        "looks": [{"what": look.what, **look.detail} for look in history.looks],
        "versions": {
            "sfumato": sfumato.__version__,
            "code": history.attempts[-1].fields.get("code"),
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
        },
    }


def record_look(out: str | Path, what: str, **detail: Any) -> None:
    """Write into the ledger of the run in `out` that its private data were looked at without noise.

    For looks that a run does not make itself: a simulation at reduced noise in another folder, a tuning run. The card
    lists them. Epsilon does not cover them.

    Raises:
        BadInput: the run is being written by another process, or the folder shows more than its ledger knows.
    """
    folder = RunFolder(Path(out))
    standing.check_private(folder, new_seed=True)
    folder.make()
    with Ledger(folder.ledger) as ledger:
        ledger.look(what, **detail)


def _history(out: Path) -> History:
    try:
        return read(RunFolder(out).ledger)
    except BrokenLedger as error:
        raise explained(error) from None


def _claim(history: History, plan: Plan, stamps: list[str], *, stop_was_public: bool) -> dict[str, Any]:
    """Epsilon of the whole ledger, and the stamps. A run that stopped early is charged to the end of its plan.

    Why it stopped is not known here; a stop that depends on the weights is one of the planned number of outcomes.
    """
    if any(look.what == "debug revealed" for look in history.looks):
        stamps = [*stamps, 'NOT PRIVATE: un-noised losses and counts were shown (reveal="debug")']
    left = 0 if stop_was_public else plan.steps - steps_reached(history)
    try:
        charged = spent(history, more=(plan, max(left, 0)))
        by = {"pld": _or_none(charged, "pld"), "rdp": _or_none(charged, "rdp")}
    except Refused as error:
        return {"stamps": stamps or [f"NOT PROVED: {error}"], "epsilon": None, "accountant": "none"}
    accountant = "rdp" if by["pld"] is None else "pld"
    return {
        "epsilon": by[accountant],
        "accountant": accountant,
        "epsilon_pld": by["pld"],
        "epsilon_rdp": by["rdp"],
        "max_true_positive_rate": _attack(charged),
        "steps_charged": sum(count for _, count in charged.steps),
        "stamps": stamps,
    }


def steps_reached(history: History) -> int:
    """Return how far the latest attempt has come on the plan: its last charged step, plus one."""
    last = history.attempts[-1]
    done = [step for attempt, step in history.steps if attempt == last.number]
    return max(done) + 1 if done else last.start_step


def _or_none(charged: Spent, accountant: Accountant) -> float | None:
    steps = charged.steps
    return charged.epsilon(accountant) if all(supported(step, accountant) for step, _ in steps) else None


def _attack(charged: Spent) -> float | None:
    try:
        return max_true_positive_rate(charged.steps)
    except Refused:
        return None
