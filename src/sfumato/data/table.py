"""Tables of captions or of visual questions, CSV, TSV and JSON lines, and what is checked before the first step.

Messages name files, columns and row numbers (the first data row is 1), never the content of a cell.
"""

import io
import json
import math
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from sfumato.base.errors import BadInput
from sfumato.data.header import GUESSES, match_name, shown, usual
from sfumato.data.hints import counted, near, siblings
from sfumato.data.keys import is_blank, owner_key, spells_missing
from sfumato.data.regular import text_of
from sfumato.data.roles import check_roles
from sfumato.data.separated import separated

JSON_LINES = (".jsonl", ".ndjson")
TABLES = (".csv", ".tsv", *JSON_LINES)
_OF_CAPTIONS = ("image", "caption", "owner", "label")
_OF_QUESTIONS = ("image", "question", "answer", "kind", "owner", "label")
_UNSHOWN = " The first line must name the columns; it is not shown, because it may be a row of the data."
_CONTROLS = re.compile(r"[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f]")  # but for those that are white space
_EXACT = 1 << 53  # from which a number with a decimal point may be a rounded one
_HALF = re.compile(r"\\u[dD][89a-fA-F]")  # half of a character outside the first 65,536, as JSON escapes it


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


def read_table(path: Path, folder: Path | None = None) -> dict[str, list[Any]]:
    """Return the columns of a CSV, TSV or JSON-lines file in UTF-8, or in UTF-16 with its byte order mark.

    Args:
        path: of the table.
        folder: of the pictures, to recognise rows that a stray quote has drawn into a cell (see `separated`).

    Raises:
        BadInput: no such file, another format, not UTF-8, no rows, a row of the wrong length, a repeated column, a
            quote that swallows rows.
    """
    if not os.path.isfile(path):
        lacks = f"does not exist{near(path.name, siblings(path)) or '.'}"
        raise BadInput(f"caption table {path} {'is not a regular file.' if os.path.exists(path) else lacks}")
    ending = path.suffix.lower()
    if ending not in TABLES:
        raise BadInput(f"caption table {path} must end in {', '.join(TABLES)}.")
    text = text_of(path)
    table = _json_lines(path, text) if ending in JSON_LINES else separated(path, text, folder)
    if not table or not next(iter(table.values())):
        raise BadInput(f"{path} has no rows.")
    return table


def check_keys(path: Path, text: str) -> None:
    """Refuse JSON lines, which another reader reads, with a key twice in one object. Raises BadInput."""
    for _ in _values(path, text):
        pass


def _values(path: Path, text: str) -> Iterator[tuple[int, Any]]:
    """Yield number and value of each line that is not blank; None of one that is no JSON."""
    for number, line in enumerate(io.StringIO(text, newline=""), 1):
        if not line.strip():
            continue
        try:
            yield number, parsed(line)
        except Repeated:
            raise BadInput(f"{path} line {number} has a key twice in one object: which value is meant?") from None
        except ValueError:
            yield number, None


def _json_lines(path: Path, text: str) -> dict[str, list[Any]]:
    rows: list[dict[str, Any]] = []
    for number, row in _values(path, text):
        if not isinstance(row, dict):
            raise BadInput(f"{path} line {number} is not one JSON object that can be read.")
        rows.append(row)
    names = list(dict.fromkeys(name for row in rows for name in row))
    return {name: [row.get(name) for row in rows] for name in names}


class Repeated(ValueError):
    """A key stands twice in one JSON object, of which Python would take the last."""


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise Repeated("a key is repeated")
    return found


def parsed(text: str) -> Any:
    """Return the value of a JSON text.

    Raises:
        ValueError: it is none; or nobody could use it: nested too deep, a number of thousands of digits, half a
            character (a lone surrogate), which neither a file name nor a tokenizer takes.
        Repeated: a key stands twice in one object.
    """
    try:
        value = json.loads(text, object_pairs_hook=_once)
        if _HALF.search(text):
            json.dumps(value, ensure_ascii=False).encode("utf-8")  # halves that stand alone raise UnicodeEncodeError
    except RecursionError:
        raise ValueError("nested too deep") from None
    return value


def resolve(columns: Columns, names: Sequence[str], where: str, *, declared: bool = False) -> Columns:
    """Return `columns` with the guesses filled in.

    Args:
        columns: what the user names.
        names: of the columns that are there.
        where: of messages.
        declared: each name is one for certain, as keys in JSON lines are; the first line of a CSV may be a row of data.

    Raises:
        BadInput: naming a column that is not there, or a role whose column is not clear.
    """
    chosen: dict[str, str | None] = {}
    named = [name for name in vars(columns).values() if name is not None]
    known = list(names) if declared else shown(names, named)
    listing = f" Its columns are {', '.join(known)}." if known else _UNSHOWN
    for role in _OF_QUESTIONS if _asks(columns, names, where) else _OF_CAPTIONS:
        name = getattr(columns, role)
        if name is None and role in GUESSES:
            found = usual(role, names)
            if len(found) != 1:
                raise BadInput(f"{where}: which column is the {role}? Name it with --{role}-column.{listing}")
            name = found[0]
        elif name is not None:
            name = match_name(name, names)
            if name is None:
                given = getattr(columns, role)
                raise BadInput(f"{where} has no column '{given}' (--{role}-column){near(given, known) or '.'}{listing}")
        chosen[role] = name
    check_roles(chosen, where)
    return Columns(**chosen)


def _asks(columns: Columns, names: Sequence[str], where: str) -> bool:
    """Whether the table is one of questions. Raises BadInput where columns of both kinds are named."""
    if any((columns.question, columns.answer, columns.kind)):
        if columns.caption is not None:
            raise BadInput(
                f"{where}: --caption-column goes with captions, --question-column and --answer-column with visual "
                "questions, whose answer is what is learned: name only one kind."
            )
        return True
    return columns.caption is None and not usual("caption", names) and bool(usual("question", names))


def check_captions(values: Sequence[Any], where: str, role: str = "caption") -> list[tuple[str, ...]]:
    """Return each row's captions (a cell is a string or a list of strings), or texts of another role.

    Raises:
        BadInput: with count and first row numbers, where captions are empty, only spell a missing value ("nan"), are
            no text or hold a zero byte.
    """
    captions: list[tuple[str, ...]] = []
    empty, spelled, wrong, nul = [], [], [], []
    for number, value in enumerate(values, 1):
        texts = tuple(value) if isinstance(value, list | tuple) else ("" if value is None else value,)
        if not all(isinstance(text, str) for text in texts):
            wrong.append(number)
        elif any("\0" in text for text in texts):
            nul.append(number)
        elif not texts or any(is_blank(text) for text in texts):
            empty.append(number)
        elif _says_nothing(value, texts, role):
            spelled.append(number)
        else:
            captions.append(tuple(joined(text) for text in texts))
    if wrong:
        raise BadInput(f"{where}: the {role} is no text in {counted(wrong)}.")
    if nul:
        raise BadInput(
            f"{where}: the {role} holds a zero byte (NUL) in {counted(nul)}, which no text has: write the file again."
        )
    _check_filled(empty, spelled, where, role)
    return captions


def _says_nothing(value: Any, texts: Sequence[str], role: str) -> bool:
    if role != "answer":
        return any(spells_missing(text) for text in texts)
    return isinstance(value, str) and spells_missing(value, answer=True)  # of a list each is what a person wrote


def _check_filled(empty: Sequence[int], spelled: Sequence[int], where: str, role: str) -> None:
    if empty:
        raise BadInput(f"{where}: the {role} is empty in {counted(empty)}. Fill or remove these rows.")
    if spelled:
        raise BadInput(
            f"{where}: the {role} only spells a missing value (such as nan, None or NULL) in {counted(spelled)}. "
            "Fill or remove these rows."
        )


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
    """Return a text with single blanks and without control characters, which a terminal would follow.

    >>> joined(" what  is\\nthi\\x1bs ? ")
    'what is this ?'
    """
    return " ".join(_CONTROLS.sub("", " ".join(text.split())).split())


def names_of(values: Sequence[Any], where: str, role: str, *, exact: int = _EXACT) -> list[str]:
    """Return names (of owners, labels, kinds, files) as strings: a text as it stands, a whole number by its digits.

    Owners are brought to the one form of `owner_key`: 17, "17" and 17.0, which a missing value turns a column of
    numbers into, are one owner; ["Ann", "Bob"] is none. Labels and kinds are composed (NFC), with single blanks; labels
    may also be true or false. Files are left as they are written.

    Args:
        values: the cells.
        where, role: of messages.
        exact: below this number a number with a decimal point was stored exactly: 2^53 of 64 bits.

    Raises:
        BadInput: with count and first row numbers of cells that are empty, or neither text nor a whole number; of
            owners also of those that spell a missing value, and of numbers that may have been rounded.
    """
    texts = [str(value) if role == "label" and isinstance(value, bool) else _name(value) for value in values]
    wrong = [number for number, text in enumerate(texts, 1) if text is None]
    if wrong:
        raise BadInput(f"{where}: the {role} is neither text nor a whole number in {counted(wrong)}.")
    rounded = [number for number, value in enumerate(values, 1) if isinstance(value, float) and abs(value) >= exact]
    if rounded and role == "owner":
        raise BadInput(
            f"{where}: the owner is stored as a number with a decimal point that is too large to be exact in "
            f"{counted(rounded)}, so that one person may have two numbers: write owners as text or whole numbers."
        )
    names = [_FORM_OF.get(role, _composed)(text) for text in texts if text is not None]
    empty = [number for number, name in enumerate(names, 1) if not name]
    spelled = [number for number, name in enumerate(names, 1) if role == "owner" and spells_missing(name, owner=True)]
    _check_filled(empty, spelled, where, role)
    return names


def _name(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value or ""
    if isinstance(value, float | Decimal):
        return owner_key(str(value)) if _is_whole(value) else None
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else None


def _is_whole(value: float | Decimal) -> bool:
    """Say so exactly: a division of decimals has as many digits as its context, and fails beyond them."""
    return math.isfinite(value) and value.as_integer_ratio()[1] == 1


def _composed(name: str) -> str:
    return joined(unicodedata.normalize("NFC", name))


_FORM_OF = {"owner": owner_key, "image": str.strip}
