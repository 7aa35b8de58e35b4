"""The picture column of a Hugging Face data set: bytes in the rows, or files that the rows name."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from sfumato.base.errors import BadInput, UndecodableRow
from sfumato.data.decode import Decoder
from sfumato.data.files import probe_headers, stamp
from sfumato.data.hints import counted
from sfumato.data.hub_files import Places


@dataclass(frozen=True, kw_only=True, eq=False)
class ArrowColumn:
    """Pictures of a `datasets.Dataset`: its image column, undecoded; pictures are decoded by our decoder.

    Attributes:
        table: the rows.
        column: where the pictures are.
        keys: of each row what tells its picture from others: a digest of its bytes, else its real path. Never shown.
        stamps: size and time of change of each row's file, "" where the bytes are in the row or nothing is there.
        absent: numbers (from 1) of rows without bytes and without a file.
    """

    table: Any = field(repr=False)
    column: str
    keys: list[str] = field(default_factory=list, repr=False)
    stamps: list[str] = field(default_factory=list, repr=False)
    absent: list[int] = field(default_factory=list, repr=False)

    def source(self, row: int) -> bytes | str:
        """Return bytes or real path of the row's picture. Raises UndecodableRow where there is none."""
        found = _source(self.table[row][self.column])
        if found is None:
            raise UndecodableRow("a row has no picture.")
        return found if isinstance(found, bytes) else self.keys[row]

    def file(self, row: int) -> str:
        """Return the key of the row's picture, by which two sets are compared."""
        return self.keys[row]

    def looked_at(self, places: Places, where: str, split: str) -> Iterator[tuple[bytes | str, str]]:
        """Yield (bytes or path, name for messages) of each picture that is there, and note key and stamp of every row.

        Rows are streamed: all bytes of the column are read once, of which a few rows are in memory. A row without a
        picture is known by its number.
        """
        outside: list[int] = []
        for number, row in enumerate(self.table, 1):
            found, time = _source(row[self.column]), ""
            key = f"{where} ({split}) row {number}"
            if isinstance(found, bytes):
                key = hashlib.blake2b(found, digest_size=16).hexdigest()
            elif found is not None:
                real = places.real(found)
                outside += [] if real else [number]
                time = stamp(real) if real else ""
                found, key = (real if time else None), real or key
            self.keys.append(key)
            self.stamps.append(time)
            if found is None:
                self.absent.append(number)
            else:
                yield found, f"{where} row {number}"
        if outside:
            raise BadInput(
                f"{where}: {counted(outside)} name a picture outside the data set's folder. Move the pictures into it, "
                "or save the data set with the pictures inside its rows."
            )


def check_pictures(
    pictures: ArrowColumn, places: Places, decoder: Decoder, *, missing: str, where: str, split: str
) -> None:
    """Read every header once. Raises BadInput for what may not be read, is missing or cannot be read."""
    readable = probe_headers(pictures.looked_at(places, where, split), decoder, where, missing=missing)
    absent, num_rows = pictures.absent, len(pictures.keys)
    if absent and (missing == "error" or len(absent) == num_rows):
        raise BadInput(
            f"{where}: {counted(absent)} of {num_rows} have no picture in column '{pictures.column}': neither bytes "
            f"nor a file in {places.folder} (unpack archives). Rows may be kept with zero contribution by "
            "--missing zero."
        )
    if not readable:
        raise BadInput(f"{where}: column '{pictures.column}' holds no picture in any of {num_rows} rows.")


def _source(cell: Any) -> bytes | str | None:
    if isinstance(cell, dict):
        cell = cell.get("bytes") or cell.get("path")
    return cell if isinstance(cell, bytes | str) and cell else None
