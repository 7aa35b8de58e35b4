"""The one place that prints. What is shown may hold names and captions from elsewhere: none of it is read as markup,
and what a terminal would obey is spelled out (`visible`).
"""

import io
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.table import Table
from rich.text import Text

from sfumato.base.text import visible


def screen(*, error: bool = False) -> Console:
    """Return a console on stdout, or on stderr for progress, that reads no markup, emoji code or highlight."""
    return Console(file=sys.stderr if error else sys.stdout, markup=False, emoji=False, highlight=False)


def say(console: Console, *parts: str | tuple[str, str]) -> None:
    """Print one line, however long, of texts from anywhere, or of (text, style)."""
    line = Text()
    for text, style in ((part, "") if isinstance(part, str) else part for part in parts):
        line.append(visible(text), style)
    console.print(line, soft_wrap=True)


def show(console: Console, shown: str | Text | Table) -> None:
    """Print a paragraph, wrapped, or a table; a paragraph's own line ends stay."""
    console.print(shown if isinstance(shown, Table) else _safe(shown))


def _safe(shown: str | Text) -> Text:
    if isinstance(shown, str):
        return Text(visible(shown, keep="\n"))
    return Text(visible(shown.plain, keep="\n"), style=shown.style)


@contextmanager
def working(console: Console, what: str) -> Iterator[Callable[[str], None]]:
    """Show what is being done until the block ends; yields what changes the text."""
    with console.status(Text(visible(what))) as status:
        yield lambda text: status.update(Text(visible(text)))


def write_line(text: str, *, error: bool = False) -> None:
    """Write a plain line for people and programs, as wide as it is."""
    (sys.stderr if error else sys.stdout).write(visible(text) + "\n")


class OneLine(logging.Formatter):
    """A log record as one line of visible text; a traceback keeps its lines."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        return visible(super().format(record), keep="\n" if record.exc_info else "")


def take_any_text() -> None:
    """Let both streams spell what their encoding lacks, instead of failing on it."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and "utf" not in stream.encoding.lower():
            stream.reconfigure(errors="backslashreplace")
