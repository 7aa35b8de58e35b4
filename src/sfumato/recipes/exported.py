"""What a run hands on, as a whole: the model's files, the card that speaks of them, and checksums of everything."""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sfumato import report
from sfumato.base import BadInput, checksums
from sfumato.base.files import write_whole
from sfumato.models.whole_folder import whole_folder
from sfumato.recipes.config import CONFIG, holds_run
from sfumato.train import RunFolder

log = logging.getLogger(__name__)

EXPORTED = ("hf-model", "hf-encoder")  # where `sfumato export` writes unless it is told otherwise
_MARK = "# Not private\n\nThis model was trained without clipping and noise. It may quote its training records.\n"


def write_export(
    export: Path, model: Callable[[Path], object], facts: Callable[[], Mapping[str, Any]] | None = None
) -> None:
    """Write a run's export: the model, its card where there are facts of one, and the checksums.

    All of it is written next to the folder first. Its files then take their places one by one: whoever reads in
    between, or after a kill in between, finds that checksums differ, and the same training command writes them again.

    Args:
        export: the folder; logs and figures in it stay.
        model: writes the model's files into a folder.
        facts: of the card, asked for once the model is written.

    Raises:
        BadInput: it could not be written, or the facts make no card; the former export stays.
    """
    with whole_folder(export) as beside:
        model(beside)
        files = checksums.of_folder(beside)
        if facts is not None:
            named = {name: entry["sha256"] for name, entry in files.items()}
            report.card.write(report.build({**facts(), "files": named}), beside)
        old = checksums.of_folder(export) if export.is_dir() else {}
        others = {**old, **checksums.of_folder(beside)}
        checksums.write(beside, model=files, files={name: others[name] for name in others.keys() - files.keys()})


def mark_not_private(export: Path) -> None:
    """Say in an export that its model is trained without privacy."""
    export.mkdir(parents=True, exist_ok=True)
    path = RunFolder(export.parent).baseline
    with checksums.replacing(export, path.name):
        write_whole(path, _MARK)


def check_export(folder: Path) -> None:
    """Check the files of a run's export, or of a folder that an export was copied to, before they are read.

    A folder without checksums (of an earlier version) is read unchecked, and that is said.

    Raises:
        DamagedFile: naming the file that is not what was written.
    """
    checked = [checksums.check(place) for place in (folder / "export", folder) if place.is_dir()]
    if not any(checked) and (folder / CONFIG).is_file():
        log.warning(checksums.UNCHECKED, folder / "export")


def check_target(folder: Path, out: Path) -> None:
    """Refuse to write a model of the run in `folder` over what a run keeps, its own files or another's.

    Raises:
        BadInput: `out` lies in the folder of another run, or is a place that this run uses itself.
    """
    target = out.resolve()
    for place in (target, *target.parents):
        if holds_run(place):
            inside = target.relative_to(place).parts
            if place != folder.resolve() or not _is_free(place, inside):
                raise BadInput(
                    f"{out} belongs to the run in {place}: one folder is one run. Name another folder with --out."
                )
            return


def _is_free(run: Path, inside: tuple[str, ...]) -> bool:
    """Return whether a run does not use a place below its folder itself."""
    if not inside or inside[0] in ("private", CONFIG):
        return False
    if inside[0] != "export":
        return True
    used = {name.split("/")[0] for name in checksums.of_model(run / "export")}
    return len(inside) > 1 and (inside[1] not in used or inside[1] in EXPORTED)
