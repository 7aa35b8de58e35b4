"""State of model, optimizer and scheduler as named tensors and JSON: no pickle, so nothing runs on loading.

A tensor becomes {"tensor": name}; what JSON would change (tuples, keys that are not text) is marked likewise.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from sfumato.base import BadInput


def encode(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    """Return `value` as JSON values; its tensors are put into `tensors` under names below `path`.

    Raises:
        BadInput: something in it is neither a tensor nor a plain value; the message says where.
    """
    if isinstance(value, Tensor):
        tensors[path] = value.detach().cpu().clone().contiguous()
        return {"tensor": path}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        items = [encode(item, f"{path}/{number}", tensors) for number, item in enumerate(value)]
        return items if isinstance(value, list) else {"tuple": items}
    if isinstance(value, Mapping):
        return {"dict": [[_key(k, path), encode(v, f"{path}/{k}", tensors)] for k, v in value.items()]}
    raise BadInput(f"{path} holds a {type(value).__name__}, which a checkpoint cannot keep.")


def decode(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    """Return what `encode` was given (mappings come back as dicts)."""
    if isinstance(value, list):
        return [decode(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    if "tensor" in value:
        return tensors[value["tensor"]].clone()  # not a window on the file, which may be removed
    if "tuple" in value:
        return tuple(decode(item, tensors) for item in value["tuple"])
    return {key: decode(item, tensors) for key, item in value["dict"]}


def _key(key: Any, path: str) -> str | int:
    if isinstance(key, str | int):
        return key
    raise BadInput(f"{path} has a key of type {type(key).__name__}, which a checkpoint cannot keep.")
