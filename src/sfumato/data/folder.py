"""A folder of picture files with captions in a table, or in a .txt file beside each picture.

Everything that can be known without reading pixels is checked before the first step: every listed file exists inside
the folder, every caption and owner is there, no row and no picture comes twice, headers say how deep the files are.
What only decoding shows (a truncated file) stays a record with zero contribution.
"""

import os
from dataclasses import dataclass, field
from pathlib import Path

from sfumato.base.errors import BadInput
from sfumato.data.captioned import Captioned, digest_of
from sfumato.data.decode import Decoder
from sfumato.data.files import check_rows, listed, probe, stamps
from sfumato.data.rows import tabled
from sfumato.data.sidecar import sidecars
from sfumato.data.table import Columns, check_captions, names_of, near, read_table, resolve, siblings

MISSING = ("error", "zero")


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


def image_folder(
    root: str | os.PathLike[str],
    captions: str | os.PathLike[str] | None = None,
    *,
    columns: Columns | None = None,
    decoder: Decoder | None = None,
    missing: str = "error",
    public: bool = False,
) -> Captioned:
    """Return the pictures of a folder with their captions.

    Args:
        root: folder; sub-folders belong to it.
        captions: CSV, TSV or JSON-lines table whose image column holds paths relative to `root`; without it each
            picture `x.png` is captioned by `x.txt` beside it.
        columns: which column is what.
        decoder: declared window and size limit.
        missing: "error", or "zero": a listed file that does not exist stays a record with zero contribution.
        public: declares that pictures and captions are public.

    Raises:
        BadInput: whatever is wrong with folder, table, columns, captions, files or their depth.
    """
    folder = Path(root)
    if not folder.is_dir():
        raise BadInput(f"picture folder {folder} does not exist{near(folder.name, siblings(folder))}.")
    if missing not in MISSING:
        raise BadInput(f"missing must be one of {', '.join(MISSING)}, got '{missing}'.")
    decoder = decoder or Decoder()
    if captions is None:
        if columns not in (None, Columns()):
            raise BadInput(f"columns were named, but there is no caption table for {folder}: give --captions.")
        files, texts = sidecars(folder)
        owners = labels = None
    else:
        where = str(captions)
        table = read_table(Path(captions))
        chosen = resolve(columns or Columns(), list(table), where)
        texts = check_captions(table[str(chosen.caption)], where)
        files = listed(folder, table[str(chosen.image)], where)
        owners = names_of(table[chosen.owner], where, "owner") if chosen.owner else None
        labels = names_of(table[chosen.label], where, "label") if chosen.label else None
        check_rows(files, texts, owners, where, owner_is_image=chosen.owner == chosen.image)
    root_path = os.path.realpath(folder)
    stamped = stamps(root_path, files, folder, missing)
    probe(root_path, [file for file, stamp in zip(files, stamped) if stamp], decoder, folder)
    return tabled(
        name=folder.name or str(folder),
        kind="image_folder",
        pictures=Files(root=root_path, files=files),
        texts=texts,
        owners=owners,
        labels=labels,
        decoder=decoder,
        facts={"files": digest_of(part for pair in zip(files, stamped) for part in pair)},
        public=public,
    )
