"""What messages say of rows and names: counts, row numbers and near matches, never the content of a cell."""

import difflib
import os
from collections.abc import Sequence
from pathlib import Path

from sfumato.data.formats import is_picture_ending
from sfumato.data.keys import text_key

_SHOWN = 5  # row numbers that a message names
_LONGEST = 200  # characters of a file's name that is shown


def counted(numbers: Sequence[int]) -> str:
    """Return "3 rows (2, 5, 9)".

    >>> counted([1, 2, 3, 4, 5, 6])
    '6 rows (1, 2, 3, 4, 5, ...)'
    """
    shown = ", ".join(map(str, numbers[:_SHOWN])) + (", ..." if len(numbers) > _SHOWN else "")
    return f"{len(numbers)} row{'' if len(numbers) == 1 else 's'} ({shown})"


def near(name: str, known: Sequence[str]) -> str:
    """Return "; did you mean 'a', 'b'?" or nothing, comparing without regard to case; so `near(...) or "."` ends all.

    The name itself is never suggested; one that only looks the same is written with escapes.
    """
    by_lower: dict[str, str] = {}
    for other in known:
        if other != name:
            by_lower.setdefault(other.lower(), other)
    found = difflib.get_close_matches(name.lower(), list(by_lower), n=3, cutoff=0.6)
    shown = [_distinct(by_lower[other], name) for other in found]
    return f"; did you mean {', '.join(shown)}?" if shown else ""


def _distinct(other: str, name: str) -> str:
    return ascii(other) if text_key(other) == text_key(name) else repr(other)


def presentable(name: str) -> bool:
    """Say whether the cell of a column that was taken for that of picture files may be shown: it reads like a file.

    A caption, an owner or a page of text that stands there is not shown.

    >>> presentable("scans/7 a.PNG"), presentable("a cat."), presentable("7"), presentable("x" * 5000 + ".png")
    (True, False, False, False)
    """
    return is_picture_ending(name) and len(name) <= _LONGEST and name.isprintable()


def siblings(path: Path) -> list[str]:
    """Return up to 10,000 names beside a path, for near matches."""
    if not os.path.isdir(path.parent):
        return []
    return sorted(os.listdir(path.parent))[:10_000]
