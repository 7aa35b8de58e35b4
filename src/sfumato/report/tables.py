"""Tables of rows (a list of dicts) for a terminal and for Markdown. A cell cannot break out of its table."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from sfumato.base.text import visible
from sfumato.report.numbers import plain

Row = Mapping[Any, Any]  # keys are column names, also of a narrower type than str
_HTML = {"<": "&lt;", ">": "&gt;", "&": "&amp;"}
_MARKDOWN = str.maketrans({**_HTML, **{mark: f"\\{mark}" for mark in "\\`*[]|~$"}})
_EDGE = re.compile(r"(?<!\w)_|_(?!\w)")  # an underscore inside a word is only that
_LINK = re.compile(r"(?i)(?<=[a-z]):(?=//)|(?<=\bwww)\.|(?<=\w)@(?=\w)")  # what is made a link without brackets


def cell(value: Any) -> str:
    """Return a value as one line of text; a missing one as an empty cell.

    >>> cell("a\\nb"), cell(0.5), cell(None)
    ('a b', '0.5', '')
    """
    return "" if value is None else line(plain(value))


def line(text: str) -> str:
    """Return a text as one line: white space becomes single blanks, other control characters are spelled out.

    >>> line("a\\n b\\x1b[31m")
    'a b\\\\x1b[31m'
    """
    return visible(" ".join(text.split()))


def escaped(text: str) -> str:
    r"""Return a text as one line of Markdown that shows it as it stands: no markup, no HTML, no link.

    >>> print(escaped("[x](http://y) <b> _z_ a_b"))
    \[x\](http&#58;//y) &lt;b&gt; \_z\_ a_b
    """
    shown = _EDGE.sub(r"\_", line(text).translate(_MARKDOWN))
    return _LINK.sub(lambda found: f"&#{ord(found[0])};", shown)


def columns_of(rows: Sequence[Row]) -> list[str]:
    """Return the names of all columns, in the order of their first appearance."""
    return list(dict.fromkeys(name for row in rows for name in row))


def is_numeric(rows: Sequence[Row], column: str) -> bool:
    """Return whether every value of a column that is present is a number."""
    values = [row[column] for row in rows if row.get(column) is not None]
    return bool(values) and all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)


def markdown(rows: Sequence[Row], columns: Sequence[str] | None = None) -> str:
    """Return rows as a Markdown table, numbers to the right.

    >>> print(markdown([{"probe": "pixels", "accuracy": 0.842}]))
    | probe | accuracy |
    | --- | ---: |
    | pixels | 0.842 |
    """
    names = list(columns or columns_of(rows))
    lines = ["| " + " | ".join(escaped(cell(name)) for name in names) + " |"]
    lines.append("| " + " | ".join("---:" if is_numeric(rows, name) else "---" for name in names) + " |")
    for row in rows:
        lines.append("| " + " | ".join(escaped(cell(row.get(name))) for name in names) + " |")
    return "\n".join(lines)


def table(rows: Sequence[Row], columns: Sequence[str] | None = None, title: str | None = None) -> Table:
    """Return rows as a rich table for a terminal, numbers to the right; no cell is read as markup."""
    names = list(columns or columns_of(rows))
    made = Table(title=None if title is None else Text(line(title)), title_justify="left")
    for name in names:
        made.add_column(Text(cell(name)), justify="right" if is_numeric(rows, name) else "left")
    for row in rows:
        made.add_row(*(Text(cell(row.get(name))) for name in names))
    return made
