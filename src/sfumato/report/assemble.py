"""From what a run measured of itself and what its maker declares to the facts of a card.

`sfumato.train.card_facts` reads plan and ledger; nothing that it can read is typed in by hand. What no program can know
(where the vocabulary came from, what settings were chosen by looking at the data) is declared.
"""

from collections.abc import Mapping
from typing import Any

from sfumato.report.facts import NOT_PRIVATE, NOT_PROVED, SECRET

_WHO = "export/ is meant to be shared; private/ (seed, ledger, logs, checkpoints) stays with the owner of the data"


def facts_of_run(
    measured: Mapping[str, Any],
    *,
    owner_column: str | None,
    vocabulary: str,
    normalisation: str,
    initialisation: str,
    tuning: str,
    evaluation: str,
    who_sees_what: str = _WHO,
    more: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the facts for `card.build`.

    Args:
        measured: what `sfumato.train.card_facts` returns: JSON values read off plan and ledger.
        owner_column: the column that joins the rows of one person, or None.
        vocabulary: where the words come from, and that they are public; likewise `normalisation`, `initialisation`.
        tuning: which settings were chosen on private data, and whether that is accounted.
        evaluation: what the evaluation was done on, and whether it is public.
        who_sees_what: who may see which folder.
        more: further facts, which win over measured ones: `record`, `ledger_head`, `max_true_positive_rate`, `looks`.
    """
    more = more or {}
    facts = {**_claim(measured), **_mechanism(measured), **more}
    facts["owner_column"] = owner_column
    facts["public"] = {
        "num_records": measured.get("num_records"),
        "vocabulary": vocabulary,
        "normalisation": normalisation,
        "initialisation": initialisation,
        "seed": "given by the user" if measured.get("public_seed") else SECRET,
    }
    facts["left_out"] = {"tuning": tuning, "evaluation": evaluation, "who_sees_what": who_sees_what}
    facts["stamps"] = [*_stamps(measured), *more.get("stamps", [])]
    return facts


def _claim(measured: Mapping[str, Any]) -> dict[str, Any]:
    """PLD is the smaller proved bound where there is one; RDP otherwise."""
    by_pld, by_rdp = measured.get("epsilon_pld"), measured.get("epsilon_rdp")
    proved = not measured.get("not_proved")
    return {
        "epsilon": (by_rdp if by_pld is None else by_pld) if proved else None,
        "accountant": "none" if not proved else "rdp" if by_pld is None else "pld",
    }


def _mechanism(measured: Mapping[str, Any]) -> dict[str, Any]:
    unit = measured.get("plan", {}).get("unit", {})
    rule = unit.get("clip", "own rule") if isinstance(unit, Mapping) else "own rule"
    clip_norm = unit.get("clip_norm") if isinstance(unit, Mapping) else None
    clipped = f"L2 norm {clip_norm:g} ({rule} clipping)" if isinstance(clip_norm, int | float) else f"the run's {rule}"
    names = (
        *(
            "unit",
            "relation",
            "sampling_prob",
            "divisor",
            "presence",
            "swap",
            "noise_multiplier",
            "noise_std",
            "record",
        ),
        *("delta", "epsilon_pld", "epsilon_rdp", "steps_charged", "steps_planned", "attempts", "ledger_head", "looks"),
        *("versions", "model", "code"),
    )
    return {
        **{name: measured[name] for name in names if name in measured},
        "sampling": f"{measured.get('sampler', 'unknown')} sampling",
        "mechanism": f"the gradient of each {str(measured.get('unit', 'unit')).lower()} is clipped to {clipped}; the "
        "clipped gradients are summed; Gaussian noise is added to every coordinate; the sum is divided by a public "
        "constant",
    }


def _stamps(measured: Mapping[str, Any]) -> list[str]:
    found = []
    if reason := measured.get("not_proved"):
        found.append(f"{NOT_PROVED}: {str(reason).removeprefix(f'{NOT_PROVED}: ').rstrip('.')}")
    if any("debug" in str(look.get("what")) for look in measured.get("looks", []) if isinstance(look, Mapping)):
        found.append(f"{NOT_PRIVATE}: un-noised figures of the training data were revealed for debugging")
    return found
