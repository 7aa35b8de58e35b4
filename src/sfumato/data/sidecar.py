"""Pictures below a folder, and captions in a .txt file next to each."""

import logging
import os
from collections import Counter
from pathlib import Path

from sfumato.base.errors import BadInput
from sfumato.data.files import inside, listed
from sfumato.data.formats import counted_kinds, is_picture_ending, is_readable_ending, kind_of
from sfumato.data.keys import text_key
from sfumato.data.regular import text_of
from sfumato.data.table import TABLES, check_captions

log = logging.getLogger(__name__)

_ODD = "not a regular file"
_TEXTS = (".txt", *TABLES, ".json", ".md", ".html")  # what goes with pictures and is none: left out without a word


def picture_files(folder: Path) -> list[Path]:
    """Return the pictures below a folder, by ending, sorted; what is hidden is left out, and counted by kind.

    Raises:
        BadInput: there is none.
    """
    names, odd, kinds = _names(folder)
    pictures = [folder / name for name in names if is_readable_ending(name)]
    kinds += [_ODD] * len(odd) + [
        kind_of(name) for name in names if not is_readable_ending(name) and _ending(name) not in _TEXTS
    ]
    if not pictures:
        raise BadInput(f"{folder} holds no picture that is read here{_holds(kinds)}.")
    _warn(folder, kinds)
    return pictures


def _names(folder: Path) -> tuple[list[str], list[str], list[str]]:
    """Return the regular files below a folder, what else is no folder, and the kinds of folders that are left out."""
    names: list[str] = []
    odd: list[str] = []
    others: list[str] = []
    closed: list[OSError] = []
    for place, folders, found in os.walk(folder, onerror=closed.append):
        others += ["hidden folder" for name in folders if name.startswith(".")]
        folders[:] = [name for name in folders if not name.startswith(".")]
        others += ["linked folder" for name in folders if os.path.islink(os.path.join(place, name))]
        others += ["hidden file" for name in found if name.startswith(".") and is_picture_ending(name)]
        for path in (os.path.join(place, name) for name in found if not name.startswith(".")):
            (names if os.path.isfile(path) else odd).append(os.path.relpath(path, folder))
    return sorted(names), sorted(odd), others + ["folder that cannot be opened"] * len(closed)


def _ending(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def _stem(name: str) -> str:
    return os.path.splitext(name)[0]


def _holds(kinds: list[str]) -> str:
    return f"; it holds {counted_kinds(kinds)}" if kinds else ""


def _warn(folder: Path, kinds: list[str]) -> None:
    if kinds:
        log.warning("%s: left out %d that are not read as pictures: %s.", folder, len(kinds), counted_kinds(kinds))


def sidecars(folder: Path, missing: str = "error") -> tuple[list[str], list[tuple[str, ...]]]:
    """Return files and captions of a folder where x.txt captions x.png; sorted, so that row numbers are stable.

    Args:
        folder: with its sub-folders.
        missing: "zero" keeps captioned files of a kind that is not read as records with zero contribution.
    """
    names, odd, kinds = _names(folder)
    texts = [name for name in names + odd if _ending(name) == ".txt"]
    pictures = [name for name in names if is_readable_ending(name)]
    others = [name for name in names if not is_readable_ending(name) and _ending(name) not in _TEXTS]
    taken = {*_caption_files(texts, pictures)}
    unread = _captioned(others, texts, taken)
    pictures += _captioned([name for name in odd if _ending(name) not in _TEXTS], texts, taken)  # refused as missing
    if unread and (missing == "error" or not pictures):
        raise BadInput(
            f"{len(unread)} captioned files in {folder} are of a kind that is not read here: "
            f"{counted_kinds(map(kind_of, unread))}. Install what reads them, convert them to PNG or JPEG, or keep "
            "them with zero contribution by --missing zero."
        )
    kept = {*pictures, *unread, *texts}
    kinds += [_ODD for name in odd if name not in kept] + [kind_of(name) for name in others if name not in kept]
    if not pictures:
        raise BadInput(f"{folder} holds no picture that is read here{_holds(kinds)}.")
    _warn(folder, kinds)
    return _captions(folder, sorted(pictures + unread), names, texts)


def _captioned(names: list[str], texts: list[str], taken: set[str]) -> list[str]:
    """Return the names whose caption file is there and not that of a picture."""
    return [name for name, text in zip(names, _caption_files(texts, names)) if text and text not in taken]


def _captions(
    folder: Path, pictures: list[str], names: list[str], texts: list[str]
) -> tuple[list[str], list[tuple[str, ...]]]:
    chosen = _caption_files(texts, pictures)
    bare = [name for name, text in zip(pictures, chosen) if not text]
    if bare:
        tables = [name for name in names if _ending(name) in TABLES]
        hint = f" Is {tables[0]} the caption table? Then give --captions." if tables else ""
        raise BadInput(
            f"{len(bare)} of {len(pictures)} pictures in {folder} have no caption beside them: {bare[0]} needs "
            f"{_stem(bare[0])}.txt, or give a table with --captions.{hint}"
        )
    shared = [text for text, times in Counter(chosen).items() if times > 1]
    if shared:
        raise BadInput(f"several pictures in {folder} share the caption file {shared[0]}.")
    lone = sorted({*texts} - {*chosen})
    if lone:
        log.warning(
            "%s: %d caption files have no picture and are no records; the first is %s.", folder, len(lone), lone[0]
        )
    root = os.path.realpath(folder)
    files = listed(folder, pictures, str(folder))
    captions = [_sidecar_text(folder, root, text) for text in chosen]
    return files, check_captions(captions, f"caption files of {folder}")


def _caption_files(texts: list[str], pictures: list[str]) -> list[str]:
    """Return the .txt file of each picture, "" where it has none; a copied file's name may be composed otherwise."""
    by_stem = {_stem(name): name for name in texts}
    by_key = {text_key(stem): name for stem, name in by_stem.items()}
    stems = map(_stem, pictures)
    return [by_stem.get(stem) or by_key.get(text_key(stem), "") for stem in stems]


def _sidecar_text(folder: Path, root: str, name: str) -> str:
    inside(root, name, f"caption file {name}")
    return text_of(folder / name)
