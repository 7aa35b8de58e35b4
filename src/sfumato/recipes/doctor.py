"""The doctor: whether a model can be trained privately, what it costs, and whether there is hope. Spends no budget.

Everything rests on made-up rows, or on rows of pictures that were declared public.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from torch import nn

from sfumato.base import BadInput, SfumatoError
from sfumato.base.reason import named
from sfumato.norms.inspect import Inspection, Use, inspect
from sfumato.plan import Plan
from sfumato.recipes.doctor_advice import advice, fewer
from sfumato.recipes.doctor_case import Asked, Case
from sfumato.recipes.doctor_cost import Checked, Cost, estimate, machine_bytes
from sfumato.recipes.doctor_data import Rows, rows_of
from sfumato.recipes.doctor_findings import Finding, findings, rows_loss, works_with
from sfumato.recipes.doctor_models import open_case
from sfumato.recipes.doctor_signal import Signal, chunks, first_gradient, signal_of
from sfumato.recipes.run import Data, Privacy

_CHECK_ROWS = 4
_GB = 1e9


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What is to be known of a model.

    Attributes:
        micro_batch_size: rows in memory at once, for which time and memory are estimated.
        memory_gb: what may be used; None: what this machine has left.
        measure: whether to time steps.
        check: also measure a step at `micro_batch_size`, and compare.
        privacy: of the plan, for the signal.
        records: N; None leaves the signal out.
        data: declared-public pictures in the place of made-up ones, for the signal.
    """

    micro_batch_size: int = 32
    memory_gb: float | None = None
    measure: bool = True
    check: bool = False
    privacy: Privacy = field(default_factory=Privacy)
    records: int | None = None
    data: Data | None = None

    def __post_init__(self) -> None:
        if self.micro_batch_size < 1:
            raise BadInput(f"micro_batch_size must be >= 1, got {self.micro_batch_size}.")
        if self.memory_gb is not None and not 0 < self.memory_gb < math.inf:
            raise BadInput(f"memory must be > 0 GB and finite, got {self.memory_gb}.")
        if self.records is not None and self.records < 1:
            raise BadInput(f"records must be >= 1, got {self.records}.")
        if self.data is not None and self.records is None:
            raise BadInput("--data is read for the signal, which needs --records.")
        if self.check and not self.measure:
            raise BadInput("--check measures a step: leave out --no-measure.")


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """What was found.

    Attributes:
        asked: what the doctor was asked about.
        source, unit, notes: the model in words, what is clipped, and what else is to be said.
        seen: what the engine would do with each parameter; None where the model could not even be opened.
        frozen_types: in which types the parameters are stored that do not train.
        refusal: why it cannot be trained, in one sentence; None where it can.
        findings: the reasons, module by module.
        repaired: of a refused model, whether it trains once the settings named in `findings` are changed.
        cost: by side, "private" and "non-private".
        checked: estimates over measurements, by side.
        memory_bytes: what may be used.
        largest: the largest micro-batch that fits; None where it was not measured or memory does not grow.
        signal, plan: of the first step.
        advice: what to change where learning is hopeless or doubtful.
        trouble: why costs or signal could not be measured.
    """

    asked: Asked
    source: str = ""
    unit: str = ""
    notes: tuple[str, ...] = ()
    seen: Inspection | None = None
    frozen_types: tuple[str, ...] = ()
    refusal: str | None = None
    findings: tuple[Finding, ...] = ()
    repaired: bool | None = None
    cost: Mapping[str, Cost] = field(default_factory=dict)
    checked: Mapping[str, Checked] = field(default_factory=dict)
    memory_bytes: float = 0.0
    largest: int | None = None
    signal: Signal | None = None
    plan: Plan | None = None
    advice: tuple[str, ...] = ()
    trouble: tuple[str, ...] = ()

    @property
    def trainable(self) -> bool:
        """Whether it can be trained as it is."""
        return self.refusal is None


def diagnose(asked: Asked, wish: Wish) -> Diagnosis:
    """Look at a model before any budget is spent; see `Diagnosis`.

    Raises:
        BadInput: numbers of the plan that contradict each other, or pictures that are not declared public.
    """
    memory = wish.memory_gb * _GB if wish.memory_gb else machine_bytes()
    found = Diagnosis(asked=asked, memory_bytes=memory)
    try:
        case = open_case(asked, room_bytes=memory)
    except SfumatoError as error:
        return replace(found, refusal=str(error))
    except Exception as error:  # libraries raise anything on a broken folder; nothing in it is a private row
        return replace(found, refusal=_failed("it cannot be opened", error))
    rows = None
    if wish.records is not None:
        rows = rows_of(case, wish.data, asked.group_size)
        plan = replace(wish.privacy, unit=case.unit, group_size=asked.group_size).plan(wish.records)
        found = replace(found, plan=plan)
    found = replace(found, source=case.source, unit=case.unit, notes=case.notes, frozen_types=_frozen_types(case.model))
    found = _looked_at(found, case)
    if found.refusal is not None:
        return found
    found = _costed(found, wish)
    return found if rows is None else _hoped(found, rows, wish.privacy.clip_norm)


def _frozen_types(model: nn.Module) -> tuple[str, ...]:
    types = {str(p.dtype).removeprefix("torch.") for p in model.parameters() if not p.requires_grad}
    return tuple(sorted(types))


def _looked_at(found: Diagnosis, case: Case) -> Diagnosis:
    """Add what the engine would do, and why it would not."""
    try:
        seen = inspect(case.model, rows_loss(case), case.batch(_CHECK_ROWS), synthetic=case.synthetic)
    except SfumatoError as error:
        return replace(found, refusal=str(error))
    except Exception as error:  # a foreign model's forward pass may raise anything; the rows are made up
        return replace(found, refusal=_failed("its forward pass on made-up rows fails", error))
    if seen.refusal is None:
        return replace(found, seen=seen)
    try:
        reasons = tuple(findings(case, seen))
        repaired = works_with(case, seen) is None
    except Exception as error:
        return replace(found, seen=seen, refusal=seen.refusal, trouble=(_failed("looking for the reason", error),))
    return replace(found, seen=seen, refusal=seen.refusal, findings=reasons, repaired=repaired)


def _costed(found: Diagnosis, wish: Wish) -> Diagnosis:
    """Add time and memory."""
    if not wish.measure:
        return found
    try:
        cost, checked = estimate(found.asked, wish.micro_batch_size, found.unit, check=wish.check)
    except RuntimeError as error:
        return replace(found, trouble=(*found.trouble, f"time and memory could not be measured: {error}"))
    return replace(found, cost=cost, checked=checked, largest=cost["private"].largest(found.memory_bytes))


def _hoped(found: Diagnosis, rows: Rows, clip_norm: float) -> Diagnosis:
    """Add signal and noise of the first step."""
    assert found.seen is not None
    assert found.plan is not None
    try:
        gradient = first_gradient(rows, chunks(rows, found.asked.group_size), clip_norm)
    except SfumatoError as error:
        return replace(found, trouble=(*found.trouble, f"the signal could not be measured: {error}"))
    except Exception as error:  # of a foreign model; its rows are made up or public
        return replace(found, trouble=(*found.trouble, _failed("the signal could not be measured", error)))
    signal = signal_of(gradient, found.plan, found.seen.num_trainable)
    choices = () if signal.verdict == "fine" else fewer(rows.case)
    say = tuple(advice(signal, found.seen.num_trainable, choices))
    return replace(found, signal=signal, advice=say)


def _failed(what: str, error: Exception) -> str:
    return f"{what}: {named(error)}"


# ---------------------------------------------------------------- in rows and sentences


def rules(seen: Inspection) -> list[dict[str, Any]]:
    """Return a row for each way in which trainable parameters are measured, the most numbers first."""
    by_way: dict[str, list[Use]] = {}
    for use in seen.uses:
        by_way.setdefault(_way(use, seen), []).append(use)
    rows = [
        {
            "measured in": way,
            "tensors": len(uses),
            "parameters": sum(use.numel for use in uses),
            "reused": sum(use.count > 1 for use in uses),
            "such as": uses[0].name,
        }
        for way, uses in by_way.items()
    ]
    return sorted(rows, key=lambda row: -row["parameters"])


def _way(use: Use, seen: Inspection) -> str:
    if use.name in seen.unreached or not use.functions:
        return "nothing: no gradient reaches it"
    named = " + ".join(f"{name} (NO RULE)" if name in use.without_rule else name for name in use.functions)
    return f"{named}, by the chain rule" if use.derived else named


def facts(found: Diagnosis) -> dict[str, Any]:
    """Return the diagnosis as JSON values."""
    seen, signal = found.seen, found.signal
    return {
        "asked": found.asked.to_dict(),
        "model": found.source,
        "unit": found.unit,
        "notes": list(found.notes),
        "trainable": found.trainable,
        "refusal": found.refusal,
        "findings": [asdict(finding) for finding in found.findings],
        "trains_with_these_changes": found.repaired,
        "parameters": None if seen is None else {**_counts(seen), "frozen_types": list(found.frozen_types)},
        "rules": None if seen is None else rules(seen),
        "tied": None if seen is None else [list(names) for names in seen.tied],
        "cost": {side: asdict(cost) for side, cost in found.cost.items()},
        "estimate_over_actual": {side: asdict(ratio) for side, ratio in found.checked.items()},
        "memory_bytes": found.memory_bytes,
        "largest_micro_batch": found.largest,
        "signal": None if signal is None else _signal_facts(signal),
        "advice": list(found.advice),
        "trouble": list(found.trouble),
    }


def _counts(seen: Inspection) -> dict[str, int]:
    frozen = sum(seen.frozen.values())
    return {
        "trainable": seen.num_trainable,
        "trainable_tensors": len(seen.uses),
        "frozen": frozen,
        "frozen_tensors": len(seen.frozen),
        "unreached_tensors": len(seen.unreached),
    }


def _signal_facts(signal: Signal) -> dict[str, Any]:
    values = {
        **asdict(signal),
        "ratio": signal.ratio,
        "over_all_steps": signal.over_all,
        "verdict": signal.verdict,
    }
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in values.items()
    }
