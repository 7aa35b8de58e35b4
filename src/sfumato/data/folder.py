"""A folder of picture files with captions or questions in a table, or captions in a .txt file beside each picture.

Everything that can be known without reading pixels is checked before the first step: every listed file exists inside
the folder, every caption and owner is there, no row and no picture comes twice, headers say how deep the files are.
What only decoding shows (a truncated file) stays a record with zero contribution.
"""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from sfumato.base.errors import BadInput
from sfumato.data.captioned import Captioned, digest_of
from sfumato.data.decode import Decoder
from sfumato.data.files import MISSING, check_rows, listed, probe, stamps
from sfumato.data.hints import near, siblings
from sfumato.data.keys import text_key
from sfumato.data.rows import tabled
from sfumato.data.separated import check_unquoted
from sfumato.data.sidecar import sidecars
from sfumato.data.table import (
    JSON_LINES,
    Columns,
    check_answers,
    check_captions,
    check_questions,
    names_of,
    read_table,
    resolve,
)
from sfumato.data.unlisted import say_unlisted


@dataclass(frozen=True, kw_only=True, eq=False)
class Files:
    """Pictures that are files: paths below the real path of a folder."""

    root: str
    files: list[str] = field(repr=False)

    def source(self, row: int) -> str:
        """Return the path of the row's file."""
        return self.file(row)

    def file(self, row: int) -> str:
        """Return the path of the row's file."""
        return os.path.join(self.root, self.files[row])


class _Listed(NamedTuple):
    files: list[str]
    texts: list[tuple[str, ...]]
    owners: list[str] | None
    labels: list[str] | None
    questions: list[str] | None = None
    kinds: list[str] | None = None
    picture_owned: bool = False


def image_folder(
    root: str | os.PathLike[str],
    captions: str | os.PathLike[str] | None = None,
    *,
    columns: Columns | None = None,
    decoder: Decoder | None = None,
    missing: str = "error",
    public: bool = False,
) -> Captioned:
    """Return the pictures of a folder with their captions, or with the questions of a table (see `Columns`).

    Args:
        root: folder; sub-folders belong to it.
        captions: CSV, TSV or JSON-lines table whose image column holds paths relative to `root`; without it each
            picture `x.png` is captioned by `x.txt` beside it. Rows of questions about one picture are one record,
            unless an owner column is named.
        columns: which column is what.
        decoder: declared window and size limit.
        missing: "error", or "zero": a listed file that does not exist stays a record with zero contribution.
        public: declares that pictures and captions are public.

    Raises:
        BadInput: whatever is wrong with folder, table, columns, captions, files or their depth.
    """
    folder = Path(root)
    if not os.path.isdir(folder):
        raise BadInput(f"picture folder {folder} does not exist{near(folder.name, siblings(folder)) or '.'}")
    if missing not in MISSING:
        raise BadInput(f"missing must be one of {', '.join(MISSING)}, got '{missing}'.")
    decoder = decoder or Decoder()
    if captions is not None:
        found = _from_table(folder, Path(captions), columns or Columns())
    elif columns not in (None, Columns()):
        raise BadInput(f"columns were named, but there is no caption table for {folder}: give --captions.")
    else:
        found = _Listed(*sidecars(folder, missing), None, None)
        check_rows(found.files, found.texts, None, str(folder))
    root_path = os.path.realpath(folder)
    sought = "check the image column" if found.picture_owned else None  # an owner is not named in a message
    stamped = stamps(root_path, found.files, folder, missing, sought, of_cells=captions is not None)
    there = [file for file, stamp in zip(found.files, stamped) if stamp]
    if captions is not None:
        say_unlisted(folder, (os.path.join(root_path, file) for file in there), str(captions))
    probe(root_path, there, decoder, folder, missing=missing, named=not found.picture_owned)
    return tabled(
        name=folder.name or str(folder),
        kind="image_folder",
        pictures=Files(root=root_path, files=found.files),
        texts=found.texts,
        owners=found.owners,
        labels=found.labels,
        decoder=decoder,
        facts={"files": digest_of(part for pair in zip(found.files, stamped) for part in pair)},
        public=public,
        questions=found.questions,
        kinds=found.kinds,
        picture_owned=found.picture_owned,
    )


def _from_table(folder: Path, path: Path, columns: Columns) -> _Listed:
    table = read_table(path, folder)
    where = str(path)
    is_json = path.suffix.lower() in JSON_LINES
    chosen = resolve(columns, list(table), where, declared=is_json)
    for role, name in vars(chosen).items():
        if name is not None and role != "owner" and not is_json:  # owners are compared without quotes
            check_unquoted(table[name], where, role)
    if chosen.question is not None:
        return _asked(folder, table, chosen, where)
    texts = check_captions(table[str(chosen.caption)], where)
    files = listed(folder, table[str(chosen.image)], where)
    labels = names_of(table[chosen.label], where, "label") if chosen.label else None
    owners = None
    if chosen.owner is not None and chosen.owner != chosen.image:
        owners = names_of(table[chosen.owner], where, "owner")
    elif chosen.owner is not None:
        owners = [text_key(file) for file in files]  # a picture written in two ways is still one owner
    check_rows(files, texts, owners, where)
    return _Listed(files, texts, owners, labels)


def _asked(folder: Path, table: dict[str, list[Any]], chosen: Columns, where: str) -> _Listed:
    """Return the rows of a table of questions: the record is the picture, or the owner where a column is named."""
    questions = check_questions(table[str(chosen.question)], where)
    answers = check_answers(table[str(chosen.answer)], where)
    files = listed(folder, table[str(chosen.image)], where)
    labels, kinds = (names_of(table[name], where, role) if name else None for name, role in _extra(chosen))
    by_picture = chosen.owner in (None, chosen.image)
    owners = [text_key(file) for file in files] if by_picture else names_of(table[str(chosen.owner)], where, "owner")
    texts = [(question, *given) for question, given in zip(questions, answers)]
    same = "same picture, question and answer; several answers to a question are a list in one row of JSON lines"
    check_rows(files, texts, owners, where, same)
    return _Listed(files, answers, owners, labels, questions, kinds, by_picture)


def _extra(chosen: Columns) -> tuple[tuple[str | None, str], ...]:
    return (chosen.label, "label"), (chosen.kind, "kind")
