"""The main paths in one process that hears all warnings and log lines of the libraries below.

Run as `python -W error::DeprecationWarning -W error::FutureWarning -m tests.smoke.heard FOLDER`. Where a library only
logs that a call of ours goes out of use, the line is printed. `quiet` of `sfumato.models` is kept from hiding any.
"""

import logging
import re
import sys
import warnings
from pathlib import Path

OUT_OF_USE = re.compile(r"deprecat|obsolete|(will|to) be removed|removed in|no longer|in (a )?future|legacy", re.I)
LIBRARIES = ("transformers", "peft", "accelerate", "datasets", "open_clip", "timm", "torch", "py.warnings")
FEW = (
    "--expected-batch-size",
    "6",
    "--steps",
    "2",
    "--noise-multiplier",
    "1",
    "--delta",
    "1e-4",
    "--micro-batch-size",
    "8",
)
SHORT = ("--max-question", "12", "--max-answer", "3")


class Listener(logging.Handler):
    """Keeps what says that something goes out of use."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.hear(f"{record.name}: {record.getMessage()}")

    def hear(self, text: str) -> None:
        if OUT_OF_USE.search(text) and text not in self.found:
            self.found.append(text)


def listen() -> Listener:
    """Hear what the libraries log and warn of from here on, whatever their verbosity."""
    listener = Listener()
    for name in LIBRARIES:
        logging.getLogger(name).addHandler(listener)

    def show(message, category, *_, **__):
        listener.hear(f"{category.__name__}: {message}")

    warnings.showwarning = show
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_warning()
    transformers_logging.set_verbosity_error = lambda: None  # what `quiet` calls
    return listener


def commands(folder: Path) -> None:
    """Train captioner, towers and models of questions from scratch and from a checkpoint; evaluate and report."""
    from tests.once import ALL

    from sfumato.cli import main

    def run(*command: str) -> None:
        if main(list(command)) != 0:
            raise SystemExit(f"sfumato {' '.join(command)} failed")

    scenes, asked = ("--data", "shapes:60"), ("--data", "shape-questions:20")
    out = {name: str(folder / name) for name in ("cap", "clip", "vqa", "vlm")}
    run("train", "dp-cap", *scenes, *FEW, "--out", out["cap"])
    model = ("--model", str(folder / "llava"))  # made by `families`
    if ALL:
        run("train", "dp-clip", *scenes, *FEW, "--out", out["clip"])
        run("train", "dp-vqa", *asked, *FEW, *SHORT, "--image-size", "16", "--out", out["vqa"])
        run("doctor", model[1])
    run("train", "dp-vlm", *asked, *FEW, *SHORT, *model, "--rank", "2", "--out", out["vlm"])
    for name in ("cap", "vlm"):
        run("evaluate", out[name], "--limit", "8")
    run("report", out["cap"])


def families(folder: Path) -> None:
    """Read a small checkpoint of each kind of vision-language model, take its gradients, and let it answer."""
    from tests.models.vlms import FOLDERS, QUESTIONS, answers, batch_of, pictures, started

    from sfumato.losses import AnswerLoss

    for kind in FOLDERS:
        (folder / kind).mkdir()
        made = started(kind, folder / kind)
        AnswerLoss(made.family.logits)(made.model, batch_of(made)).sum().backward()
        answers(made, pictures(), QUESTIONS)
        made.export(folder / f"{kind}-exported")


def main() -> None:
    listener, folder = listen(), Path(sys.argv[1])
    families(folder)
    commands(folder)
    sys.stdout.writelines(f"OUT OF USE: {text}\n" for text in listener.found)


if __name__ == "__main__":
    main()
