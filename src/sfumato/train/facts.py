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
from sfumato.plan.spent import Spent, explained, plan_of, spent
from sfumato.train import standing
from sfumato.train.folder import RunFolder

_FIGURES = ("epsilon", "epsilon_pld", "epsilon_rdp", "max_true_positive_rate")


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
    is None, and a stamp says why: what was spent is spent, and its card can be written all the same.

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
    charged = history.charged_attempts()
    seeds = [str(attempt.fields.get("seed", "")) for attempt, _ in charged]
    executed = sum(count for _, count in charged)
    return {
        "steps_executed": executed,
        "steps_charged": executed if stop_was_public else max(executed, plan.steps),
        **_claim(history, plan, stop_was_public=stop_was_public),
        "attempts": len(history.attempts),
        "steps_by_attempt": {str(attempt.number): count for attempt, count in charged},
        "ledger_head": history.head,
        "looks": [{"what": look.what, **look.detail} for look in history.looks],
        **_declared(plan, record=record, owner_column=owner_column, public=public, left_out=left_out),
        **_public(plan, public, secret=all(seed.startswith("secret") for seed in seeds)),
        "versions": _versions(history.attempts[-1].fields.get("code")),
    }


def planned_facts(
    plan: Plan, *, record: str, owner_column: str | None, public: Mapping[str, Any], left_out: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the facts that `card_facts` will give if the run goes as planned: a rehearsal of the card before step 1.

    Raises:
        Refused: an accountant that the card names has no figure for the planned steps.
    """
    return {
        **plans.card_facts(plan, plan.steps),
        "attempts": 1,
        "steps_by_attempt": {"1": plan.steps},
        "ledger_head": "",
        "looks": [],
        **_declared(plan, record=record, owner_column=owner_column, public=public, left_out=left_out),
        **_public(plan, public, secret=True),
        "versions": _versions(None),
    }


def _declared(plan: Plan, **words: Any) -> dict[str, Any]:
    """Return what the plan and its user say, whatever was executed."""
    words = {name: value for name, value in words.items() if name != "public"}
    return {**plans.plan_facts(plan), "plan": plan.to_json(), **words, "left_out": dict(words["left_out"])}


def _public(plan: Plan, public: Mapping[str, Any], *, secret: bool) -> dict[str, Any]:
    seed = "secret" if secret else "chosen by the user: public"
    return {"public": {**public, "num_records": plan.sampler.num_records, "seed": seed}}


def _versions(code: Any) -> dict[str, Any]:
    return {
        "sfumato": sfumato.__version__,
        "code": code,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
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


def _claim(history: History, plan: Plan, *, stop_was_public: bool) -> dict[str, Any]:
    """Epsilon of the whole ledger, and the stamps. A run that stopped early is charged to the end of its plan.

    Why it stopped is not known here; a stop that depends on the weights is one of the planned number of outcomes.
    """
    stamps = list(plan.stamps)
    if any(look.what == "debug revealed" for look in history.looks):
        stamps = [*stamps, 'NOT PRIVATE: un-noised losses and counts were shown (reveal="debug")']
    left = 0 if stop_was_public else plan.steps - steps_reached(history)
    try:
        charged = spent(history, more=(plan, max(left, 0)))
        by = {"pld": _or_none(charged, "pld"), "rdp": _or_none(charged, "rdp")}
    except Refused as error:
        return {**dict.fromkeys(_FIGURES), "accountant": "none", "stamps": stamps or [f"NOT PROVED: {error}"]}
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
