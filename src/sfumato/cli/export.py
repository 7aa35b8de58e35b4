"""`sfumato export RUN`: hand a run's model on in transformers' format."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

EXAMPLES = """
sfumato export runs/x --to hf
sfumato export runs/x --to hf --part encoder --out encoder/
"""


@dataclass(frozen=True, kw_only=True)
class ExportCommand:
    """Write a folder that transformers loads without sfumato: the captioner, or its image encoder alone."""

    run: Annotated[Path, tyro.conf.Positional]
    """The folder of a run."""

    to: Literal["hf"] = "hf"
    """Format: hf, a transformers folder with safetensors weights."""

    part: Literal["model", "encoder"] = "model"
    """The whole captioner, or its image encoder."""

    out: Path | None = None
    """Where to. Default: RUN/export/hf-PART."""


def run(command: ExportCommand) -> int:
    """Write the folder and say where it is."""
    from sfumato import models

    loaded = models.load_export(command.run)
    out = command.out or command.run / "export" / f"hf-{command.part}"
    path = models.export(loaded.model, loaded.tokenizer, loaded.preprocess, out, part=command.part)
    sys.stdout.write(f"{path}\n")
    return 0
