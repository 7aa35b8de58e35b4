"""Where the files of a run lie: what is to share and what is private are two folders of the run's own."""

import os
from collections.abc import Iterator
from pathlib import Path

from sfumato.base.errors import BadInput

SHARED, PRIVATE = "export", "private"


def check_places(run: str | Path) -> None:
    """Refuse a run's folder where a link makes `export/` and `private/` one place, or leads out of one of them.

    Called by every command before it writes into a run's folder: seed, ledger and logs may never come to lie in what is
    shared, nor anything be written where the folder's name does not say. The folder itself may be reached by a link.

    Raises:
        BadInput: naming the link and where it leads.
    """
    root = Path(run)
    home = Path(os.path.realpath(root))
    for part in (SHARED, PRIVATE):
        for link in _links(root / part):
            to = Path(os.path.realpath(link))
            if link == root / part or not to.is_relative_to(home / part):
                raise BadInput(
                    f"{link} is a link to {to}: {SHARED}/ and {PRIVATE}/ of a run, and what "
                    f"is written into them, lie in its folder and apart from one another. Put a real "
                    f"{'folder' if to.is_dir() else 'file'} in its place, or name another folder."
                )


def _links(part: Path) -> Iterator[Path]:
    """Yield the links among a folder, what lies in it, and what lies in the folders there."""
    if part.is_symlink():
        yield part
    for found in (*part.glob("*"), *part.glob("*/*")) if part.is_dir() else ():
        if found.is_symlink():
            yield found
