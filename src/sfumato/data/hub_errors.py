"""Why `datasets` could not load a folder: in words and with a way out, because its own messages quote cells."""

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sfumato.base.errors import BadInput

_TALKATIVE = ("datasets", "pyarrow", "fsspec", "huggingface_hub")  # loggers that repeat the message of an error
_TRUNCATED = re.compile(
    r"magic bytes|thrift|too small|smaller than|minimum file|size is 0|end of (file|stream)|eof|truncat|expected to be "
    r"able to read|but only read|corrupt|deserializ|not a parquet|not an arrow|invalid (ipc|flatbuffer)|schema message",
    re.IGNORECASE,
)
_TYPES = re.compile(r"changed from|as a scalar of type|cast|could not convert|of type", re.IGNORECASE)
_NO_DATA = "it holds no data file (parquet, or pictures with a metadata.csv or metadata.jsonl)."
_CAUSES = (  # kinds of error, what its message says (never shown), the cause in words
    (
        {"FileNotFoundError"},
        None,
        "a file that belongs to it is missing. Copy the folder again, or save the data set again with save_to_disk.",
    ),
    (
        {"KeyError"},
        None,
        "its description (state.json, dataset_info.json) is not that of save_to_disk. Save the data set again.",
    ),
    ({"DataFilesNotFoundError", "EmptyDatasetError"}, None, _NO_DATA),
    ({"ValueError"}, re.compile("corresponds to no data"), _NO_DATA),
    ({"ArrowInvalid"}, re.compile("BatchSize must be"), "a file of it has no rows. Remove the file."),
    (
        {"ArrowInvalid"},
        re.compile("Multiple matches"),
        "two of its columns have one name. Write it with each name once.",
    ),
    (
        {"UnicodeDecodeError"},
        None,
        "a file of it (of the metadata, or of the rows) holds what is no UTF-8 text. Save it as UTF-8.",
    ),
    (
        {"ParserError", "EmptyDataError"},
        None,
        "a metadata file is no table: a row has another number of cells than the first line, or a quote is wrong. "
        "Correct it, or write it as metadata.jsonl.",
    ),
    (
        {"ArrowInvalid", "OSError", "ArrowException", "ArrowIOError", "JSONDecodeError"},
        _TRUNCATED,
        "a file of it is truncated, damaged or of another kind than its name says. Copy or write it again.",
    ),
    (
        {"CastError", "ArrowTypeError", "DatasetGenerationCastError", "ArrowNotImplementedError"},
        None,
        "its files do not have the same columns of the same types. Write every file with the same columns, captions "
        "and owners as text.",
    ),
    (
        {"ArrowInvalid", "TypeError", "ValueError"},
        _TYPES,
        "a column has several types, in one file or in several (numbers here and text there). Write it with one type "
        "in all rows, captions and owners as text.",
    ),
    (
        {"ArrowInvalid", "JSONDecodeError"},
        re.compile(r"json", re.IGNORECASE),
        "a metadata file is not JSON lines: every line must be one JSON object. Correct it.",
    ),
)


def cause_of(error: BaseException) -> str:
    """Return why loading failed, one or two sentences that hold nothing of the message of the error.

    >>> cause_of(UnicodeDecodeError("utf-8", b"secret", 0, 1, "x"))
    'a file of it (of the metadata, or of the rows) holds what is no UTF-8 text. Save it as UTF-8.'
    """
    chain = list(_chain(error))
    for kinds, said, cause in _CAUSES:
        if any(type(part).__name__ in kinds and (said is None or said.search(str(part))) for part in chain):
            return cause
    kind = type(chain[-1]).__name__
    return f"a file of it is damaged or of a kind that is not read ({kind}). Write the data set again as parquet files."


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield the error and what it came from, each once."""
    seen: set[int] = set()
    part: BaseException | None = error
    while part is not None and id(part) not in seen:
        seen.add(id(part))
        yield part
        part = part.__cause__ or part.__context__


def cells(table: Any, column: str, where: str) -> list[Any]:
    """Return the cells of a column of a `datasets.Dataset`. Raises BadInput where they cannot be read."""
    try:
        with unlogged():
            return list(table[column])
    except Exception as error:  # its message may quote rows
        raise BadInput(f"{where}: column '{column}' cannot be read: {cause_of(error)}") from None


@contextmanager
def unlogged() -> Iterator[None]:
    """Keep what `datasets` and its readers log inside the block off every handler: it quotes cells of private rows."""
    roots = [logging.getLogger(name) for name in _TALKATIVE]
    children = [
        found
        for name, found in list(logging.root.manager.loggerDict.items())
        if isinstance(found, logging.Logger) and name.split(".")[0] in _TALKATIVE and found.level
    ]
    levels = {found: found.level for found in (*roots, *children)}
    for found in levels:
        found.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for found, level in levels.items():
            found.setLevel(level)
