"""The tables of pictures that `datasets` reads itself (metadata.csv, metadata.jsonl), held to the rules of our own.

Its reader takes what no rule of ours lets pass: rows that a stray quote has merged, of which all owners but one are
lost; a column that is there twice; an object with a key twice. So the files are read once more, before it is asked.
"""

import os
from pathlib import Path

from sfumato.base.errors import BadInput
from sfumato.data.regular import text_of
from sfumato.data.separated import check_commas
from sfumato.data.table import check_keys
from sfumato.data.unlisted import visible


def named(path: Path, name: str) -> list[Path]:
    """Return the files of that name in a folder and below it, without hidden ones."""
    return sorted(Path(place, found) for place, found in visible(path) if found == name)


def check_metadata(path: Path) -> None:
    """Check every metadata.csv and metadata.jsonl of a folder of pictures.

    Raises:
        BadInput: as `separated` for a CSV; for JSON lines, of an object with a key twice. It names the file.
    """
    for file in named(path, "metadata.csv"):
        check_commas(file, _text(file), file.parent)
    for file in named(path, "metadata.jsonl"):
        check_keys(file, _text(file))


def _text(file: Path) -> str:
    if not os.path.isfile(file):
        raise BadInput(f"{file} is not a regular file.")
    return text_of(file)
