"""Tables of captions or of visual questions, CSV, TSV and JSON lines, and what is checked before the first step.

Messages name files, columns and row numbers (the first data row is 1), never the content of a cell.
"""

import csv
import difflib
import json
import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sfumato.base.errors import BadInput
from sfumato.data.roles import check_roles

TABLES = (".csv", ".tsv", ".jsonl", ".ndjson")
_SHOWN = 5  # row numbers that a message names
_GUESSES = {
    "image": ("file", "file_name", "filename", "image", "image_path", "filepath", "path"),
    "caption": ("caption", "text", "report", "sentence", "description"),
    "question": ("question",),
    "answer": ("answer", "answers"),
}
_OF_CAPTIONS = ("image", "caption", "owner", "label")
_OF_QUESTIONS = ("image", "question", "answer", "kind", "owner", "label")
_HALF = re.compile(r"\\u[dD][89a-fA-F]")  # half of a character outside the first 65,536, as JSON escapes it
_FIELD_LIMIT = 1 << 24  # characters of one cell; the csv module's own 131,072 is short for a report


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Which column is what; None for image, caption, question and answer means: the one column of a usual name.

    A table is one of questions where a question, answer or kind is named, or where it has a column "question" and none
    that is usual for captions.

    Attributes:
        image: file of the picture.
        caption: its text.
        owner: the person whose record the row belongs to. Without it each row is its own record; of questions, each
            picture with all its rows.
        label: class name, for probes.
        question: question about the picture.
        answer: its answer, or (JSON lines, Hugging Face) a list of all human answers.
        kind: type of the question, for tables.
    """

    image: str | None = None
    caption: str | None = None
    owner: str | None = None
    label: str | None = None
    question: str | None = None
    answer: str | None = None
    kind: str | None = None


def read_table(path: Path) -> dict[str, list[Any]]:
    """Return the columns of a CSV, TSV or JSON-lines file in UTF-8.

    Raises:
        BadInput: no such file, another format, not UTF-8, no rows, a row of the wrong length, a repeated column.
    """
    if not path.is_file():
        raise BadInput(f"caption table {path} does not exist{near(path.name, siblings(path))}.")
    if path.suffix.lower() not in TABLES:
        raise BadInput(f"caption table {path} must end in {', '.join(TABLES)}.")
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            table = _json_lines(path, file) if path.suffix.lower() in (".jsonl", ".ndjson") else _separated(path, file)
    except UnicodeDecodeError:
        raise BadInput(f"{path} is not UTF-8: save it as UTF-8.") from None
    if not table or not next(iter(table.values())):
        raise BadInput(f"{path} has no rows.")
    return table


def _separated(path: Path, file: Any) -> dict[str, list[Any]]:
    first = file.readline()
    file.seek(0)
    delimiter = "\t" if path.suffix.lower() == ".tsv" else max(",;\t", key=first.count)
    csv.field_size_limit(max(csv.field_size_limit(), _FIELD_LIMIT))
    reader = csv.reader(file, delimiter=delimiter, strict=True)
    try:
        names = [name.strip() for name in next(reader, [])]
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            raise BadInput(f"{path} has several columns named {', '.join(map(repr, repeated))}.")
        rows = [row for row in reader if row]
    except csv.Error:
        raise BadInput(
            f"{path} is no valid table near line {reader.line_num}: a quote or a separator is wrong."
        ) from None
    odd = [number for number, row in enumerate(rows, 1) if len(row) != len(names)]
    if odd:
        raise BadInput(f"{path} has {len(names)} columns, but {counted(odd)} have another number of cells.")
    return {name: [row[place] for row in rows] for place, name in enumerate(names)}


def _json_lines(path: Path, file: Any) -> dict[str, list[Any]]:
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(file, 1):
        if not line.strip():
            continue
        try:
            row = parsed(line)
        except ValueError:
            row = None
        if not isinstance(row, dict):
            raise BadInput(f"{path} line {number} is not one JSON object that can be read.")
        rows.append(row)
    names = list(dict.fromkeys(name for row in rows for name in row))
    return {name: [row.get(name) for row in rows] for name in names}


def parsed(text: str) -> Any:
    """Return the value of a JSON text.

    Raises:
        ValueError: it is none; or nobody could use it: nested too deep, a number of thousands of digits, half a
            character (a lone surrogate), which neither a file name nor a tokenizer takes.
    """
    try:
        value = json.loads(text)
        if _HALF.search(text):
            json.dumps(value, ensure_ascii=False).encode("utf-8")  # halves that stand alone raise UnicodeEncodeError
    except RecursionError:
        raise ValueError("nested too deep") from None
    return value


def resolve(columns: Columns, names: Sequence[str], where: str) -> Columns:
    """Return `columns` with the guesses filled in. Raises BadInput naming a column that is not there."""
    chosen: dict[str, str | None] = {}
    for role in _OF_QUESTIONS if _asks(columns, names, where) else _OF_CAPTIONS:
        name = getattr(columns, role)
        if name is None and role in _GUESSES:
            usual = _usual(role, names)
            if len(usual) != 1:
                raise BadInput(
                    f"{where}: which column is the {role}? Its columns are {', '.join(names)}; name one with "
                    f"--{role}-column."
                )
            name = usual[0]
        if name is not None and name not in names:
            raise BadInput(
                f"{where} has no column '{name}' (--{role}-column); its columns are "
                f"{', '.join(names)}{near(name, names)}."
            )
        chosen[role] = name
    check_roles(chosen, where)
    return Columns(**chosen)


def _usual(role: str, names: Sequence[str]) -> list[str]:
    return [known for known in names if known.lower() in _GUESSES[role]]


def _asks(columns: Columns, names: Sequence[str], where: str) -> bool:
    """Whether the table is one of questions. Raises BadInput where columns of both kinds are named."""
    if any((columns.question, columns.answer, columns.kind)):
        if columns.caption is not None:
            raise BadInput(
                f"{where}: --caption-column goes with captions, --question-column and --answer-column with visual "
                "questions, whose answer is what is learned: name only one kind."
            )
        return True
    return columns.caption is None and not _usual("caption", names) and bool(_usual("question", names))


def check_captions(values: Sequence[Any], where: str, role: str = "caption") -> list[tuple[str, ...]]:
    """Return each row's captions (a cell is a string or a list of strings), or texts of another role.

    Raises:
        BadInput: with count and first row numbers, where captions are empty or no text.
    """
    captions: list[tuple[str, ...]] = []
    empty, wrong = [], []
    for number, value in enumerate(values, 1):
        texts = tuple(value) if isinstance(value, list | tuple) else ("" if value is None else value,)
        if not all(isinstance(text, str) for text in texts):
            wrong.append(number)
        elif not texts or not all(text.strip() for text in texts):
            empty.append(number)
        else:
            captions.append(tuple(joined(text) for text in texts))
    if wrong:
        raise BadInput(f"{where}: the {role} is no text in {counted(wrong)}.")
    if empty:
        raise BadInput(f"{where}: the {role} is empty in {counted(empty)}. Fill or remove these rows.")
    return captions


def check_questions(values: Sequence[Any], where: str) -> list[str]:
    """Return each row's question. Raises BadInput with count and first row numbers of those empty or no one text."""
    several = [number for number, value in enumerate(values, 1) if isinstance(value, list | tuple)]
    if several:
        raise BadInput(f"{where}: the question is a list in {counted(several)}: give each question a row of its own.")
    return [texts[0] for texts in check_captions(values, where, "question")]


def check_answers(values: Sequence[Any], where: str) -> list[tuple[str, ...]]:
    """Return each row's answers, the commonest first. A cell is one answer or a list, as VQA2.0's of {"answer": ...}.

    Raises:
        BadInput: with count and first row numbers, where answers are missing or no text.
    """
    cells = [_answer(value) for value in values]  # {"answer": [...]} is how `datasets` gives such a list
    plain = [[_answer(part) for part in cell] if isinstance(cell, list | tuple) else cell for cell in cells]
    return [commonest_first(answers) for answers in check_captions(plain, where, "answer")]


def _answer(part: Any) -> Any:
    return part.get("answer", part) if isinstance(part, dict) else part


def commonest_first(answers: Sequence[str]) -> tuple[str, ...]:
    """Return all answers, the commonest first; of equally common ones the first given.

    >>> commonest_first(["teal", "blue", "green", "blue"])
    ('blue', 'blue', 'teal', 'green')
    """
    times = Counter(answers)
    return tuple(sorted(answers, key=lambda answer: -times[answer]))


def joined(text: str) -> str:
    """Return a text with single blanks.

    >>> joined(" what  is\\nthis ? ")
    'what is this ?'
    """
    return " ".join(text.split())


def names_of(values: Sequence[Any], where: str, role: str) -> list[str]:
    """Return names (of owners, labels, kinds, files) as strings: a text as it stands, a whole number by its digits.

    17 and 17.0, which a missing value turns a column of numbers into, are one owner; ["Ann", "Bob"] is none. Labels may
    also be true or false.

    Raises:
        BadInput: with count and first row numbers of cells that are empty, or neither text nor a whole number.
    """
    texts = [str(value) if role == "label" and isinstance(value, bool) else _name(value) for value in values]
    wrong = [number for number, text in enumerate(texts, 1) if text is None]
    if wrong:
        raise BadInput(f"{where}: the {role} is neither text nor a whole number in {counted(wrong)}.")
    empty = [number for number, text in enumerate(texts, 1) if not text]
    if empty:
        raise BadInput(f"{where}: the {role} is empty in {counted(empty)}.")
    return [text for text in texts if text]


def _name(value: Any) -> str | None:
    if value is None:
        return ""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value).strip() if isinstance(value, str | int) and not isinstance(value, bool) else None


def counted(numbers: Sequence[int]) -> str:
    """Return "3 rows (2, 5, 9)".

    >>> counted([1, 2, 3, 4, 5, 6])
    '6 rows (1, 2, 3, 4, 5, ...)'
    """
    shown = ", ".join(map(str, numbers[:_SHOWN])) + (", ..." if len(numbers) > _SHOWN else "")
    return f"{len(numbers)} row{'' if len(numbers) == 1 else 's'} ({shown})"


def near(name: str, known: Sequence[str]) -> str:
    """Return "; did you mean 'a', 'b'?" or nothing, comparing without regard to case."""
    by_lower: dict[str, str] = {}
    for other in known:
        by_lower.setdefault(other.lower(), other)
    found = difflib.get_close_matches(name.lower(), list(by_lower), n=3, cutoff=0.6)
    return f"; did you mean {', '.join(repr(by_lower[other]) for other in found)}?" if found else ""


def siblings(path: Path) -> list[str]:
    """Return up to 10,000 names beside a path, for near matches."""
    if not path.parent.is_dir():
        return []
    return sorted(os.listdir(path.parent))[:10_000]
