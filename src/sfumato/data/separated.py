"""Tables with separators, CSV and TSV: the separator, Excel's first line, and quotes that swallow rows.

A message names lines of the file (its first line is 1) and columns, never the content of a cell.
"""

import csv
import io
import itertools
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from sfumato.base.errors import BadInput
from sfumato.data.formats import is_picture_ending
from sfumato.data.header import shown
from sfumato.data.hints import counted
from sfumato.data.keys import text_key

_SEPARATORS = ",;\t|"
_EXCEL = re.compile(r'"?sep=(.)"?[ \t]*(?:\r\n|\r|\n|\Z)', re.IGNORECASE)
_IN_QUOTES = re.compile(
    r"""\s*=?\s*(?P<quote>["'])(?:(?!(?P=quote)).|(?<=\w)(?P=quote)(?=\w))*(?P=quote)\s*""", re.DOTALL
)
_FIELD_LIMIT = 1 << 24  # characters of one cell; the csv module's own 131,072 is short for a report
_TRIED = 20  # rows by which the separator is found
_Row = tuple[int, list[str]]  # the line on which it begins, and its cells


def separated(path: Path, text: str, folder: Path | None) -> dict[str, list[str]]:
    """Return the columns of a table with a header line; empty ones without a name, and a row count, are left out.

    Args:
        path: of the table.
        text: its content.
        folder: the pictures' folder, by which a row inside a cell is recognised; None goes by usual endings only.

    Raises:
        BadInput: a quote is wrong or swallows rows, a row has another number of cells, a column's name is repeated or
            missing.
    """
    csv.field_size_limit(max(csv.field_size_limit(), _FIELD_LIMIT))
    excel = _EXCEL.match(text)
    body = text[excel.end() :] if excel else text
    separator = excel[1] if excel else "\t" if path.suffix.lower() == ".tsv" else _separator(body)
    rows = list(_rows(path, _reader(body, separator, strict=True), 1 if excel else 0))
    if not rows:
        return {}
    names = _checked(path, rows, separator, folder)
    return {name: [row[place] for _, row in rows[1:]] for place, name in enumerate(names) if name}


def check_commas(path: Path, text: str, folder: Path) -> None:
    """Check a table that another reader reads, by commas, for which a quote behind a blank is part of the cell.

    Raises:
        BadInput: as `separated`.
    """
    csv.field_size_limit(max(csv.field_size_limit(), _FIELD_LIMIT))
    rows = list(_rows(path, csv.reader(io.StringIO(text, newline=""), strict=True), 0))
    if rows:
        _checked(path, rows, ",", folder)


def _checked(path: Path, rows: list[_Row], separator: str, folder: Path | None) -> list[str]:
    """Return the names of the columns. Raises BadInput for whatever is wrong with header or rows."""
    for line, row in rows:
        _check_not_merged(path, line, row, separator, folder)
    names = [text_key(name) for name in rows[0][1]]
    _check_header(path, names)
    _check_lengths(path, names, rows[1:])
    _check_named(path, names, rows[1:])
    return names


def _separator(text: str) -> str:
    """Return the separator by which most of the first rows have as many cells as the first, then the most cells."""
    return max(_SEPARATORS, key=lambda separator: _fit(text, separator))


def _fit(text: str, separator: str) -> tuple[int, int]:
    rows = filter(None, _reader(text, separator))
    try:
        lengths = [len(row) for row in itertools.islice(rows, _TRIED)]
    except csv.Error:
        return 0, 0
    return (lengths.count(lengths[0]), lengths[0]) if lengths and lengths[0] > 1 else (0, 0)


def _reader(text: str, separator: str, **options: Any) -> Any:
    """Return a reader for which blanks between a separator and a quote are none of the cell."""
    return csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True, **options)


def _rows(path: Path, reader: Any, skipped: int) -> Iterator[_Row]:
    while True:
        line = skipped + reader.line_num + 1
        try:
            row = next(reader, None)
        except csv.Error:
            raise BadInput(
                f"{path} is no valid table in the row that begins on line {line}: a quote or a separator is wrong."
            ) from None
        if row is None:
            return
        if row:
            yield line, row


def _check_not_merged(path: Path, line: int, row: list[str], separator: str, folder: Path | None) -> None:
    """Refuse a row with a cell that holds further rows: a quote that is never closed runs on to the next one."""
    for cell in row:
        lines = cell.splitlines()
        if len(lines) > 1 and any(_is_row(part, separator, folder) for part in lines):
            raise BadInput(
                f"{path} line {line}: a quote in this row runs over the rows that follow, so that several rows would "
                "be one. Close or remove the quote; a cell that is right as it is can be written in JSON lines."
            )


def _is_row(line: str, separator: str, folder: Path | None) -> bool:
    parts = [part.strip(' "') for part in line.split(separator)]
    return len(parts) > 1 and any(_names_picture(part, folder) for part in parts)


def _names_picture(part: str, folder: Path | None) -> bool:
    if is_picture_ending(part):
        return True
    return bool(part) and folder is not None and os.path.isfile(os.path.join(folder, part))


def _check_header(path: Path, names: list[str]) -> None:
    repeated = [place for place, name in enumerate(names) if name and names.index(name) != place]
    if repeated:
        known = shown(names)
        which = f" named {', '.join(sorted({repr(known[place]) for place in repeated}))}" if known else " of one name"
        raise BadInput(f"{path} has several columns{which}: its first line must name each column once.")


def _check_lengths(path: Path, names: list[str], rows: list[_Row]) -> None:
    odd = [(number, line) for number, (line, row) in enumerate(rows, 1) if len(row) != len(names)]
    if odd:
        numbers = counted([number for number, _ in odd])
        raise BadInput(
            f"{path} has {len(names)} columns, but {numbers} have another number of cells; the first is on line "
            f"{odd[0][1]}."
        )


def _check_named(path: Path, names: list[str], rows: list[_Row]) -> None:
    """Refuse a column without a name that holds something, but for the count of rows that pandas writes first."""
    for place in (place for place, name in enumerate(names) if not name):
        cells = [row[place].strip() for _, row in rows]
        filled = [number for number, cell in enumerate(cells, 1) if cell]
        counts = place == 0 and any(cells == [str(row + first) for row in range(len(cells))] for first in (0, 1))
        if filled and not counts:
            raise BadInput(
                f"{path}: column {place + 1} has no name in the first line and is not empty in {counted(filled)}: "
                "name it, or remove it."
            )


def check_unquoted(cells: Sequence[str], where: str, role: str) -> None:
    """Refuse cells that are still in quotes once they are read: some cells of the table are quoted in another way.

    Raises:
        BadInput: with count and first row numbers.
    """
    quoted = [number for number, cell in enumerate(cells, 1) if _keeps_quotes(cell)]
    if quoted:
        raise BadInput(
            f'{where}: the {role} is still in quotes, or has an open one, in {counted(quoted)}. Write the quotes "..." '
            "right behind the separator and in no other way, or write JSON lines, where quotes are text."
        )


def _keeps_quotes(cell: str) -> bool:
    text = cell.strip()
    return bool(_IN_QUOTES.fullmatch(text)) or (text.startswith('"') and text.count('"') % 2 == 1)
