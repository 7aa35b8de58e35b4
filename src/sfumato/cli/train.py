"""`sfumato train RECIPE`: train under the plan's guarantee; the same command again resumes."""

import sys
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from rich.console import Console

from sfumato.base import BadInput
from sfumato.recipes.run import Run

EXAMPLES = """
sfumato train dp-cap --data fashion-mnist --epsilon 8 --delta 1.6667e-6
sfumato train dp-cap --data images/ --captions reports.csv --image-column file --caption-column text \\
    --owner-column patient --window 0 4095 --vocabulary vocab.txt --max-tokens 40 --epsilon 8 --holdout 0.1
sfumato train dp-cap --data shapes:200000 --epsilon 4 --out runs/shapes
sfumato train dp-cap --data fashion-mnist --non-private --out runs/twin
torchrun --nproc-per-node 4 -m sfumato train dp-cap --data hf:owner/name --vocabulary vocab.txt --max-tokens 40
"""


@dataclass(frozen=True, kw_only=True)
class TrainCommand:
    """Train a model under differential privacy. Flags left out take the recipe's value for the data set.

    The same command again resumes where it was interrupted. What may be shared is in OUT/export/; OUT/private/ holds
    seed, ledger and logs and stays with you.
    """

    recipe: Annotated[Literal["dp-cap"], tyro.conf.Positional]
    """What to train: dp-cap (a captioner, clipped per example)."""

    data: str
    """shapes[:NUM], fashion-mnist, mnist, cifar10:FOLDER, cifar100:FOLDER, emoji, a folder of pictures, a .parquet
    file, or hf:NAME."""

    out: Path | None = None
    """Folder of the run. Default: runs/dp-cap-DATA."""

    captions: str | None = None
    """CSV, TSV or JSONL table of a picture folder. Default: a .txt file beside each picture."""

    image_column: str | None = None
    """Column with the picture's file name."""

    caption_column: str | None = None
    """Column with the caption."""

    owner_column: str | None = None
    """Column that names the person: all rows of one person are one record."""

    label_column: str | None = None
    """Column with a class, for probes in the evaluation."""

    holdout: float | None = None
    """Fraction of the people (rows, without owners) that is held out."""

    window: tuple[float, float] | None = None
    """Public range LOW HIGH of 16-bit and DICOM pictures."""

    max_pixels: int | None = None
    """Public limit on the pixels of a picture; larger ones count as unreadable."""

    missing: Literal["error", "zero"] | None = None
    """What a listed picture that is absent is: an error, or a record that contributes nothing."""

    public: bool | None = None
    """Declare pictures and captions public (they may then be shown in the report)."""

    scenes: Literal["single", "pair", "mixed"] | None = None
    """Of shapes: one group of objects, two with a relation, or both."""

    size: Literal["pico", "micro", "nano", "tiny", "small", "base", "large"] | None = None
    """Size of the captioner."""

    image_size: int | None = None
    """Pixels of a side."""

    channels: Literal[1, 3] | None = None
    """1 for gray pictures."""

    max_tokens: int | None = None
    """Tokens of a caption, the end included. Needed for private captions."""

    init: str | None = None
    """Start from a former run or from a local transformers checkpoint (image encoder, or whole captioner)."""

    train: str | None = None
    """What trains: all, heads or last-K."""

    vocabulary: str | None = None
    """A public WordPiece vocab.txt."""

    public_text: str | None = None
    """A file of public sentences to build the vocabulary from."""

    checkpointing: bool | None = None
    """Recompute activations: less memory, more time."""

    dropout: float | None = None
    """Dropout in both towers."""

    epsilon: float | None = None
    """Target epsilon; the noise is calibrated to it."""

    delta: float | None = None
    """Default 1 / (10 N)."""

    noise_multiplier: float | None = None
    """Noise std over presence, instead of a target epsilon."""

    expected_batch_size: int | None = None
    """Expected size of the logical batch: one noise draw."""

    steps: int | None = None
    """Number of steps."""

    clip_norm: float | None = None
    """Norm to which each example's gradient is clipped."""

    clip: Literal["flat", "automatic"] | None = None
    """min(1, C/norm), or C/(norm + gamma)."""

    sampler: Literal["poisson", "fixed"] | None = None
    """Poisson sampling, or a fixed batch size without replacement."""

    optimizer: Literal["adamw", "adam", "sgd"] | None = None
    """Any of the three; others through the library."""

    learning_rate: float | None = None
    """Peak learning rate."""

    weight_decay: float | None = None
    """Decoupled for adamw."""

    warmup_steps: int | None = None
    """Linear warm-up; cosine decay follows."""

    final_rate: float | None = None
    """Where the cosine ends, as a share of the learning rate."""

    ema_decay: float | None = None
    """Export an exponential average of the released weights."""

    micro_batch_size: int | None = None
    """Examples in memory at once; changes speed and memory, not the result's meaning."""

    num_workers: int | None = None
    """Processes that read and augment pictures."""

    precision: Literal["float32", "bfloat16", "float16"] | None = None
    """Of the forward pass; norms and sums stay float32 and float64."""

    loss_scale: float | None = None
    """Public constant for float16."""

    augment: Literal["crop", "shift", "none"] | None = None
    """Augmentation; default: the strongest that keeps captions true."""

    flip: bool | None = None
    """Mirror every second picture: only if no caption says left or right."""

    vary_captions: bool | None = None
    """Draw one of a row's captions where it has several, as the built-in templates do."""

    non_private: bool = False
    """Train the twin without clipping and noise, to see what privacy costs. NOT PRIVATE."""

    new_attempt: bool = False
    """Go on with an interrupted run although settings changed; steps done again are charged again."""

    reveal: Literal["debug"] | None = None
    """Show un-noised losses. The card will say so."""

    seed: int | None = None
    """Make the run reproducible. The card will say NOT PRIVATE: public seed."""


_PARTS = ("data", "model", "privacy", "training")


def run_of(command: TrainCommand) -> Run:
    """Return the recipe's run with the flags that were given."""
    from sfumato.recipes.dp_cap import dp_cap

    run = dp_cap(command.data, command.out)
    given = {f.name: value for f in fields(command) if (value := getattr(command, f.name)) is not None}
    given.pop("data")
    if command.non_private:
        run = replace(run, private=False)
    if command.noise_multiplier is not None:
        if command.epsilon is not None:
            raise BadInput("give one of --epsilon and --noise-multiplier.")
        run = replace(run, privacy=replace(run.privacy, epsilon=None))
    for part in _PARTS:
        settings = getattr(run, part)
        own = {name: given[name] for name in (f.name for f in fields(settings)) if name in given and name != "seed"}
        run = replace(run, **{part: replace(settings, **own)})
    return run


def run(command: TrainCommand) -> int:
    """Train, show progress, and say where the result is."""
    from sfumato.recipes.execute import train_run, train_twin
    from sfumato.recipes.make import make

    settings = run_of(command)
    console = Console(file=sys.stderr)
    made = make(settings)
    plan = made.plan
    console.print(
        f"{made.rows.captioned.name}: {made.rows.captioned.num_records:,} records; "
        f"{len(made.started.training.trainable)} tensors train; text length {made.max_tokens}; "
        f"vocabulary {made.tokenizer.vocab_size:,} ({made.vocabulary})",
        highlight=False,
    )
    if not settings.private:
        console.print("[bold red]NOT PRIVATE[/]: no clipping, no noise.")
        train_twin(settings, on_step=_steps(console, plan.steps), made=made)
        console.print(f"{settings.out / 'export'}", highlight=False)
        return 0
    for warning in plan.warnings:
        console.print(f"[yellow]warning[/] {warning}", highlight=False)
    console.print(
        f"noise multiplier {plan.noise_multiplier:.4f}, {plan.steps} steps of {plan.batch_size:g} expected examples, "
        f"delta {plan.delta:.3g}",
        highlight=False,
    )
    epsilon = train_run(
        settings,
        on_progress=show_progress(console),
        accept_new_attempt=command.new_attempt,
        reveal=command.reveal,
        seed=command.seed,
        made=made,
    )
    claim = f"epsilon {epsilon:.3f} at delta {plan.delta:.3g}" if epsilon is not None else "no epsilon is proved"
    console.print(f"[bold]{claim}[/]; to share: {settings.out / 'export'}", highlight=False)
    return 0


def show_progress(console: Console) -> Callable[[Any], None]:
    """Return what prints a line of public progress."""

    def show(progress: Any) -> None:
        epsilon = "" if progress.epsilon is None else f"  epsilon {progress.epsilon:.3f}"
        loss = "" if progress.loss is None else f"  loss {progress.loss:.4f} (un-noised)"
        held_out = "" if progress.measured is None else f"  held-out loss {progress.measured:.3f}"
        console.print(
            f"step {progress.step}/{progress.total}  {_duration(progress.eta_seconds)} left{epsilon}{held_out}{loss}",
            highlight=False,
        )

    return show


def _steps(console: Console, total: int) -> Callable[[int, float], None]:
    def show(step: int, loss: float) -> None:
        if step % max(1, total // 20) == 0 or step == total:
            console.print(f"step {step}/{total}  loss {loss:.4f}", highlight=False)

    return show


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"
