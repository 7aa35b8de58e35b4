"""`sfumato finetune RUN`: a linear classifier on the frozen features of a run, private or not."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro

from sfumato.base import BadInput
from sfumato.cli import _training
from sfumato.recipes.run import Run

EXAMPLES = """
sfumato finetune runs/logit-dp-cifar10 --data cifar100:cifar-100-binary --coarse True --epsilon 8
sfumato finetune runs/x --data scans/ --captions labels.csv --label-column finding --owner-column patient \\
    --classes normal effusion pneumothorax --holdout 0.2 --epsilon 2
sfumato finetune runs/x --data fashion-mnist --non-private
"""


@dataclass(frozen=True, kw_only=True)
class FinetuneCommand:
    """Train a linear classifier on the features of a run's encoder, which stays as it is.

    The second stage of Logit-DP (arXiv 2310.03104). The encoder's own run has its own claim: for a person whose records
    are in both data sets the two add up, and the card says so.
    """

    run: Annotated[Path, tyro.conf.Positional]
    """The folder of a run: captioner, towers or encoder."""

    data: str
    """As for sfumato train; the pictures need classes."""

    out: Path | None = None
    """Folder of the classifier. Default: runs/finetune-DATA."""

    captions: str | None = None
    """CSV, TSV or JSONL table of a picture folder."""

    image_column: str | None = None
    """Column with the picture's file name."""

    caption_column: str | None = None
    """Column with a caption (not used, but a table has one)."""

    owner_column: str | None = None
    """Column that names the person: all rows of one person are one record."""

    label_column: str | None = None
    """Column with the class."""

    classes: tuple[str, ...] | None = None
    """Public names of the classes, needed for private labels. A row of another class contributes nothing."""

    coarse: bool | None = None
    """Of cifar100: the 20 groups of classes are the labels."""

    holdout: float | None = None
    """Fraction of the people (rows, without owners) that is held out."""

    window: tuple[float, float] | None = None
    """Public range LOW HIGH of 16-bit and DICOM pictures."""

    public: bool | None = None
    """Declare pictures and classes public."""

    scenes: Literal["single", "pair", "mixed"] | None = None
    """Of shapes."""

    epsilon: float | None = None
    """Target epsilon. Default: 8."""

    delta: float | None = None
    """Default 1 / (10 N)."""

    noise_multiplier: float | None = None
    """Noise std over presence, instead of a target epsilon."""

    expected_batch_size: int | None = None
    """Expected size of the logical batch."""

    steps: int | None = None
    """Number of steps."""

    clip_norm: float | None = None
    """Norm to which each example's gradient is clipped."""

    sampler: Literal["poisson", "fixed"] | None = None
    """Poisson sampling, or a fixed batch size without replacement."""

    optimizer: Literal["adamw", "adam", "sgd"] | None = None
    """Any of the three."""

    learning_rate: float | None = None
    """Peak learning rate."""

    weight_decay: float | None = None
    """Decoupled for adamw."""

    non_private: bool = False
    """Train without clipping and noise. NOT PRIVATE."""

    new_attempt: bool = False
    """Go on with an interrupted run although settings changed; steps done again are charged again."""

    seed: int | None = None
    """Make the run reproducible. The card will say NOT PRIVATE: public seed."""


def run_of(command: FinetuneCommand) -> Run:
    """Return the run with the flags that were given.

    Raises:
        BadInput: flags that contradict one another.
    """
    from sfumato.recipes.finetune import finetune
    from sfumato.recipes.override import override

    if command.epsilon is not None and command.noise_multiplier is not None:
        raise BadInput("give one of --epsilon and --noise-multiplier.")
    run = override(finetune(command.run, command.data, command.out), command)
    return replace(run, private=not command.non_private)


def run(command: FinetuneCommand) -> int:
    """Train, show progress, and say where the result is."""
    return _training.carry_out(run_of(command), new_attempt=command.new_attempt, seed=command.seed)
