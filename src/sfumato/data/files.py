"""Checks of files that a user lists, all before the first step and none of pixels.

Messages go to the person who holds the data: they name files, columns and row numbers, never captions or owners.
"""

import logging
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from sfumato.base.errors import BadInput, UndecodableRow
from sfumato.data.decode import Decoder, head, header
from sfumato.data.dicom import NeedsPackage
from sfumato.data.formats import TOO_LARGE, NoPicture, Source, counted_kinds, kind_of, needs_more
from sfumato.data.hints import counted, near, presentable, siblings
from sfumato.data.keys import text_key
from sfumato.data.regular import is_special
from sfumato.data.table import names_of
from sfumato.data.window import check_window

log = logging.getLogger(__name__)

MISSING = ("error", "zero")
_FEW, _FEW_OF = 5, 10  # a missing file is named where no more are missing, or no more than every tenth


def listed(folder: Path, cells: Sequence[Any], where: str) -> list[str]:
    """Return the listed files as real paths relative to the folder. Raises BadInput for what is empty or leaves it."""
    root = os.path.realpath(folder)
    names = names_of(cells, where, "image")
    spelled = Spellings(root)
    return [os.path.relpath(spelled.found(name, f"{where} row {row}"), root) for row, name in enumerate(names, 1)]


def inside(root: str, name: str, where: str) -> str:
    """Return the real path of a listed file. Raises BadInput where it leaves the real path `root`."""
    if "\0" not in name:
        real = os.path.realpath(os.path.join(root, name))  # behind symbolic links
        if real.startswith(os.path.join(root, "")) and real != root:
            return real
    raise BadInput(f"{where}: the file lies outside the picture folder; give the folder that holds all files.")


class Spellings:
    """Files below a folder, found also where a table writes a name in another Unicode form than the disk."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._names_of: dict[str, dict[str, list[str]]] = {}  # folder -> key -> names in it

    def found(self, name: str, where: str) -> str:
        """Return the real path of a listed file, whether it exists or not. Raises BadInput as `inside`."""
        real = inside(self._root, name, where)
        if os.path.lexists(real):
            return real
        place = os.path.join(self._root, name)
        link = os.path.join(os.path.realpath(os.path.dirname(place)), os.path.basename(place))
        if os.path.islink(link) and link.startswith(os.path.join(self._root, "")):
            return link  # to nothing: known by its own name, not by that of what is not there
        place = self._root
        for part in os.path.relpath(real, self._root).split(os.sep):
            place = os.path.join(place, self._written(place, part))
        return inside(self._root, place, where)

    def _written(self, folder: str, part: str) -> str:
        """Return the one name in a folder that is the same but for its spelling; the name itself where none is."""
        if os.path.lexists(os.path.join(folder, part)) or not os.path.isdir(folder):
            return part
        if folder not in self._names_of:
            by_key = self._names_of[folder] = {}
            for name in os.listdir(folder):
                by_key.setdefault(text_key(name), []).append(name)
        alike = self._names_of[folder].get(text_key(part), [])
        return alike[0] if len(alike) == 1 else part


def check_rows(
    files: list[str],
    texts: list[tuple[str, ...]],
    owners: list[str] | None,
    where: str,
    same: str = "same picture, same caption",
) -> None:
    """Refuse what would make one person count as several records, or one picture as two; `same` is of the message."""
    seen: dict[Any, int] = {}
    owner_of: dict[str, int] = {}
    twice, again, stranger = [], [], []
    for place, file in enumerate(files):
        if seen.setdefault((file, texts[place]), place) != place:
            twice.append(place + 1)
        first = owner_of.setdefault(file, place)
        if first != place:
            again.append(place + 1)
            if owners is not None and owners[first] != owners[place]:
                stranger.append(place + 1)
    if twice:
        raise BadInput(f"{where}: {counted(twice)} repeat an earlier row ({same}). Remove them.")
    if again and owners is None:
        raise BadInput(
            f"{where}: {counted(again)} name a picture again. One person must be one record: name the column of the "
            "person with --owner-column (the image column itself, if a picture is a person)."
        )
    if stranger:
        raise BadInput(f"{where}: {counted(stranger)} name a picture that an earlier row gives to another owner.")


def stamps(
    root: str, files: list[str], folder: Path, missing: str, sought: str | None = None, *, of_cells: bool = True
) -> list[str]:
    """Return size and time of change of each file ("" where missing). Raises BadInput for missing files.

    What is no regular file (a pipe, a device, a folder) is missing: it is never opened. `sought` says how the files are
    named, for a message that names none: where a picture is a record. `of_cells`: the files are cells of a table, which
    are shown only where few are missing and the first reads like a file: another column may have been named.
    """
    stamp_of = {file: stamp(os.path.join(root, file)) for file in dict.fromkeys(files)}
    found = [stamp_of[file] for file in files]
    absent = [number for number, stamp in enumerate(found, 1) if not stamp]
    if absent and (missing == "error" or len(absent) == len(files)):
        raise BadInput(
            f"{counted(absent)} of {len(files)} name a picture that is not in {folder}"
            f"{f'; {sought}.' if sought else _example(root, files, absent, of_cells)} "
            "Rows may be kept with zero contribution by --missing zero."
        )
    return found


def _example(root: str, files: list[str], absent: list[int], of_cells: bool) -> str:
    """Return the end of a sentence that names the first missing file, or says what to check where it is not shown."""
    first = files[absent[0] - 1]
    reads = presentable(first)
    few = len(absent) <= max(_FEW, len(files) // _FEW_OF)
    if not of_cells or (reads and few):
        return f"; the first is {first}{_hint(Path(root, first))}"
    if reads:
        return ": is it the right folder, and are names written as on the disk (capital letters, sub-folders)?"
    return ": check that --image-column names the column of the files."


def _hint(path: Path) -> str:
    if os.path.islink(path):
        return ", a link that leads to no file."
    if is_special(path) or os.path.isdir(path):
        return ", which is not a regular file."
    return near(path.name, siblings(path)) or "."


def stamp(path: str) -> str:
    """Return size and time of change of a regular file, "" where there is none."""
    try:
        stat = os.stat(path)
        return f"{stat.st_size}:{stat.st_mtime_ns}" if os.path.isfile(path) else ""
    except (OSError, ValueError):
        return ""


def probe(
    root: str, files: list[str], decoder: Decoder, folder: Path, *, missing: str = "error", named: bool = True
) -> None:
    """Read every header once: refuse undeclared depth, kinds that are not read here, and a folder without pictures.

    With `missing` "zero" what is of such a kind stays, as a record with zero contribution. Without `named` a message
    does not name the file: where a picture is a record.
    """
    distinct = dict.fromkeys(files)
    pictures = (
        (os.path.join(root, file), os.path.join(folder, file) if named else f"a picture in {folder}")
        for file in distinct
    )
    readable, unread = _headers(pictures, decoder, str(folder))
    if not readable:
        kinds = f": {counted_kinds(unread)}" if unread else ""
        raise BadInput(f"none of the {len(distinct)} files listed in {folder} is a picture that can be read{kinds}.")
    _check_unread(unread, len(distinct), str(folder), missing)


def probe_headers(
    pictures: Iterable[tuple[Source, str]], decoder: Decoder, where: str, *, missing: str = "zero"
) -> int:
    """Return how many of the (source, name) headers can be read, and say of what kinds the others are.

    Raises:
        BadInput: naming the first that is refused; or, after all were looked at, how many need which package, or with
            `missing` "error" how many are of a kind that is not read here.
    """
    readable, unread = _headers(pictures, decoder, where)
    _check_unread(unread, readable + len(unread), where, missing)
    return readable


def _headers(pictures: Iterable[tuple[Source, str]], decoder: Decoder, where: str) -> tuple[int, list[str]]:
    """Return how many headers can be read, and the kind of each that cannot: its picture contributes nothing."""
    readable, unread = 0, []
    needed: Counter[str] = Counter()
    for source, name in pictures:
        try:
            found = header(source)
            if found.deep:
                check_window(decoder.window, found.full)
        except UndecodableRow as error:
            unread.append(error.kind if isinstance(error, NoPicture) else _kind(source, str(error)))
        except NeedsPackage as error:
            needed[str(error)] += 1
        except BadInput as error:
            raise BadInput(f"{name}: {error}") from None
        else:
            too_large = found.width * found.height > decoder.max_pixels
            unread += ["larger than --max-pixels"] if too_large else []
            readable += not too_large
    if needed:
        looked = readable + len(unread) + needed.total()
        lacking = " ".join(f"{times} of {looked} pictures: {what}" for what, times in needed.most_common())
        raise BadInput(f"{where}: {lacking}")
    return readable, unread


def _kind(source: Source, message: str) -> str:
    if message.startswith(TOO_LARGE):
        return "larger than --max-pixels"
    try:
        begins = head(source)
    except OSError:
        begins = b""
    return kind_of("" if isinstance(source, bytes) else os.fspath(source), begins)


def _check_unread(unread: list[str], total: int, where: str, missing: str) -> None:
    """Say which pictures contribute nothing. Raises BadInput for kinds that are not read here, if they are errors."""
    lacking = [kind for kind in unread if needs_more(kind)]
    if lacking and missing == "error":
        raise BadInput(
            f"{len(lacking)} of {total} pictures in {where} are of a kind that is not read here: "
            f"{counted_kinds(lacking)}. Install what reads them, convert them to PNG or JPEG, or keep them with zero "
            "contribution by --missing zero."
        )
    if unread:
        log.warning(
            "%d of %d pictures looked at cannot be read and contribute nothing: %s.",
            len(unread),
            total,
            counted_kinds(unread),
        )
