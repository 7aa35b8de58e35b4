"""Checksums of what a run hands on: sha256 of each file of a folder, in `checksums.json` next to them.

A file that was changed since (a flipped bit, a block of zeros, a copy that was cut short) is an error that names it,
whoever reads it. The files of the model are also named in the card, if there is one: card and weights belong together.
This guards against accidents, not against an owner of the folder who writes new checksums.
"""

import fcntl
import hashlib
import json
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from sfumato.base.errors import BadInput
from sfumato.base.files import write_whole
from sfumato.base.parse import parsed

log = logging.getLogger(__name__)

NAME, CARD = "checksums.json", "card.json"
UNCHECKED = f"%s has no {NAME} (an earlier version wrote it, or it was taken away): its files are read unchecked."
Entries = dict[str, dict[str, Any]]  # by name below the folder: {"sha256": ..., "bytes": ...}


class DamagedFile(BadInput):
    """A file is not what was written: its checksum differs."""


def of_file(path: Path, size: int | None = None) -> dict[str, Any]:
    """Return checksum and size of a file, or of its first `size` bytes."""
    total, left = hashlib.sha256(), path.stat().st_size if size is None else size
    counted = left
    with path.open("rb") as file:
        while left and (block := file.read(min(left, 1 << 20))):
            total.update(block)
            left -= len(block)
    return {"sha256": total.hexdigest(), "bytes": counted}


def of_folder(folder: Path) -> Entries:
    """Return the entries of all files below a folder; hidden ones and the checksums themselves are left out."""
    return {name: of_file(folder / name) for name in _names(folder)}


def write(folder: Path, *, model: Mapping[str, Mapping[str, Any]], files: Mapping[str, Mapping[str, Any]]) -> None:
    """Write `checksums.json`: entries of the model's files, which must all be there, and of others."""
    content = {"schema": 1, "model": dict(sorted(model.items())), "files": dict(sorted(files.items()))}
    write_whole(folder / NAME, json.dumps(content, indent=1) + "\n")


def check(folder: Path) -> bool:
    """Return whether the files in `folder` are those that were written; False: it has no `checksums.json`.

    The model's files are then checked against the card alone. A log (.jsonl) may have grown since, or lost its end.
    Files that are not part of the model may be missing; a warning names them.

    Raises:
        DamagedFile: naming the first file that differs or is missing.
    """
    content, of_card = _read(folder), _of_card(folder)
    if content is None and of_card is None:
        return False
    model = dict((content or {}).get("model", {}))
    for name, digest in (of_card or {}).items():
        if model.setdefault(name, {"sha256": digest})["sha256"] != digest:
            raise DamagedFile(_differs(folder / name, f"{CARD} speaks of another file of that name"))
    for name, entry in model.items():
        if not (folder / name).is_file():
            raise DamagedFile(_differs(folder / name, "it is missing"))
        _check_file(folder / name, entry)
    for name, entry in (content or {}).get("files", {}).items():
        if (folder / name).is_file():
            _check_file(folder / name, entry)
    if missing := [name for name in (content or {}).get("files", {}) if not (folder / name).is_file()]:
        log.warning(
            "%s lists what is missing: %s. Put it back from a copy, or run the command that wrote it again.",
            folder / NAME,
            ", ".join(missing),
        )
    return content is not None


def of_model(folder: Path) -> list[str]:
    """Return the names of the model's files in a folder; without checksums those of all files in it."""
    content = _read(folder)
    return _names(folder) if content is None else list(content["model"])


@contextmanager
def replacing(folder: Path, *names: str) -> Iterator[None]:
    """Let files (or all below a folder) be written anew inside the `with`; where there are no checksums none are made.

    In the meantime they have no checksum, so that a process killed there leaves no false alarm.
    """
    _update(folder, names, add=False)
    try:
        yield
    finally:
        _update(folder, names, add=True)


def _update(folder: Path, names: tuple[str, ...], *, add: bool) -> None:
    if not (folder / NAME).is_file():
        return
    with _alone(folder):
        content = _read(folder)
        if content is None:
            return
        others = {name: entry for name, entry in content["files"].items() if not _below(name, names)}
        if add:
            others |= {name: of_file(folder / name) for name in _names(folder) if _below(name, names)}
        if others != content["files"]:
            write(folder, model=content["model"], files=others)


def _below(name: str, names: tuple[str, ...]) -> bool:
    return any(name == one or name.startswith(f"{one}/") for one in names)


def _names(folder: Path) -> list[str]:
    found = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    shown = [path.as_posix() for path in found if not any(part.startswith(".") for part in path.parts)]
    return sorted(name for name in shown if name != NAME)


def _check_file(path: Path, entry: Mapping[str, Any]) -> None:
    size, written = path.stat().st_size, entry.get("bytes")
    if path.suffix == ".jsonl" and written is not None:
        if size < written:
            return  # its end is lost: no line before it can be told apart from a whole one
    elif written is not None and size != written:
        raise DamagedFile(_differs(path, f"it has {size:,} bytes, {written:,} were written"))
    if of_file(path, written)["sha256"] != entry["sha256"]:
        raise DamagedFile(_differs(path, "its contents were changed"))


def _differs(path: Path, how: str) -> str:
    return (
        f"{path} is not the file that was written: {how}. Put it back from a copy; if its run is still there, the "
        "command that trained it writes it again."
    )


def _read(folder: Path) -> dict[str, Any] | None:
    path = folder / NAME
    if not path.is_file():
        return None
    try:
        content = parsed(path.read_bytes())
        if isinstance(content, dict) and not {"model", "files"} & content.keys():
            return None  # somebody else's file of that name
        entries = [*content["model"].values(), *content["files"].values()]
        sound = all(isinstance(entry["sha256"], str) for entry in entries)
    except (ValueError, KeyError, TypeError, AttributeError):
        sound = False
    if not sound:
        raise DamagedFile(_differs(path, "it is no list of checksums"))
    return content


def _of_card(folder: Path) -> dict[str, str] | None:
    """Return the checksums of the model's files that the card holds; None where it holds none, or is no card."""
    try:
        files = parsed((folder / CARD).read_bytes())["files"]
        return {str(name): str(digest) for name, digest in files.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold a lock on the folder, so that two commands that finish at once both leave their entries."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # a file system without locks: the entries may then be written one over the other
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
