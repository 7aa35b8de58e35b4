"""What the `datasets` library may open: regular files of the folder that the user named, and nothing beyond it."""

import json
import logging
import os
import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sfumato.base.errors import BadInput
from sfumato.data.files import inside
from sfumato.data.formats import is_picture_ending
from sfumato.data.hints import near
from sfumato.data.hub_errors import cause_of, unlogged
from sfumato.data.hub_metadata import check_metadata, named
from sfumato.data.regular import is_special, opened
from sfumato.data.table import TABLES
from sfumato.data.unlisted import visible

log = logging.getLogger(__name__)

_ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".zst", ".7z", ".rar")
_OPENED = (".parquet", ".arrow", ".json", ".jsonl", ".csv", *_ARCHIVES)
_SPLITS = {  # as `datasets` reads them from names
    "validation": {"validation", "valid", "val", "dev"},
    "test": {"test", "testing", "eval", "evaluation"},
    "train": {"train", "training"},
}
_DESCRIPTIONS = ("state.json", "dataset_info.json")
_SHARD = re.compile(r"(.*?)(\d+)-of-(\d{1,7})[-.]")  # of a file's name: which of how many
_OF_ROWS = ("DatasetGenerationError", "DatasetGenerationCastError")  # the data set is there, its rows are wrong
_METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")


@dataclass(frozen=True, kw_only=True)
class Places:
    """Where pictures that rows name by path may lie.

    Attributes:
        folder: of the data set; relative paths begin here.
        roots: real paths below which a file may lie; of a hub name also where `datasets` unpacks its archives.
    """

    folder: str
    roots: tuple[str, ...]

    def real(self, name: str) -> str:
        """Return the real path of a picture that a row names, "" where it lies outside."""
        for root in self.roots:
            try:
                return inside(root, os.path.join(self.folder, name), "")
            except BadInput:
                continue
        return ""


def loaded(datasets: Any, name: str, split: str) -> tuple[Any, Places]:
    """Return a split of a data set that the module `datasets` reads, and where its pictures may lie.

    Raises:
        BadInput: nothing of that name can be loaded, it has no such split, or a file of it leads elsewhere.
    """
    path = Path(name)
    if os.path.exists(path):
        found, folder = _of_path(datasets, path, split), str(path if os.path.isdir(path) else path.parent)
        roots = [_home(path)]
    else:
        found = _of_hub(datasets, name)
        folder = os.path.join(_hub_cache(), f"datasets--{name.replace('/', '--')}")
        roots = [os.path.realpath(place) for place in (folder, datasets.config.DOWNLOADED_DATASETS_PATH)]
    if not hasattr(found, "keys"):
        found = {"train" if found.split is None else str(found.split): found}  # one table is no test set of itself
    if split not in found:
        raise BadInput(
            f"data set {name} has the splits {', '.join(found)}, not '{split}'{near(split, list(found)) or '.'}"
        )
    return found[split], Places(folder=folder, roots=tuple(roots))


def _of_hub(datasets: Any, name: str) -> Any:
    try:
        with unlogged():
            return datasets.load_dataset(name)
    except Exception as error:  # its message may quote rows
        if type(error).__name__ in _OF_ROWS:
            raise BadInput(f"{name} cannot be loaded by the datasets library: {cause_of(error)}") from None
        raise BadInput(
            f"no folder {name} here, and the hub has no data set of that name or cannot be reached "
            f"({type(error).__name__}). Offline, name a folder made by save_to_disk, or parquet files."
        ) from None


def _of_path(datasets: Any, path: Path, split: str) -> Any:
    name = str(path)
    is_parquet = os.path.isfile(path) and path.suffix.lower() == ".parquet"
    if not is_parquet and not os.path.isdir(path):
        raise BadInput(f"{name} {not_data(path)}")
    if not is_parquet:
        check_whole(path)
        _check_folder(path)
        files = (os.path.join(place, file) for place, file in visible(path))
        check_shards((file for file in files if file.lower().endswith(".parquet")), name)
    alone = _SHARD.search(path.name) if is_parquet else None
    if alone and int(alone[3]) > 1:
        log.warning("%s is one of %d files by its name, and is read alone.", name, int(alone[3]))
    try:
        with unlogged():
            if is_parquet:
                return datasets.load_dataset("parquet", data_files={split: name})
            if is_saved(path):
                return datasets.load_from_disk(name)
            if _is_parquet(path):
                return datasets.load_dataset("parquet", **_parquet_files(path))
            check_metadata(path)
            return datasets.load_dataset("imagefolder", data_dir=name)
    except BadInput:
        raise
    except Exception as error:  # its message may quote rows
        raise BadInput(f"{name} cannot be loaded by the datasets library: {cause_of(error)}") from None


def check_whole(path: Path) -> None:
    """Refuse a folder of `save_to_disk` that lost one of its descriptions. Raises BadInput."""
    if is_saved(path):
        return
    lacking = [name for name in _DESCRIPTIONS if not os.path.isfile(path / name)]
    if not _has_rows(path):
        lacking = ["dataset_dict.json"]
        parts = [path / name for name in os.listdir(path) if os.path.isdir(path / name)]
        if not any(_has_rows(part) and is_saved(part) for part in parts if not os.path.islink(part)):
            return
    raise BadInput(
        f"{path} is part of a folder of save_to_disk: {' and '.join(lacking)} is missing. Copy the whole folder, "
        "or save the data set again."
    )


def _has_rows(path: Path) -> bool:
    return any(name.startswith("data-") and name.endswith(".arrow") for name in os.listdir(path))


def check_shards(names: Iterable[str], where: str) -> None:
    """Refuse files of a split some of which are missing, by their names: train-00000-of-00002.parquet alone.

    Raises:
        BadInput: saying how many there should be.
    """
    numbers: dict[tuple[str, int], set[int]] = defaultdict(set)
    for name in names:
        found = _SHARD.search(name)
        if found:
            numbers[found[1], int(found[3])].add(int(found[2]))
    for (stem, total), there in numbers.items():
        lacking = total - len(there & {*range(total)})
        if lacking:
            raise BadInput(
                f"{where}: {lacking} of {total} files {os.path.basename(stem)}*-of-{total:05d} are missing: copy all, "
                "or rename what is there if it is meant to be the whole."
            )


def is_saved(path: Path) -> bool:
    """Say whether `save_to_disk` wrote a folder."""
    return os.path.isfile(path / "dataset_dict.json") or all(os.path.isfile(path / name) for name in _DESCRIPTIONS)


def holds(path: Path) -> tuple[bool, bool, bool]:
    """Say whether a folder holds pictures, pictures with a .txt file of the same name, and parquet files."""
    names = {os.path.join(place, name) for place, name in visible(path)}
    pictures = [name for name in names if is_picture_ending(name)]
    captioned = any(os.path.splitext(name)[0] + ".txt" in names for name in pictures)
    return bool(pictures), captioned, any(name.lower().endswith(".parquet") for name in names)


def has_csv(path: Path) -> bool:
    """Say whether the rows of a folder come from a metadata.csv, where quotes may be left around texts."""
    return os.path.isdir(path) and not is_saved(path) and not _is_parquet(path) and bool(named(path, "metadata.csv"))


def _is_parquet(path: Path) -> bool:
    names = [name for _, name in visible(path)]
    described = any(name in _METADATA for name in names)
    pictures = any(is_picture_ending(name) for name in names)
    return any(name.lower().endswith(".parquet") for name in names) and not (described and pictures)


def _parquet_files(path: Path) -> dict[str, Any]:
    """Return the setting by which `datasets` reads the parquet files of a folder, and no other file as one."""
    names = [os.path.join(place, name) for place, name in visible(path)]
    files = [name for name in sorted(names) if name.lower().endswith(".parquet")]
    if len(files) == len(names):
        return {"data_dir": str(path)}
    of_split: dict[str, list[str]] = {}
    for file in files:
        words = re.split(r"[-._ 0-9/]+", os.path.relpath(file, path).lower())
        split = next((split for split, known in _SPLITS.items() if known & {*words}), "train")
        of_split.setdefault(split, []).append(file)
    return {"data_files": of_split}


def _check_folder(path: Path) -> None:
    """Refuse what would be waited for, or read from elsewhere. Raises BadInput naming it."""
    home = _home(path)
    for place, name in visible(path):
        file = os.path.join(place, name)
        if is_special(file):
            raise BadInput(f"{file} is not a regular file (but a pipe, socket or device): remove it from the folder.")
        if os.path.islink(file) and (os.path.isdir(file) or os.path.splitext(name)[1].lower() in _OPENED):
            _check_inside(home, os.path.abspath(file), file)
        if name in ("state.json", "dataset_dict.json"):
            for part in _named(file):
                _check_inside(home, os.path.join(os.path.abspath(place), part), file)


def _check_inside(home: str, target: str, file: str) -> None:
    try:
        real = inside(home, target, file)
    except BadInput:
        raise BadInput(f"{file} leads out of its folder: give the folder that holds all files.") from None
    if is_special(real):
        raise BadInput(f"{file} leads to what is not a regular file.")


def _named(file: str) -> list[str]:
    """Return the files and folders that a description of `save_to_disk` names."""
    try:
        with opened(file) as description:
            whole = json.load(description)
        parts = [*whole.get("splits", ()), *(entry["filename"] for entry in whole.get("_data_files", ()))]
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return []  # not such a description
    return [part for part in parts if isinstance(part, str)]


def _home(path: Path) -> str:
    """Return the real path below which all files must lie: the folder, or in the hub's cache that of the data set."""
    folder = Path(os.path.realpath(path if os.path.isdir(path) else path.parent))
    return str(folder.parent.parent if folder.parent.name == "snapshots" else folder)


def _hub_cache() -> str:
    from huggingface_hub import constants

    return constants.HF_HUB_CACHE


def not_data(path: Path) -> str:
    """Say what an existing path is that is no data set, and what to do."""
    ending = path.suffix.lower()
    if not os.path.isfile(path):
        return "is not a regular file: give a folder, or a parquet file."
    if ending in _ARCHIVES:
        return "is an archive: unpack it, and give the folder that it becomes."
    if ending in TABLES:
        return "is a table: give the folder of its pictures with --data, and the table with --captions."
    if is_picture_ending(path.name):
        return "is one picture: give the folder of the pictures."
    return "is a file: give a folder of pictures, a folder of save_to_disk, or a parquet file."
