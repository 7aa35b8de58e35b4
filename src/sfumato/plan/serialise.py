"""Plans as JSON: a schema version, one `kind` per unit and sampler, no key unknown and none missing."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from sfumato.base import BadInput
from sfumato.plan.contrast import ConjecturedLoss, InfoNCE, Sigmoid, SpreadOut
from sfumato.plan.coupled import Group, Pair
from sfumato.plan.units import Conjectured, Example
from sfumato.sampling import FixedSize, FullBatch, Poisson

SCHEMA = 1
UNITS: dict[str, type] = {"example": Example, "group": Group, "pair": Pair, "conjectured": Conjectured}
LOSSES: dict[str, type] = {
    "infonce": InfoNCE,
    "sigmoid": Sigmoid,
    "spread_out": SpreadOut,
    "conjectured": ConjecturedLoss,
}
SAMPLERS: dict[str, type] = {"poisson": Poisson, "fixed_size": FixedSize, "full_batch": FullBatch}
_PLAIN = ("steps", "delta", "noise_multiplier", "relation", "is_simulation")
_KEYS = {"schema", "unit", "sampler", *_PLAIN}


def to_json(plan: Any) -> dict[str, Any]:
    """Return a plan as plain JSON values."""
    plain = {name: getattr(plan, name) for name in _PLAIN}
    return {
        "schema": SCHEMA,
        "unit": _write(plan.unit, UNITS),
        "sampler": _write(plan.sampler, SAMPLERS),
        **plain,
        "relation": str(plan.relation),
    }


def fields_from_json(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a plan, units and samplers built; BadInput names what is unknown, missing or mistyped."""
    if not isinstance(values, Mapping):
        raise BadInput(f"a plan is a JSON object, got {type(values).__name__}.")
    if values.get("schema") != SCHEMA:
        raise BadInput(f"plan: schema {values.get('schema')!r} is not {SCHEMA}, which this version reads.")
    _check_keys("plan", values, _KEYS)
    if not isinstance(values["is_simulation"], bool):
        raise BadInput(f"plan: is_simulation must be true or false, got {values['is_simulation']!r}.")
    for name in ("delta", "relation"):  # a written plan states them; their defaults are for those who make one
        if values[name] is None:
            raise BadInput(f"plan: {name} must not be null.")
    return {
        "unit": _read("unit", values["unit"], UNITS),
        "sampler": _read("sampler", values["sampler"], SAMPLERS),
        **{name: values[name] for name in _PLAIN},
    }


def _write(thing: Any, kinds: dict[str, type]) -> dict[str, Any]:
    kind = next((name for name, cls in kinds.items() if type(thing) is cls), None)
    if kind is None:
        raise BadInput(
            f"{type(thing).__name__} has no JSON form: one of {', '.join(c.__name__ for c in kinds.values())}."
        )
    fields = {field.name: getattr(thing, field.name) for field in dataclasses.fields(thing)}
    return {"kind": kind, **{name: _write(v, LOSSES) if name == "loss" else v for name, v in fields.items()}}


def _read(where: str, values: Any, kinds: dict[str, type]) -> Any:
    if not isinstance(values, Mapping) or values.get("kind") not in kinds:
        kind = values.get("kind") if isinstance(values, Mapping) else values
        raise BadInput(f"plan: {where} has unknown kind {kind!r}: one of {', '.join(kinds)}.")
    cls = kinds[values["kind"]]
    _check_keys(where, values, {"kind", *(field.name for field in dataclasses.fields(cls))})
    try:
        fields = {name: value for name, value in values.items() if name != "kind"}
        return cls(**{name: _read("loss", v, LOSSES) if name == "loss" else v for name, v in fields.items()})
    except TypeError as error:
        raise BadInput(f"plan: {where} has a field of the wrong type: {error}.") from error


def _check_keys(where: str, values: Mapping[str, Any], known: set[str]) -> None:
    unknown, missing = sorted(set(values) - known), sorted(known - set(values))
    if unknown:
        raise BadInput(f"plan: {where} has unknown keys {', '.join(unknown)}.")
    if missing:
        raise BadInput(f"plan: {where} lacks keys {', '.join(missing)}.")
