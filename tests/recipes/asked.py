"""Small sets of visual questions and small checkpoints, as a user might bring them; for several tests."""

import csv
import json
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tests.data.visual import COLOURS
from tests.models.vlms import FOLDERS

from sfumato.recipes import Run, dp_vqa

PUBLIC_TEXT = "what color is it? is it red? which colour is the spot? red green blue yes no maybe\n"
SECRET_WORD = "zyzzyva"  # in the private questions alone
TINY = {  # flags of every run by the command
    "--expected-batch-size": 6, "--steps": 2, "--noise-multiplier": 1, "--delta": 1e-4, "--micro-batch-size": 8,
    "--max-question": 12, "--max-answer": 3,
}  # fmt: skip
SCRATCH = {"--image-size": 16, "--size": "micro"}


def small(run: Run) -> Run:
    privacy = replace(run.privacy, epsilon=None, noise_multiplier=1.0, delta=1e-4, expected_batch_size=6, steps=2)
    return replace(
        run,
        privacy=privacy,
        training=replace(run.training, micro_batch_size=8, warmup_steps=1),
        asking=replace(run.asking, max_question=12, max_answer=3),
    )


def scratch(run: Run) -> Run:
    return replace(run, model=replace(run.model, image_size=16), asking=replace(run.asking, image_size=16))


def scenes(out: Path = Path("x")) -> Run:
    """A run from scratch on 40 scenes of four questions each."""
    return small(scratch(dp_vqa("shape-questions:40", out)))


def card_of(run: Path) -> dict[str, Any]:
    return json.loads((run / "export" / "card.json").read_text())


def words(flags: dict[str, Any]) -> list[str]:
    return [str(word) for pair in flags.items() for word in pair]


def build_table(folder: Path, *, num_owners: int = 12, public_text: bool = True) -> Path:
    """Write pictures, of which each owner has two, and a CSV of two questions about each; return the folder."""
    rng = np.random.default_rng(0)
    (folder / "pictures").mkdir(parents=True)
    rows = [("file", "question", "answer", "person", "type")]
    for owner in range(num_owners):
        for place in range(2):
            name, colour = f"o{owner:02d}-{place}.png", list(COLOURS)[int(rng.integers(3))]
            pixels = np.full((16, 16, 3), COLOURS[colour], np.uint8)
            pixels[:2, :2] = rng.integers(0, 256, (2, 2, 3))  # no two pictures are alike
            Image.fromarray(pixels).save(folder / "pictures" / name)
            rows.append((name, "what color is it?", colour, f"owner {owner}", "color"))
            rows.append(
                (name, f"is it red, {SECRET_WORD}?", "yes" if colour == "red" else "no", f"owner {owner}", "is")
            )
    with (folder / "questions.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    if public_text:
        (folder / "sentences.txt").write_text(PUBLIC_TEXT)
    return folder


def of_table(folder: Path) -> dict[str, Any]:
    """The flags that say what a table of `build_table` is."""
    return {
        "--data": folder / "pictures", "--captions": folder / "questions.csv", "--image-column": "file",
        "--question-column": "question", "--answer-column": "answer", "--owner-column": "person",
        "--kind-column": "type", "--holdout": 0.25,
    }  # fmt: skip


def checkpoint(kind: str, folder: Path) -> Path:
    """A small vision-language model of `tests.models.vlms` in a folder of its own."""
    path = folder / kind
    path.mkdir(parents=True)
    FOLDERS[kind](path)
    return path


def killed(do: Callable[[], None]) -> int:
    """Run in a fork of this process, which `do` is to kill; return the signal that ended it, or 0."""
    pid = os.fork()
    if pid == 0:
        try:
            do()
        except BaseException as error:
            sys.stderr.write(f"{type(error).__name__}: {error}\n")
        os._exit(1)
    _, status = os.waitpid(pid, 0)
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0


def die_at(step: int) -> Callable[[Any], None]:
    """A report of progress that kills the process, as a power cut would."""

    def report(progress: Any) -> None:
        if progress.step == step:
            os.kill(os.getpid(), signal.SIGKILL)

    return report
