"""Pictures of a folder that its table does not name: they are no records, and that is said before the first step."""

import logging
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from sfumato.data.formats import is_picture_ending

log = logging.getLogger(__name__)


def visible(path: str | os.PathLike[str]) -> Iterator[tuple[str, str]]:
    """Yield (folder, name) of everything below a folder that is not hidden; a linked folder counts as one thing."""
    for place, folders, names in os.walk(path):
        folders[:] = [name for name in folders if not name.startswith(".")]
        links = [name for name in folders if os.path.islink(os.path.join(place, name))]
        yield from ((place, name) for name in [*names, *links] if not name.startswith("."))


def say_unlisted(folder: Path, files: Iterable[str], where: str) -> int:
    """Return how many pictures below a folder are not among `files` (real paths), and warn where there are some."""
    listed = set(files)
    pictures = [os.path.join(place, name) for place, name in visible(folder) if is_picture_ending(name)]
    lone = sum(os.path.realpath(picture) not in listed for picture in pictures if os.path.isfile(picture))
    if lone:
        log.warning(
            "%s: %d of %d pictures in %s are not listed and are no records.", where, lone, len(pictures), folder
        )
    return lone
