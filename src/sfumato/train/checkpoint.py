"""Checkpoints: safetensors and JSON in a folder that is there as a whole or not at all.

Written under another name, flushed, renamed: whoever is killed in between leaves the former checkpoint as the latest.
"""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from sfumato.base import BadInput
from sfumato.base.ledger import PRIVATE_MODE, sync_folder
from sfumato.train.codec import decode, encode

_PREFIX = "step-"
_DRAFT = ".draft-"


def write(folder: Path, step: int, state: Mapping[str, Any], *, keep_last: int) -> Path:
    """Write `state` (nested tensors and plain values) as the checkpoint before `step`; return its folder.

    Older checkpoints beyond the `keep_last` newest are removed once this one is on the disk.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    for left in folder.glob(f"{_DRAFT}*"):
        shutil.rmtree(left)  # of a process that was killed
    target = _free(folder / f"{_PREFIX}{step:08d}")
    draft = folder / f"{_DRAFT}{step:08d}"
    draft.mkdir(mode=0o700)
    tensors: dict[str, Tensor] = {}
    tree = encode(state, "state", tensors)
    write_file(draft / "tensors.safetensors", b"")  # for its mode; the folder is closed to others anyway
    save_file(tensors, draft / "tensors.safetensors")
    _flush(draft / "tensors.safetensors")
    write_file(draft / "state.json", json.dumps(tree).encode())
    sync_folder(draft)
    draft.rename(target)
    sync_folder(folder)
    for old in complete(folder)[:-keep_last]:
        shutil.rmtree(old)
    return target


def read(checkpoint: Path) -> dict[str, Any]:
    """Return the state that was written.

    Raises:
        BadInput: the folder is not a whole checkpoint.
    """
    try:
        tensors = load_file(checkpoint / "tensors.safetensors")
        return decode(json.loads((checkpoint / "state.json").read_text()), tensors)
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise BadInput(f"{checkpoint} is not a whole checkpoint ({type(error).__name__}): remove it.") from None


def complete(folder: Path) -> list[Path]:
    """Return the checkpoints in the folder, oldest first; half-written ones are not among them."""
    return sorted(path for path in folder.glob(f"{_PREFIX}*") if path.is_dir())


def _free(target: Path) -> Path:
    """Return `target`, or a name that sorts behind it: no checkpoint is taken away before the next one is there."""
    taken = sorted(path.name for path in target.parent.glob(f"{target.name}*"))
    if not taken:
        return target
    _, _, number = taken[-1].removeprefix(target.name).partition("-")
    return target.with_name(f"{target.name}-{int(number or 0) + 1:03d}")


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fchmod(handle, PRIVATE_MODE)
        os.fsync(handle)
    finally:
        os.close(handle)


def write_file(path: Path, raw: bytes) -> None:
    """Write a file that only the owner reads (mode 0600) and flush it to the disk."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, PRIVATE_MODE)
    with os.fdopen(handle, "wb") as file:
        file.write(raw)
        file.flush()
        os.fsync(file.fileno())
