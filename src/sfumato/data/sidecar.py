"""Captions in a .txt file beside each picture."""

import os
from collections import Counter
from pathlib import Path

from sfumato.base.errors import BadInput
from sfumato.data.decode import EXTENSIONS
from sfumato.data.files import inside, listed
from sfumato.data.keys import text_key
from sfumato.data.regular import text_of
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
    chosen = _caption_files(names, pictures)
    bare = [name for name, text in zip(pictures, chosen) if not text]
    if bare:
        tables = [name for name in names if os.path.splitext(name)[1].lower() in TABLES]
        hint = f" Is {tables[0]} the caption table? Then give --captions." if tables else ""
        raise BadInput(
            f"{len(bare)} of {len(pictures)} pictures in {folder} have no caption beside them: {bare[0]} needs "
            f"{os.path.splitext(bare[0])[0]}.txt, or give a table with --captions.{hint}"
        )
    shared = [text for text, times in Counter(chosen).items() if times > 1]
    if shared:
        raise BadInput(f"several pictures in {folder} share the caption file {shared[0]}.")
    root = os.path.realpath(folder)
    files = listed(folder, pictures, str(folder))
    texts = [_sidecar_text(folder, root, text) for text in chosen]
    return files, check_captions(texts, f"caption files of {folder}")


def _caption_files(names: list[str], pictures: list[str]) -> list[str]:
    """Return the .txt file of each picture, "" where it has none; a copied file's name may be composed otherwise."""
    texts = {os.path.splitext(name)[0]: name for name in names if name.lower().endswith(".txt")}
    by_key = {text_key(stem): name for stem, name in texts.items()}
    stems = [os.path.splitext(name)[0] for name in pictures]
    return [texts.get(stem) or by_key.get(text_key(stem), "") for stem in stems]


def _sidecar_text(folder: Path, root: str, name: str) -> str:
    inside(root, name, f"caption file {name}")
    return text_of(folder / name)
