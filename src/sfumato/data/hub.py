"""Hugging Face data sets: saved on disk, picture folders with metadata, parquet files, or a name on the hub.

`datasets` builds Arrow files of what it loads under its cache folder (HF_DATASETS_CACHE): keep that folder as private
as the data.
"""

import importlib.util
import os
from pathlib import Path
from typing import Any

from sfumato.base.errors import BadInput
from sfumato.data.captioned import Captioned, digest_of
from sfumato.data.decode import Decoder
from sfumato.data.files import MISSING, check_rows
from sfumato.data.hints import counted
from sfumato.data.hub_errors import cells
from sfumato.data.hub_files import has_csv, loaded
from sfumato.data.hub_pictures import ArrowColumn, check_pictures
from sfumato.data.keys import text_key
from sfumato.data.rows import tabled
from sfumato.data.separated import check_unquoted
from sfumato.data.table import Columns, check_answers, check_captions, check_questions, names_of, resolve
from sfumato.data.unlisted import say_unlisted

_EXACT_OF = {"float16": 1 << 11, "float32": 1 << 24, "float64": 1 << 53}  # below it whole numbers are exact


def hugging_face(
    name: str | os.PathLike[str],
    split: str = "train",
    *,
    columns: Columns | None = None,
    decoder: Decoder | None = None,
    missing: str = "error",
    public: bool = False,
) -> Captioned:
    """Return a Hugging Face data set with captions, or with questions (see `Columns`).

    Pictures are told apart by their path, or by a digest of their bytes where those lie in the rows: then all bytes are
    read once before the first step, a few rows at a time. A path must lead to a regular file inside the data set's
    folder (relative ones begin there).

    Args:
        name: folder of `save_to_disk`, folder or file of parquet, folder of pictures with metadata, or hub name.
        split: which split, where there are several.
        columns, decoder, public: as `image_folder`.
        missing: "error", or "zero": a row without bytes and without a file stays a record with zero contribution.

    Raises:
        BadInput: `datasets` is not installed, nothing of that name can be loaded, or columns, captions or pictures
            are wrong; a row that repeats another, a picture of two owners, or of several rows without an owner column;
            questions without an owner column, because copies of a picture in several rows are known only where their
            bytes are equal.
    """
    if missing not in MISSING:
        raise BadInput(f"missing must be one of {', '.join(MISSING)}, got '{missing}'.")
    decoder = decoder or Decoder()
    table, places = loaded(_library(), str(name), split)
    where = f"data set {name}"
    chosen = resolve(columns or Columns(), table.column_names, where, declared=True)
    image = str(chosen.image)
    table = _undecoded(table, chosen, where)
    if has_csv(Path(name)):
        _check_quotes(table, chosen, where)
    questions = kinds = owners = None
    if chosen.question is None:
        texts = check_captions(cells(table, str(chosen.caption), where), where)
    else:
        texts, questions, kinds = _asked(table, chosen, where)
    picture_owned = chosen.owner == image
    if chosen.owner and not picture_owned:
        exact = _EXACT_OF.get(getattr(table.features[chosen.owner], "dtype", ""), _EXACT_OF["float64"])
        owners = names_of(_named(table, chosen.owner, where), where, "owner", exact=exact)
    pictures = ArrowColumn(table=table.select_columns([image]), column=image)
    check_pictures(pictures, places, decoder, missing=missing, where=where, split=split)
    if os.path.isdir(name):
        say_unlisted(Path(name), pictures.keys, where)
    owners = [text_key(key) for key in pictures.keys] if picture_owned else owners
    said = texts if questions is None else [(question, *given) for question, given in zip(questions, texts)]
    check_rows(pictures.keys, said, owners, where, "same picture, same text")
    return tabled(
        name=f"{Path(name).name} ({split})",
        kind="hugging_face",
        pictures=pictures,
        texts=texts,
        owners=owners,
        labels=_labels(table, chosen.label, where),
        decoder=decoder,
        facts={
            "split": split,
            "bytes": int(table.data.nbytes),
            "pictures": digest_of(part for pair in zip(pictures.keys, pictures.stamps) for part in pair),
        },
        public=public,
        questions=questions,
        kinds=kinds,
        picture_owned=picture_owned,
    )


def _asked(table: Any, chosen: Columns, where: str) -> tuple[list[tuple[str, ...]], list[str], list[str] | None]:
    """Return answers, questions and kinds."""
    if chosen.owner in (None, chosen.image):
        raise BadInput(
            f"{where}: a picture has several questions and is one record: name the column that tells which picture "
            "(or person) a row belongs to with --owner-column."
        )
    questions = check_questions(cells(table, str(chosen.question), where), where)
    kinds = names_of(cells(table, chosen.kind, where), where, "kind") if chosen.kind else None
    return check_answers(cells(table, str(chosen.answer), where), where), questions, kinds


def _check_quotes(table: Any, chosen: Columns, where: str) -> None:
    """Refuse texts of a CSV that are still in quotes, as `image_folder` does; owners are compared without them."""
    for role in ("caption", "question", "answer", "kind", "label"):
        column = getattr(chosen, role)
        if column is not None:
            texts = [cell if isinstance(cell, str) else "" for cell in cells(table, column, where)]
            check_unquoted(texts, where, role)


def _undecoded(table: Any, chosen: Columns, where: str) -> Any:
    """Return the table with its pictures as they are stored. Raises BadInput where reading another column opens files.

    `datasets` decodes a column as the data set declares it, and would open whatever path stands in it.
    """
    columns = dict.fromkeys(name for name in vars(chosen).values() if name is not None)
    image = _library().Image
    for name in columns:
        feature = table.features[name]
        if name == chosen.image and isinstance(feature, image):
            table = table.cast_column(name, image(decode=False))
        elif _opens_files(feature):
            kind = "one picture in each row" if name == chosen.image else "text"
            raise BadInput(f"{where}: column '{name}' is not declared as {kind}, but as {type(feature).__name__}.")
    return table


def _opens_files(feature: Any) -> bool:
    inner = [feature.feature] if hasattr(feature, "feature") else feature
    parts = inner.values() if isinstance(inner, dict) else inner if isinstance(inner, list) else ()
    return hasattr(feature, "decode_example") or any(_opens_files(part) for part in parts)


def _library() -> Any:
    if importlib.util.find_spec("datasets") is None:
        raise BadInput("Hugging Face data sets need the extra: pip install sfumato[hf].")
    import datasets

    return datasets


def _labels(table: Any, column: str | None, where: str) -> list[str] | None:
    if column is None:
        return None
    return names_of(_named(table, column, where), where, "label")


def _named(table: Any, column: str, where: str) -> list[Any]:
    """Return the cells of a column, of a ClassLabel the names instead of their numbers."""
    values = cells(table, column, where)
    names = getattr(table.features[column], "names", None)
    if names is None:
        return values
    unknown = [number for number, value in enumerate(values, 1) if value is not None and value >= len(names)]
    if unknown:
        raise BadInput(
            f"{where}: column '{column}' declares {len(names)} names, and has a number beyond them in "
            f"{counted(unknown)}. Save the data set again with all names, or with the column as text."
        )
    return [None if value is None or value < 0 else names[value] for value in values]  # -1: none
