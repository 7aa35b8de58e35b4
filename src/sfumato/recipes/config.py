"""run.json: the public settings of a run, written whole or not at all, and read back."""

import json
import os
from pathlib import Path
from typing import Any

from sfumato import train
from sfumato.base import BadInput
from sfumato.base.texts import read_object
from sfumato.recipes.run import Run

CONFIG = "run.json"
_OF_THE_MACHINE = ("training.num_workers", "training.micro_batch_size")


def write_config(run: Run) -> None:
    """Write run.json, the public settings, whole or not at all."""
    run.out.mkdir(parents=True, exist_ok=True)
    beside = run.out / f".{CONFIG}.new"
    beside.write_text(json.dumps(run.to_json(), indent=1) + "\n", encoding="utf-8")
    os.replace(beside, run.out / CONFIG)


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


def _settings(run: Run) -> dict[str, Any]:
    """Return the settings that decide the result, by dotted name."""
    fields = {name: value for key, part in run.to_json().items() for name, value in train.flatten(key, part).items()}
    return {name: value for name, value in fields.items() if name not in _OF_THE_MACHINE}
