"""The fingerprint of a run: named public fields that must be equal for a step to be replayed bit for bit.

What moves a bit of the result belongs here, so that a step is never replayed under one key with another outcome, and
so that two runs that differ in anything (a learning rate is enough) share no noise.
"""

import dataclasses
import functools
import hashlib
import inspect
import json
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import sfumato
from sfumato.base import BadInput

Fields = dict[str, Any]
_SHOWN = 12
_ROOMS_OF_A_STEP = ("base", "sampling", "plan", "norms", "models", "data", "losses", "mechanisms", "train")
_NOT_OF_THE_MODEL = ("_name_or_path", "transformers_version")  # where it came from; versions are fields of their own


def flatten(prefix: str, value: Any) -> Fields:
    """Return nested dicts as dotted names with JSON values.

    >>> flatten("plan", {"unit": {"clip_norm": 1.0}, "steps": 3})
    {'plan.unit.clip_norm': 1.0, 'plan.steps': 3}
    """
    if isinstance(value, Mapping):
        return {name: v for key, inner in value.items() for name, v in flatten(f"{prefix}.{key}", inner).items()}
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        value = str(value)
    return {prefix: list(value) if isinstance(value, tuple) else value}


def digest(fields: Mapping[str, Any]) -> str:
    """Return the fingerprint of the fields."""
    return hashlib.sha256(json.dumps(fields, sort_keys=True, allow_nan=False).encode()).hexdigest()


def differences(old: Mapping[str, Any], new: Mapping[str, Any], hidden: str = "\0") -> list[str]:
    """Return "name: old -> new" for each field that differs; values of fields that begin with `hidden` are left out."""
    names = [name for name in sorted({*old, *new}) if old.get(name) != new.get(name)]
    shown = [f"{n}: changed" if n.startswith(hidden) else f"{n}: {old.get(n)} -> {new.get(n)}" for n in names[:_SHOWN]]
    return shown if len(names) <= _SHOWN else [*shown, f"and {len(names) - _SHOWN} more"]


def model_fields(model: nn.Module) -> Fields:
    """Return class, structure, configuration and every parameter's shape, dtype and whether it is trained."""
    fields: Fields = {"model.class": _qualified(type(model)), "model.structure": _hash(repr(model))}
    config = getattr(model, "config", None)
    to_dict = getattr(config, "to_dict", None)
    if callable(to_dict):
        settings: Any = to_dict()
        kept = {k: v for k, v in settings.items() if k not in _NOT_OF_THE_MODEL}
        fields["model.config"] = _hash(json.dumps(kept, sort_keys=True, default=str))
    for name, p in model.named_parameters():
        shape = "x".join(map(str, p.shape))
        fields[f"model.parameters.{name}"] = f"{str(p.dtype)[6:]} {shape} {'trained' if p.requires_grad else 'frozen'}"
    return fields


def optimizer_fields(optimizer: torch.optim.Optimizer | None) -> Fields:
    """Return class and hyper-parameters. A learning rate that a schedule has moved counts by where it began."""
    if optimizer is None:
        return {"optimizer": "not given"}
    fields: Fields = {"optimizer.class": _qualified(type(optimizer))}
    for number, group in enumerate(optimizer.param_groups):
        settings = {k: v for k, v in group.items() if k not in ("params", "initial_lr")}
        settings["lr"] = float(group.get("initial_lr", group["lr"]))
        settings["num_params"] = len(group["params"])
        fields |= flatten(f"optimizer.groups.{number}", settings)
    return fields


def function_fields(name: str, function: Any) -> Fields:
    """Return a function's qualified name, a hash of its source, and the plain values that it closes over.

    Of an object: its class, its plain attributes, and of a dataclass the functions and dataclasses that it holds.
    """
    if function is None:
        return {}
    if isinstance(function, functools.partial):
        bound = {str(k): repr(v) for k, v in (*enumerate(function.args), *function.keywords.items())}
        return function_fields(name, function.func) | flatten(f"{name}.bound", bound)
    if inspect.isroutine(function):
        target = function
        known = inspect.getclosurevars(function).nonlocals if inspect.isfunction(function) else {}
    else:
        target = type(function)
        known = vars(function) if hasattr(function, "__dict__") else {}
    plain = {key: value for key, value in known.items() if isinstance(value, bool | int | float | str | None)}
    settings = {key: value for key, value in plain.items() if not key.startswith("_") and key != "training"}
    fields = {f"{name}.name": _qualified(target), f"{name}.source": _source_hash(target)}
    if dataclasses.is_dataclass(function):
        for key, value in known.items():
            if dataclasses.is_dataclass(value) or (callable(value) and not isinstance(value, nn.Module)):
                fields |= function_fields(f"{name}.{key}", value)
    return fields | flatten(f"{name}.settings", settings)


def surrounding_fields(device: torch.device, world_size: int) -> Fields:
    """Return code (of the rooms that a step passes through), versions and machine settings: what its bits depend on."""
    return {
        "code": _package_hash(),
        "versions.python": platform.python_version(),
        "versions.torch": torch.__version__,
        "versions.numpy": np.__version__,
        "device": device.type if device.type == "cpu" else torch.cuda.get_device_name(device),
        "world_size": world_size,
        "threads": torch.get_num_threads(),
    }


def data_fields(dataset: Any, num_records: int | None) -> Fields:
    """Return what the data set says of itself (`manifest()`), or its class; and its size, where that is public.

    Raises:
        BadInput: the manifest is not a dict.
    """
    manifest = dataset.manifest() if hasattr(dataset, "manifest") else {"class": _qualified(type(dataset))}
    if not isinstance(manifest, Mapping):
        raise BadInput(f"manifest() of the data set must return a dict, got {type(manifest).__name__}.")
    size = {} if num_records is None else {"num_records": num_records}
    by_owner = getattr(dataset, "owners", None) is not None
    return flatten("data", {**manifest, **size, "record": "owner" if by_owner else "row"})


@functools.cache
def _package_hash() -> str:
    root = Path(sfumato.__file__).parent
    total = hashlib.sha256()
    for path in sorted(path for room in _ROOMS_OF_A_STEP for path in (root / room).rglob("*.py")):
        total.update(path.relative_to(root).as_posix().encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()[:16]


def _source_hash(target: Any) -> str:
    try:
        return _hash(inspect.getsource(target))
    except (OSError, TypeError):
        code = getattr(target, "__code__", None)  # typed into an interpreter: its source is nowhere, its bytecode is
        return _hash(f"{code.co_code!r} {code.co_names} {code.co_consts}") if code else "not readable"


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _qualified(target: Any) -> str:
    return f"{target.__module__}.{target.__qualname__}"
