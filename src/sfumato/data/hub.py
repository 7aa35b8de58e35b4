"""Hugging Face data sets: saved on disk, picture folders with metadata, parquet files, or a name on the hub.

`datasets` builds Arrow files of what it loads under its cache folder (HF_DATASETS_CACHE): keep that folder as private
as the data.
"""

import contextlib
import hashlib
import importlib.util
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from sfumato.base.errors import BadInput, UndecodableRow
from sfumato.data.captioned import Captioned
from sfumato.data.decode import Decoder
from sfumato.data.files import check_rows, probe_headers
from sfumato.data.rows import tabled
from sfumato.data.table import Columns, check_answers, check_captions, check_questions, names_of, near, resolve

_PROBED = 256  # headers read before training, evenly spaced: reading all would read the whole data set


@dataclass(frozen=True, kw_only=True, eq=False)
class ArrowColumn:
    """Pictures of a `datasets.Dataset`: its image column, undecoded; pictures are decoded by our decoder.

    Attributes:
        table: the rows.
        column: where the pictures are.
        keys: of each row what tells its picture from others (see `_keys`).
    """

    table: Any = field(repr=False)
    column: str
    keys: list[str] = field(repr=False)

    def source(self, row: int) -> bytes | str:
        """Return bytes or path of the row's picture. Raises UndecodableRow where there is none."""
        found = _source(self.table[row][self.column])
        if found is None:
            raise UndecodableRow("a row has no picture.")
        return found

    def file(self, row: int) -> str:
        """Return the key of the row's picture, by which two sets are compared."""
        return self.keys[row]


def hugging_face(
    name: str | os.PathLike[str],
    split: str = "train",
    *,
    columns: Columns | None = None,
    decoder: Decoder | None = None,
    public: bool = False,
) -> Captioned:
    """Return a Hugging Face data set with captions, or with questions (see `Columns`).

    Pictures are told apart by their path, or by a digest of their bytes where those lie in the rows: then all bytes are
    read once before the first step, a few rows at a time.

    Args:
        name: folder of `save_to_disk`, folder or file of parquet, folder of pictures with metadata, or hub name.
        split: which split, where there are several.
        columns, decoder, public: as `image_folder`.

    Raises:
        BadInput: `datasets` is not installed, nothing of that name can be loaded, or columns, captions or pictures
            are wrong; a row that repeats another, a picture of two owners, or of several rows without an owner column;
            questions without an owner column, because copies of a picture in several rows are known only where their
            bytes are equal.
    """
    decoder = decoder or Decoder()
    table = _loaded(str(name), split)
    where = f"data set {name}"
    chosen = resolve(columns or Columns(), table.column_names, where)
    image = str(chosen.image)
    if hasattr(table.features[image], "decode"):
        table = table.cast_column(image, _library().Image(decode=False))
    questions = kinds = None
    if chosen.question is None:
        texts = check_captions(list(table[str(chosen.caption)]), where)
    else:
        texts, questions, kinds = _asked(table, chosen, where)
    images = table.select_columns([image])
    pictures = ArrowColumn(table=images, column=image, keys=_keys(images, image, f"{where} ({split})"))
    picture_owned = chosen.owner == image
    owners = pictures.keys if picture_owned else None
    if chosen.owner and not picture_owned:
        owners = names_of(list(table[chosen.owner]), where, "owner")
    said = texts if questions is None else [(question, *given) for question, given in zip(questions, texts)]
    check_rows(pictures.keys, said, owners, where, "same picture, same text")
    _probe_some(pictures, len(texts), decoder, where)
    return tabled(
        name=f"{Path(name).name} ({split})",
        kind="hugging_face",
        pictures=pictures,
        texts=texts,
        owners=owners,
        labels=_labels(table, chosen.label, where),
        decoder=decoder,
        facts={"split": split, "bytes": int(table.data.nbytes)},
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
    questions = check_questions(list(table[str(chosen.question)]), where)
    kinds = names_of(list(table[chosen.kind]), where, "kind") if chosen.kind else None
    return check_answers(list(table[str(chosen.answer)]), where), questions, kinds


def _keys(table: Any, column: str, where: str) -> list[str]:
    """Return of each row what tells its picture from others: a digest of its bytes, else its real path. Never shown.

    Rows are streamed: all bytes of the column are read once, of which a few rows are in memory. A row without a picture
    is known by its number.
    """
    return [_key(_source(row[column]), f"{where} row {number}") for number, row in enumerate(table, 1)]


def _key(source: bytes | str | None, otherwise: str) -> str:
    if isinstance(source, bytes):
        return hashlib.blake2b(source, digest_size=16).hexdigest()
    return otherwise if source is None else os.path.realpath(source)


def _source(cell: Any) -> bytes | str | None:
    if isinstance(cell, dict):
        cell = cell.get("bytes") or cell.get("path")
    return cell if isinstance(cell, bytes | str) and cell else None


def _library() -> Any:
    if importlib.util.find_spec("datasets") is None:
        raise BadInput("Hugging Face data sets need the extra: pip install sfumato[hf].")
    import datasets

    return datasets


def _loaded(name: str, split: str) -> Any:
    datasets = _library()
    path = Path(name)
    try:
        if (path / "dataset_dict.json").is_file() or (path / "state.json").is_file():
            found = datasets.load_from_disk(name)
        elif path.is_file() and path.suffix == ".parquet":
            found = datasets.load_dataset("parquet", data_files={split: name})
        elif path.is_dir() and any(path.glob("**/*.parquet")):
            found = datasets.load_dataset("parquet", data_dir=name)
        elif path.is_dir():
            found = datasets.load_dataset("imagefolder", data_dir=name)
        elif path.exists():
            raise BadInput(f"{name} is no parquet file and no folder.")
        else:
            found = datasets.load_dataset(name)
    except BadInput:
        raise
    except Exception as error:  # its message may quote rows
        if path.exists():
            raise BadInput(f"{name} cannot be loaded by the datasets library: {type(error).__name__}.") from None
        raise BadInput(
            f"no folder {name} here, and the hub has no data set of that name or cannot be reached "
            f"({type(error).__name__}). Offline, name a folder made by save_to_disk, or parquet files."
        ) from None
    if not hasattr(found, "keys"):
        found = {"train" if found.split is None else str(found.split): found}  # one table is no test set of itself
    if split not in found:
        raise BadInput(f"data set {name} has the splits {', '.join(found)}, not '{split}'{near(split, list(found))}.")
    return found[split]


def _labels(table: Any, column: str | None, where: str) -> list[str] | None:
    if column is None:
        return None
    values = list(table[column])
    names = getattr(table.features[column], "names", None)  # of a ClassLabel
    if names:
        values = [None if value is None or value < 0 else names[value] for value in values]  # -1: not labelled
    return names_of(values, where, "label")


def _probe_some(pictures: ArrowColumn, num_rows: int, decoder: Decoder, where: str) -> None:
    places = np.unique(np.linspace(0, num_rows - 1, min(_PROBED, num_rows)).astype(int)).tolist()

    def sources() -> Iterator[tuple[bytes | str, str]]:
        for place in places:
            with contextlib.suppress(UndecodableRow):
                yield pictures.source(place), f"{where} row {place + 1}"

    if not probe_headers(sources(), decoder):
        raise BadInput(f"{where}: column '{pictures.column}' holds no picture in any of {len(places)} rows looked at.")
