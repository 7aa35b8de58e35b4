"""Tables of rows (a list of dicts) for a terminal and for Markdown. A cell cannot break out of its table."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from sfumato.report.numbers import plain

Row = Mapping[Any, Any]  # keys are column names, also of a narrower type than str
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]+")  # escape codes, line ends, bidi overrides
_MARKDOWN = str.maketrans({"|": "\\|", "<": "&lt;", ">": "&gt;", "&": "&amp;", "\\": "\\\\", "`": "\\`", "*": "\\*"})


def cell(value: Any) -> str:
    """Return a value as one line of text; a missing one as an empty cell.

    >>> cell("a\\nb"), cell(0.5), cell(None)
    ('a b', '0.5', '')
    """
    return "" if value is None else _CONTROL.sub(" ", plain(value)).strip()


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
    lines = ["| " + " | ".join(cell(name).translate(_MARKDOWN) for name in names) + " |"]
    lines.append("| " + " | ".join("---:" if is_numeric(rows, name) else "---" for name in names) + " |")
    for row in rows:
        lines.append("| " + " | ".join(cell(row.get(name)).translate(_MARKDOWN) for name in names) + " |")
    return "\n".join(lines)


def table(rows: Sequence[Row], columns: Sequence[str] | None = None, title: str | None = None) -> Table:
    """Return rows as a rich table for a terminal, numbers to the right; no cell is read as markup."""
    names = list(columns or columns_of(rows))
    made = Table(title=None if title is None else Text(title), title_justify="left")
    for name in names:
        made.add_column(Text(cell(name)), justify="right" if is_numeric(rows, name) else "left")
    for row in rows:
        made.add_row(*(Text(cell(row.get(name))) for name in names))
    return made
