"""Captions in a .txt file beside each picture."""

import os
from collections import Counter
from pathlib import Path

from sfumato.base.errors import BadInput
from sfumato.data.decode import EXTENSIONS
from sfumato.data.files import inside, listed
from sfumato.data.table import TABLES, check_captions


def picture_files(folder: Path) -> list[Path]:
    """Return the pictures below a folder, by ending, sorted; hidden files are left out.

    Raises:
        BadInput: there is none.
    """
    pictures = [folder / name for name in _names(folder) if os.path.splitext(name)[1].lower() in EXTENSIONS]
    if not pictures:
        raise BadInput(f"{folder} holds no picture ({', '.join(sorted(EXTENSIONS))}).")
    return pictures


def _names(folder: Path) -> list[str]:
    return sorted(
        os.path.relpath(os.path.join(place, name), folder)
        for place, _, found in os.walk(folder)
        for name in found
        if not name.startswith(".")
    )


def sidecars(folder: Path) -> tuple[list[str], list[tuple[str, ...]]]:
    """Return files and captions of a folder where x.txt captions x.png; sorted, so that row numbers are stable."""
    names = _names(folder)
    pictures = [os.path.relpath(path, folder) for path in picture_files(folder)]
    text_of = {os.path.splitext(name)[0]: name for name in names if name.lower().endswith(".txt")}
    stems = [os.path.splitext(name)[0] for name in pictures]
    bare = [name for name, stem in zip(pictures, stems) if stem not in text_of]
    if bare:
        tables = [name for name in names if os.path.splitext(name)[1].lower() in TABLES]
        hint = f" Is {tables[0]} the caption table? Then give --captions." if tables else ""
        raise BadInput(
            f"{len(bare)} of {len(pictures)} pictures in {folder} have no caption beside them: {bare[0]} needs "
            f"{os.path.splitext(bare[0])[0]}.txt, or give a table with --captions.{hint}"
        )
    shared = [stem for stem, times in Counter(stems).items() if times > 1]
    if shared:
        raise BadInput(f"several pictures in {folder} share the caption file {text_of[shared[0]]}.")
    root = os.path.realpath(folder)
    files = listed(folder, pictures, str(folder))
    texts = [_sidecar_text(folder, root, text_of[stem]) for stem in stems]
    return files, check_captions(texts, f"caption files of {folder}")


def _sidecar_text(folder: Path, root: str, name: str) -> str:
    inside(root, name, f"caption file {name}")
    try:
        return (folder / name).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError):
        raise BadInput(f"caption file {folder / name} cannot be read as UTF-8 text.") from None
