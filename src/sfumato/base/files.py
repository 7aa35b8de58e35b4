"""Files that are there whole or not at all, and logs of JSON lines, which may lose their end."""

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sfumato.base.parse import parsed

PRIVATE_MODE, PUBLIC_MODE = 0o600, 0o644


def write_whole(path: Path, content: str | bytes, mode: int = PUBLIC_MODE) -> None:
    """Write a file under another name, flush it, and put it in its place: until then the former file stays as it is.

    Raises:
        OSError: naming `path`, on a full disk for one; nothing has changed then.
    """
    raw = content.encode(errors="backslashreplace") if isinstance(content, str) else content
    beside = None
    try:
        handle, beside = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
        with os.fdopen(handle, "wb") as file:
            file.write(raw)
            file.flush()
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        os.replace(beside, path)
    except BaseException as error:
        if beside is not None:
            Path(beside).unlink(missing_ok=True)
        if isinstance(error, OSError):
            name_file(error, path)
        raise
    sync_folder(path.parent)


def name_file(error: OSError, path: Path) -> None:
    """Let an error of the operating system (a full disk) name the file that was to be written."""
    if error.errno is not None:
        error.filename, error.filename2 = str(path), None


def sync_folder(folder: Path) -> None:
    """Flush a folder's list of names, so that a file made or renamed in it survives a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def append_line(path: Path, entry: Mapping[str, Any], mode: int = PUBLIC_MODE) -> None:
    """Append one JSON line to a log, in place of a torn end where there is one.

    One write per line, not flushed: unlike the ledger a log may lose its end in a power cut.
    """
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, mode)
    try:
        _cut_torn_end(handle)
        os.write(handle, (json.dumps(entry) + "\n").encode())
    except OSError as error:
        name_file(error, path)
        raise
    finally:
        os.close(handle)


def read_log(path: Path) -> list[dict[str, Any] | None]:
    """Return the object of each line of a log, None for a line in its midst that is none; [] where there is no file.

    Whatever its last lines have lost (the process was killed, the power went, the disk was full) is left out.
    """
    if not path.is_file():
        return []
    found = [_object(line) for line in path.read_bytes().split(b"\n")]
    while found and found[-1] is None:
        found.pop()
    return found


def _object(line: bytes) -> dict[str, Any] | None:
    try:
        value = parsed(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _cut_torn_end(handle: int) -> None:
    size = os.fstat(handle).st_size
    if size and os.pread(handle, 1, size - 1) != b"\n":
        os.ftruncate(handle, os.pread(handle, size, 0).rfind(b"\n") + 1)
