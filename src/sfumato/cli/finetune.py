"""`sfumato finetune RUN`: a linear classifier on the frozen features of a run, private or not."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import tyro

from sfumato.cli import _training
from sfumato.cli._flags import DataFlags, OnceFlags, OptimizerFlags, PrivacyFlags
from sfumato.recipes.run import Run

EXAMPLES = """
sfumato finetune runs/logit-dp-cifar10 --data cifar100:cifar-100-binary --coarse True --epsilon 8
sfumato finetune runs/x --data scans/ --captions labels.csv --label-column finding --owner-column patient \\
    --classes normal effusion pneumothorax --holdout 0.2 --epsilon 2
sfumato finetune runs/x --data fashion-mnist --non-private
"""


@dataclass(frozen=True, kw_only=True)
class FinetuneCommand(OnceFlags, OptimizerFlags, PrivacyFlags, DataFlags):
    """Train a linear classifier on the features of a run's encoder, which stays as it is.

    The second stage of Logit-DP (arXiv 2310.03104). The encoder's own run has its own claim: for a person whose records
    are in both data sets the two add up, and the card says so.
    """

    run: Annotated[Path, tyro.conf.Positional]
    """The folder of a run: captioner, towers or encoder."""

    classes: tuple[str, ...] | None = None
    """Public names of the classes, needed for private labels. A row of another class contributes nothing."""


def run_of(command: FinetuneCommand) -> Run:
    """Return the run with the flags that were given.

    Raises:
        BadInput: flags that contradict one another.
    """
    from sfumato.recipes.finetune import finetune
    from sfumato.recipes.override import check_pairs, override

    check_pairs(command)
    run = override(finetune(command.run, command.data, command.out), command)
    return replace(run, private=not command.non_private)


def run(command: FinetuneCommand) -> int:
    """Train, show progress, and say where the result is."""
    return _training.carry_out(
        run_of(command), new_attempt=command.new_attempt, reveal=command.reveal, seed=command.seed
    )
