"""Pictures below a folder, and captions in a .txt file next to each."""

import logging
import os
from collections import Counter
from pathlib import Path

from sfumato.base.errors import BadInput
from sfumato.data.files import inside, listed
from sfumato.data.formats import counted_kinds, is_readable_ending, kind_of
from sfumato.data.table import TABLES, check_captions

log = logging.getLogger(__name__)

_TEXTS = (".txt", *TABLES, ".json", ".md", ".html")  # what goes with pictures and is none: left out without a word


def picture_files(folder: Path) -> list[Path]:
    """Return the pictures below a folder, by ending, sorted; hidden files are left out, and others are counted by kind.

    Raises:
        BadInput: there is none.
    """
    names, kinds = _names(folder)
    pictures = [folder / name for name in names if is_readable_ending(name)]
    kinds += [kind_of(name) for name in names if not is_readable_ending(name) and _ending(name) not in _TEXTS]
    if not pictures:
        raise BadInput(f"{folder} holds no picture that is read here{_holds(kinds)}.")
    _warn(folder, kinds)
    return pictures


def _names(folder: Path) -> tuple[list[str], list[str]]:
    """Return the regular files below a folder, sorted, and what else there is, by kind."""
    names: list[str] = []
    others: list[str] = []
    closed: list[OSError] = []
    for place, folders, found in os.walk(folder, onerror=closed.append):
        others += ["linked folder" for name in folders if os.path.islink(os.path.join(place, name))]
        for name in found:
            path = os.path.join(place, name)
            if not name.startswith("."):
                names += [os.path.relpath(path, folder)] if os.path.isfile(path) else []
                others += [] if os.path.isfile(path) else ["not a regular file"]
    return sorted(names), others + ["folder that cannot be opened"] * len(closed)


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
    names, kinds = _names(folder)
    text_of = {_stem(name): name for name in names if _ending(name) == ".txt"}
    pictures = [name for name in names if is_readable_ending(name)]
    stems = {_stem(name) for name in pictures}
    others = [name for name in names if not is_readable_ending(name) and _ending(name) not in _TEXTS]
    captioned = [name for name in others if _stem(name) in text_of and _stem(name) not in stems]
    if captioned and (missing == "error" or not pictures):
        raise BadInput(
            f"{len(captioned)} captioned files in {folder} are of a kind that is not read here: "
            f"{counted_kinds(map(kind_of, captioned))}. Install what reads them, convert them to PNG or JPEG, or keep "
            "them with zero contribution by --missing zero."
        )
    kinds += [kind_of(name) for name in others if name not in set(captioned)]
    if not pictures:
        raise BadInput(f"{folder} holds no picture that is read here{_holds(kinds)}.")
    _warn(folder, kinds)
    return _captions(folder, sorted(pictures + captioned), text_of, names)


def _captions(
    folder: Path, pictures: list[str], text_of: dict[str, str], names: list[str]
) -> tuple[list[str], list[tuple[str, ...]]]:
    stems = [_stem(name) for name in pictures]
    bare = [name for name, stem in zip(pictures, stems) if stem not in text_of]
    if bare:
        tables = [name for name in names if _ending(name) in TABLES]
        hint = f" Is {tables[0]} the caption table? Then give --captions." if tables else ""
        raise BadInput(
            f"{len(bare)} of {len(pictures)} pictures in {folder} have no caption beside them: {bare[0]} needs "
            f"{_stem(bare[0])}.txt, or give a table with --captions.{hint}"
        )
    shared = [stem for stem, times in Counter(stems).items() if times > 1]
    if shared:
        raise BadInput(f"several pictures in {folder} share the caption file {text_of[shared[0]]}.")
    lone = [text_of[stem] for stem in sorted(set(text_of) - set(stems))]
    if lone:
        log.warning(
            "%s: %d caption files have no picture and are no records; the first is %s.", folder, len(lone), lone[0]
        )
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
