"""The facts of a run for its privacy card, read off plan and ledger: nothing here is typed in by hand."""

import platform
from pathlib import Path
from typing import Any

import numpy as np
import torch

import sfumato
from sfumato.base import BadInput, Refused
from sfumato.base.ledger import Attempt, History, read
from sfumato.plan import Plan
from sfumato.train.folder import RunFolder
from sfumato.train.spent import DECLARED, epsilons, plan_of

LEFT_OUT = (
    "tuning: settings that were chosen by looking at results on the private data",
    "floating point: the proof is for real numbers; noise is drawn and added in float64",
    "timing, memory and other side channels of the machine that trained",
    "what was public before: initial weights, vocabulary, normalisation, prompts",
)


def card_facts(out: str | Path) -> dict[str, Any]:
    """Return what the card of the run in `out` states.

    Epsilon counts every charged step of every attempt. It is None where it is not proved, and `not_proved` says why.

    Raises:
        BadInput: there is no ledger in the folder, no attempt in it, or its lines were changed.
    """
    history = read(RunFolder(Path(out)).ledger)
    if not history.attempts:
        raise BadInput(f"{out} has a ledger without an attempt: nothing was trained there.")
    plan = plan_of(history.attempts[-1])
    return {
        **_claim(history),
        **_mechanism(plan),
        "record": history.attempts[-1].fields.get("data.record", "not stated"),
        "steps_planned": plan.steps,
        "steps_charged": sum(count for _, count in history.charged_attempts()),
        "attempts": [_attempt(attempt, count) for attempt, count in history.charged_attempts()],
        "public_seed": any(_seed_is_public(attempt) for attempt, _ in history.charged_attempts()),
        "looks": [{"what": look.what, **look.detail} for look in history.looks],
        "left_out": list(LEFT_OUT),
        "model": history.attempts[-1].fields.get("model.class"),
        "code": history.attempts[-1].fields.get("code"),
        "versions": {
            "sfumato": sfumato.__version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
        },
    }


def _claim(history: History) -> dict[str, Any]:
    try:
        return {**epsilons(history), "not_proved": None}
    except Refused as error:
        return {"epsilon_pld": None, "epsilon_rdp": None, "delta": None, "not_proved": str(error)}


def _mechanism(plan: Plan) -> dict[str, Any]:
    return {
        "plan": plan.to_json(),
        "unit": type(plan.unit).__name__,
        "relation": str(plan.relation_),
        "sampler": type(plan.sampler).__name__,
        "sampling_prob": plan.sampler.sampling_prob,
        "num_records": plan.sampler.num_records,
        "divisor": plan.divisor,
        "presence": plan.presence,
        "swap": plan.swap,
        "noise_multiplier": plan.noise_multiplier,
        "noise_std": plan.noise_std,
    }


def _attempt(attempt: Attempt, steps: int) -> dict[str, Any]:
    return {
        "number": attempt.number,
        "steps": steps,
        "start_step": attempt.start_step,
        "noise_multiplier": plan_of(attempt).noise_multiplier,
        "batches": attempt.fields.get(DECLARED, "sfumato.loader"),
    }


def _seed_is_public(attempt: Attempt) -> bool:
    return str(attempt.fields.get("seed", "public")).startswith("public")
