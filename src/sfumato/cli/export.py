"""`sfumato export RUN`: hand a run's model on in transformers' format."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from sfumato.cli._screen import write_line

EXAMPLES = """
sfumato export runs/x --to hf
sfumato export runs/x --to hf --part encoder --out encoder/
"""


@dataclass(frozen=True, kw_only=True)
class ExportCommand:
    """Write a folder that loads without sfumato: a captioner or its image encoder, towers, or an encoder."""

    run: Annotated[Path, tyro.conf.Positional]
    """The folder of a run."""

    to: Literal["hf"] = "hf"
    """Format: hf, a transformers folder with safetensors weights (open_clip's and timm's models: their library's)."""

    part: Literal["model", "encoder"] = "model"
    """Of a captioner: the whole, or its image encoder."""

    out: Path | None = None
    """Where to. Default: RUN/export/hf-PART."""


def run(command: ExportCommand) -> int:
    """Write the folder and say where it is."""
    from sfumato.recipes.trained import hand_on

    out = command.out or command.run / "export" / f"hf-{command.part}"
    write_line(str(hand_on(command.run, out, command.part)))
    return 0
