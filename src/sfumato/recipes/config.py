"""run.json: the public settings of a run, written whole or not at all, and read back."""

import json
from pathlib import Path
from typing import Any

from sfumato import train
from sfumato.base import BadInput
from sfumato.base.files import write_whole
from sfumato.base.texts import read_object
from sfumato.recipes.run import Run

CONFIG = "run.json"
_OF_THE_MACHINE = ("training.num_workers", "training.micro_batch_size")


def write_config(run: Run) -> None:
    """Write run.json, the public settings, whole or not at all."""
    run.out.mkdir(parents=True, exist_ok=True)
    write_whole(run.out / CONFIG, json.dumps(run.to_json(), indent=1) + "\n")


def read_config(folder: Path) -> Run:
    """Return the settings of the run in `folder`.

    Raises:
        BadInput: there is no run, or not one of this version.
    """
    path = folder / CONFIG
    if not path.is_file():
        raise BadInput(f"{folder} is not the folder of a run: it has no {CONFIG}.")
    return Run.from_json(read_object(path, "a run's settings"), folder)


def changes(run: Run) -> list[str] | None:
    """Return the settings that differ from those of the run in the folder; None where there is none yet."""
    if not (run.out / CONFIG).is_file():
        return None
    return train.differences(_settings(read_config(run.out)), _settings(run))


def check_folder(run: Run) -> None:
    """Refuse to train in a folder that holds something else: one folder is one run. Nothing is written.

    A private run may go on in its own folder; whether with other settings, its ledger decides. A baseline starts again
    in its own folder, with the same settings.

    Raises:
        BadInput: the folder holds a baseline and the run is private, or the reverse; another baseline; or more of a
            private run than its ledger knows.
    """
    train.check_folder(run.out, private=run.private)
    changed = changes(run)
    if not changed:
        return
    if read_config(run.out).private != run.private:
        held = "a private run" if not run.private else "a run without privacy"
        raise BadInput(f"{run.out} holds {held}: one folder is one run. Name another folder with --out.")
    if not run.private:
        raise BadInput(
            f"{run.out} holds a run with other settings: {'; '.join(changed)}. Name another folder with --out."
        )


def check_no_run(out: Path) -> None:
    """Refuse a folder for figures that is that of a run.

    Raises:
        BadInput: it is.
    """
    if holds_run(out):
        raise BadInput(f"{out} is the folder of a run: name another one with --out.")


def holds_run(folder: Path) -> bool:
    """Return whether a folder is that of a run, finished or not."""
    known = train.RunFolder(folder)
    return any(path.exists() for path in (folder / CONFIG, known.ledger, known.card, known.baseline))


def _settings(run: Run) -> dict[str, Any]:
    """Return the settings that decide the result, by dotted name."""
    fields = {name: value for key, part in run.to_json().items() for name, value in train.flatten(key, part).items()}
    return {name: value for name, value in fields.items() if name not in _OF_THE_MACHINE}
