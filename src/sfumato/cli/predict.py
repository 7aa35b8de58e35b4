"""`sfumato predict RUN IMAGES`: caption, match or classify new pictures."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from sfumato.base import limits
from sfumato.base.ranges import Whole
from sfumato.cli._screen import write_line

EXAMPLES = """
sfumato predict runs/x picture.png
sfumato predict runs/x images/ --jsonl
sfumato predict runs/x scans/ --window 0 4095 --num-beams 4
sfumato predict runs/towers images/ --labels "a photo of a bag" "a photo of a coat"
sfumato predict runs/vqa picture.png --question "what shape is in the image?"
"""


@dataclass(frozen=True, kw_only=True)
class PredictCommand:
    """Answer for each picture: a caption (captioner), the best of --labels (towers), a class (classifier), or the
    answer to --question (dp-vqa and dp-vlm).
    """

    run: Annotated[Path, tyro.conf.Positional]
    """The folder of a run; of a captioner also its export."""

    images: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Pictures, or folders of pictures. What is no picture that is read here is left out and counted by kind."""

    window: Annotated[tuple[float, float] | None, limits.WINDOW] = None
    """Public range LOW HIGH of 16-bit and DICOM pictures. Default: that of the run."""

    max_pixels: Annotated[int | None, limits.PIXELS] = None
    """Public limit on the pixels of a picture; larger ones are errors. Default: that of the run."""

    num_beams: Annotated[int, Whole(1, 1000)] = 1
    """Beam search, of captioners; 1 is greedy."""

    labels: tuple[str, ...] = ()
    """Texts that two towers choose among."""

    question: str | None = None
    """What a model of questions is asked; default: the public question of its run, else "describe the picture"."""

    jsonl: bool = False
    """One JSON object a line instead of text."""


def run(command: PredictCommand) -> int:
    """Write one line per picture; a picture that cannot be read is named and makes the status 1."""
    from sfumato.recipes.predict import predict

    failed = 0
    for path, caption, error in predict(
        command.run,
        command.images,
        command.window,
        command.num_beams,
        command.labels,
        command.question,
        command.max_pixels,
    ):
        failed += error is not None
        if command.jsonl:
            sys.stdout.write(json.dumps({"image": str(path), "caption": caption, "error": error}) + "\n")
        elif error is not None:
            write_line(f"sfumato: {path}: {error}", error=True)
        else:
            write_line(f"{path}: {caption}")
    return 1 if failed else 0
