"""Writing a folder whole: what is half written is never seen under its name."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


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
        yield beside
        os.chmod(beside, 0o755)  # mkdtemp makes it private; an export is for sharing
        if path.exists():
            _replace(beside, path)
        else:
            os.rename(beside, path)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _replace(beside: Path, path: Path) -> None:
    files = [file for file in beside.rglob("*") if file.is_file()]
    for file in sorted(files, key=lambda file: (file.suffix == ".safetensors", file)):
        target = path / file.relative_to(beside)
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(file, target)
