"""The one place that prints. What is shown may hold names and captions from elsewhere: none of it is read as markup,
and what a terminal would obey is spelled out (`visible`).
"""

import io
import logging
import os
import shutil
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress

from rich.console import Console
from rich.table import Table
from rich.text import Text

from sfumato.base.text import visible

_NARROWEST = 40  # columns; to set a table or a help text in fewer takes for ever


class _Screen(Console):
    """A console that leaves it to the frame what is done when nobody reads on (`| head`)."""

    def on_broken_pipe(self) -> None:
        """Called while the error is handled."""
        raise BrokenPipeError


def screen(*, error: bool = False) -> Console:
    """Return a console on stdout, or on stderr for progress, that reads no markup, emoji code or highlight."""
    with wide_enough():
        file = sys.stderr if error else sys.stdout
        console = _Screen(file=file, markup=False, emoji=False, highlight=False)
        if console.width < _NARROWEST:
            console.width = _NARROWEST
        return console


@contextmanager
def wide_enough() -> Iterator[None]:
    """Let what is written inside the `with` be at least so wide that it can be laid out, whatever the terminal says."""
    before = os.environ.get("COLUMNS")
    narrow = shutil.get_terminal_size().columns < _NARROWEST
    if narrow:
        os.environ["COLUMNS"] = str(_NARROWEST)
    try:
        yield
    finally:
        if narrow and before is None:
            del os.environ["COLUMNS"]
        elif narrow and before is not None:
            os.environ["COLUMNS"] = before


@contextmanager
def spelled_where_unseen(arguments: Sequence[str]) -> Iterator[None]:
    """Spell out what a terminal would obey in all that is written inside the `with`, where an argument holds such.

    A parser of arguments repeats a wrong one as it is. Its own colours are lost then.
    """
    if all(visible(argument) == argument for argument in arguments):
        yield
        return
    told, error = io.StringIO(), io.StringIO()
    try:
        with redirect_stdout(told), redirect_stderr(error):
            yield
    finally:
        sys.stdout.write(visible(told.getvalue(), keep="\n"))
        sys.stderr.write(visible(error.getvalue(), keep="\n"))


def is_of_stdout(error: OSError) -> bool:
    """Return whether an error that names no file came up in writing for the screen: other writers name theirs."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    return bool(frames) and frames[-1].f_globals.get("__name__", "").startswith(("sfumato.cli", "rich.", "tyro."))


def let_go_of_stdout() -> None:
    """Let what is still to be written to stdout go nowhere, so that Python can end in peace."""
    with suppress(AttributeError, io.UnsupportedOperation):  # None, or nothing that the system knows of
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def open_closed() -> None:
    """Let what is written to a stream that the caller closed (`>&-`) go nowhere.

    Its number is taken as well: a file that is opened later would get it, and what others write to the stream.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            handle = os.open(os.devnull, os.O_RDWR)  # the lowest free number, which is that of the stream
            os.set_inheritable(handle, True)
            setattr(sys, name, os.fdopen(handle, mode, encoding="utf-8"))


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
