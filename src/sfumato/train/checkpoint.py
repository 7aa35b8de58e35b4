"""Checkpoints: safetensors and JSON in a folder that is there as a whole or not at all.

Written under another name, flushed, renamed: whoever is killed in between leaves the former checkpoint as the latest.
`state.json` holds the checksums of the tensors and of the state, so that a bit that flips later is found on reading.
"""

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from sfumato.base import BadInput
from sfumato.base.checksums import DamagedFile, of_file
from sfumato.base.files import PRIVATE_MODE, name_file, sync_folder
from sfumato.base.parse import parsed
from sfumato.train.codec import decode, encode

logger = logging.getLogger(__name__)

_PREFIX = "step-"
_DRAFT = ".draft-"
_TENSORS, _STATE = "tensors.safetensors", "state.json"


def write(folder: Path, step: int, state: Mapping[str, Any], *, keep_last: int) -> Path:
    """Write `state` (nested tensors and plain values) as the checkpoint before `step`; return its folder.

    Older checkpoints beyond the `keep_last` newest are removed once this one is on the disk.

    Raises:
        BadInput: it cannot be written (a full disk), or the state cannot be kept; earlier checkpoints stay.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    for left in folder.glob(f"{_DRAFT}*"):
        shutil.rmtree(left)  # of a process that was killed
    target = _free(folder / f"{_PREFIX}{step:08d}")
    draft = folder / f"{_DRAFT}{step:08d}"
    draft.mkdir(mode=0o700)
    try:
        _fill(draft, state)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(draft, ignore_errors=True)
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise BadInput(
            f"{target} could not be written ({why}). Earlier checkpoints stay: make room, and the same command resumes."
        ) from None
    draft.rename(target)
    sync_folder(folder)
    for old in complete(folder)[:-keep_last]:
        shutil.rmtree(old)
    return target


def _fill(draft: Path, state: Mapping[str, Any]) -> None:
    tensors: dict[str, Tensor] = {}
    tree = encode(state, "state", tensors)
    write_file(draft / _TENSORS, b"")  # for its mode; the folder is closed to others anyway
    save_file(tensors, draft / _TENSORS)
    _flush(draft / _TENSORS)
    sums = {_TENSORS: of_file(draft / _TENSORS)["sha256"], "state": _sum(tree)}
    write_file(draft / _STATE, json.dumps({"sha256": sums, "state": tree}).encode())
    sync_folder(draft)


def read(checkpoint: Path) -> dict[str, Any]:
    """Return the state that was written. One that has no checksums (of an earlier version) is read all the same.

    Raises:
        DamagedFile: a checksum differs.
        BadInput: the folder is not a whole checkpoint.
    """
    try:
        tree = _checked(checkpoint)
        return decode(tree, load_file(checkpoint / _TENSORS))
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        if isinstance(error, DamagedFile):
            raise DamagedFile(f"{error} Remove it.") from None
        raise BadInput(f"{_why(checkpoint, error)} Remove it.") from None


def latest(folder: Path) -> str | None:
    """Return the name of the newest checkpoint that is whole; None where there is none at all.

    Damaged ones are named in a warning and passed over.

    Raises:
        BadInput: there are some, and none is whole.
    """
    found = complete(folder)
    for path in reversed(found):
        try:
            _checked(path)
            return path.name
        except (OSError, ValueError, KeyError, TypeError) as error:
            logger.warning("%s It is not used.", _why(path, error))
    if found:
        raise BadInput(
            f"no checkpoint in {folder} is whole. Put one back from a copy, or remove that folder: the run then begins "
            "again at step 0, computes its charged steps again, and charges none of them twice."
        )
    return None


def complete(folder: Path) -> list[Path]:
    """Return the checkpoints in the folder, oldest first; half-written ones are not among them."""
    return sorted(path for path in folder.glob(f"{_PREFIX}*") if path.is_dir())


def _checked(checkpoint: Path) -> Any:
    """Return the state as it is written in JSON, once the checksums are found right."""
    content = parsed((checkpoint / _STATE).read_bytes())
    if "sha256" not in content:
        logger.warning("%s has no checksums (an earlier version wrote it): it is read unchecked.", checkpoint)
        return content
    found = {_TENSORS: of_file(checkpoint / _TENSORS)["sha256"], "state": _sum(content["state"])}
    for name, digest in found.items():
        if digest != content["sha256"][name]:
            file = _STATE if name == "state" else name
            raise DamagedFile(f"{checkpoint} is not a whole checkpoint: {file} was changed after it was written.")
    return content["state"]


def _why(checkpoint: Path, error: Exception) -> str:
    known = isinstance(error, BadInput)
    return str(error) if known else f"{checkpoint} is not a whole checkpoint ({type(error).__name__})."


def _sum(tree: Any) -> str:
    return hashlib.sha256(json.dumps(tree).encode()).hexdigest()


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
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, PRIVATE_MODE)
        with os.fdopen(handle, "wb") as file:
            file.write(raw)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        name_file(error, path)
        raise
