"""Writing a folder whole: what is half written is never seen under its name."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from sfumato.base import BadInput


@contextmanager
def whole_folder(folder: str | Path) -> Iterator[Path]:
    """Give an empty folder beside `folder`, and put it in its place when the `with` ends without an error.

    A new folder appears whole; in an existing one each file is replaced whole, weights (.safetensors) last, and files
    of other names stay. After an error nothing has changed.
    """
    path = Path(folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    try:
        with room_for(path):
            yield beside
        os.chmod(beside, 0o755)  # mkdtemp makes it private; an export is for sharing
        if path.exists():
            _replace(beside, path)
        else:
            os.rename(beside, path)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


@contextmanager
def room_for(path: Path) -> Iterator[None]:
    """Raise BadInput where a file cannot be written, on a full disk for one, and safetensors says so."""
    try:
        yield
    except SafetensorError as error:
        raise BadInput(
            f"{path} could not be written ({error}): what was there stays. Make room, and run the same command again."
        ) from None


def _replace(beside: Path, path: Path) -> None:
    files = [file for file in beside.rglob("*") if file.is_file()]
    for file in sorted(files, key=lambda file: (file.suffix == ".safetensors", file)):
        target = path / file.relative_to(beside)
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(file, target)
