"""`sfumato simulate linear-clip`: the trade-off of batch and group clipping in the linear setting. Synthetic data."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from sfumato.base.files import write_whole
from sfumato.cli._screen import say, screen, show

if TYPE_CHECKING:  # PyTorch is imported when the command runs, not for --help
    from sfumato.recipes.simulate import Sweep

EXAMPLES = """
sfumato simulate linear-clip
sfumato simulate linear-clip --epsilon 1 2 4 8 16 --num-records 50000 --dim 40 --rank 3 --signal 4
sfumato simulate linear-clip --epsilon 8 --num-records 20000 --dim 20 40 80 160 --num-groups 50
sfumato simulate linear-clip --epsilon 4 --num-records 20000 --signal 4 --repeats 32 --seed 1 --json
"""


@dataclass(frozen=True, kw_only=True)
class SimulateCommand:
    """Predict and simulate what privacy costs a linear dual encoder, for batch and for group clipping.

    Two views share r directions under noise (spiked covariance). The encoder starts partly right and is trained with
    the contrastive loss under a plan that meets epsilon. The error is ||sin Theta|| between what it learned and the
    signal: predicted as the sum of optimisation, privacy, sampling and statistical terms, and simulated. Of every list
    the first value belongs to the base; each further one changes the base in that place. No private data is involved.
    """

    setting: Annotated[Literal["linear-clip"], tyro.conf.Positional] = "linear-clip"
    """Which theory."""

    epsilon: tuple[float, ...] = (8.0, 4.0, 2.0, 1.0)
    """Epsilons to meet, at delta 1 / (10 n)."""

    num_records: tuple[int, ...] = (20_000, 10_000, 5_000)
    """Numbers of records n."""

    dim: tuple[int, ...] = (40, 20, 80)
    """Widths d of both views."""

    rank: tuple[int, ...] = (3, 1, 6)
    """Ranks r: shared directions, with singular values from 2 down to 1."""

    signal: tuple[float, ...] = (4.0, 1.0, 16.0)
    """Signal-to-noise ratios: the smallest singular value over the variance of the noise in one coordinate."""

    batch_size: float = 400.0
    """Expected records of a step (Poisson sampling)."""

    steps: int = 300
    """Steps T. The learning rate is the one of least predicted error among a public grid."""

    num_groups: int = 25
    """Groups m of group clipping. Batch clipping has one, and is always shown beside it."""

    clip_norm: float = 0.5
    """Clip norm c of the batch's gradient, or of each group's."""

    start_angle: float = 0.3
    """Radians between the start's directions and the signal's."""

    repeats: int = 4
    """Independent runs of each point."""

    seed: int = 0
    """Public seed of data, draws and noise: all of them are synthetic."""

    out: Path = Path("runs/theory")
    """Folder for rows.json and the plots."""

    json: bool = False
    """Print JSON instead of the table."""


def run(command: SimulateCommand) -> int:
    """Simulate, write rows and plots, and show them; return 0. Raises BadInput and Refused for what cannot be done."""
    from sfumato.recipes import simulate
    from sfumato.recipes.config import check_no_run
    from sfumato.report import tables

    check_no_run(command.out)
    rows = simulate.linear_clip(_sweep(command))
    command.out.mkdir(parents=True, exist_ok=True)
    written = [command.out / "rows.json", *simulate.plots(rows, simulate.AXES, command.out)]
    text = json.dumps(rows, indent=1, allow_nan=False) + "\n"
    write_whole(written[0], text)
    if command.json:
        sys.stdout.write(text)
        return 0
    console = screen()
    show(console, tables.table(simulate.shown(rows), title=f"||sin Theta||; base: {simulate.base_in_words(rows)}"))
    say(console, "pred squared = optim + priv + sampl + stat")
    say(console, "  ".join(str(path) for path in written))
    return 0


def _sweep(command: SimulateCommand) -> "Sweep":
    from sfumato.recipes.simulate import Sweep

    return Sweep(
        epsilon=command.epsilon,
        num_records=command.num_records,
        dim=command.dim,
        rank=command.rank,
        signal=command.signal,
        batch_size=command.batch_size,
        steps=command.steps,
        num_groups=command.num_groups,
        clip_norm=command.clip_norm,
        start_angle=command.start_angle,
        repeats=command.repeats,
        seed=command.seed,
    )
