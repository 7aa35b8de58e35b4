"""`sfumato report RUN`: one self-contained HTML page of a run. Imports no torch."""

import os
import sys
import webbrowser
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from sfumato.cli._screen import write_line
from sfumato.report import write_page

EXAMPLES = """
sfumato report runs/x
sfumato report runs/x --open no
"""


@dataclass(frozen=True, kw_only=True)
class ReportCommand:
    """Write RUN/export/report.html: the privacy claim, what the model learned, captions, the privacy card.

    The page needs no network and no script. Of RUN/private/ the ledger alone is read, to hold the card against it.
    """

    run: Annotated[Path, tyro.conf.Positional]
    """The folder of a run."""

    open: Literal["auto", "yes", "no"] = "auto"
    """Show the page in a browser; auto: where the command was typed at a desktop."""


def run(command: ReportCommand) -> int:
    """Write the page, say where it is, show it if asked."""
    path = write_page(command.run)
    write_line(str(path))
    if command.open == "yes" or (command.open == "auto" and _at_a_desktop()):
        webbrowser.open(path.resolve().as_uri())
    return 0


def _at_a_desktop() -> bool:
    has_screen = sys.platform in ("darwin", "win32") or bool(
        os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    )
    return has_screen and sys.stdout.isatty() and "CI" not in os.environ
