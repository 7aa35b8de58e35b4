"""Names of columns: which are usual, which one is meant, and which may be shown.

The first line of a table may be a row of the data, where the line of names was forgotten. So it is shown only where it
reads like names.
"""

from collections.abc import Sequence

from sfumato.data.formats import is_picture_ending
from sfumato.data.keys import text_key

GUESSES = {
    "image": ("file", "file_name", "filename", "image", "image_path", "filepath", "path"),
    "caption": ("caption", "text", "report", "sentence", "description"),
    "question": ("question",),
    "answer": ("answer", "answers"),
}
_USUAL = frozenset(name for names in GUESSES.values() for name in names)
_LONGEST = 40  # characters of a name that is shown


def usual(role: str, names: Sequence[str]) -> list[str]:
    """Return those of the names that are usual for a role, in any case."""
    return [name for name in names if text_key(name).lower() in GUESSES[role]]


def match_name(name: str, names: Sequence[str]) -> str | None:
    """Return the column that a name means: itself, or else the one that is written in another way."""
    if name in names:
        return name
    return next((other for other in names if text_key(other) == text_key(name)), None)


def shown(names: Sequence[str], named: Sequence[str] = ()) -> list[str]:
    """Return the names if they read like a line of names, else none: then they may be a row of the data.

    They do where one of them is usual or named by the user, and none is long or a picture's file.
    """
    known = {text_key(name) for name in named}
    reads = any(text_key(name).lower() in _USUAL or text_key(name) in known for name in names)
    odd = any(len(name) > _LONGEST or is_picture_ending(name) for name in names)
    return list(names) if reads and not odd else []
