"""`sfumato train RECIPE`: train under the plan's guarantee; the same command again resumes."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro

from sfumato.base import BadInput
from sfumato.cli import _training
from sfumato.recipes.run import Run

EXAMPLES = """
sfumato train dp-cap --data fashion-mnist --epsilon 8 --delta 1.6667e-6
sfumato train dp-cap --data images/ --captions reports.csv --image-column file --caption-column text \\
    --owner-column patient --window 0 4095 --vocabulary vocab.txt --max-tokens 40 --epsilon 8 --holdout 0.1
sfumato train dp-cap --data shapes:200000 --epsilon 4 --out runs/shapes
sfumato train dp-cap --data fashion-mnist --non-private --out runs/twin
sfumato train dp-gcl --data fashion-mnist --epsilon 8
sfumato train dp-clip --data images/ --captions products.csv --init clip/ --train last-2 --max-tokens 77 --epsilon 3
sfumato train dp-gcl --data emoji --init lit --holdout 0.2 --epsilon 8
sfumato train logit-dp --data fashion-mnist --temperature 0.5 --epsilon 8        # one encoder, two views
sfumato train logit-dp --data fashion-mnist --contrast captions --epsilon 8
torchrun --nproc-per-node 4 -m sfumato train dp-cap --data hf:owner/name --vocabulary vocab.txt --max-tokens 40
"""


@dataclass(frozen=True, kw_only=True)
class TrainCommand:
    """Train a model under differential privacy. Flags left out take the recipe's value for the data set.

    The same command again resumes where it was interrupted. What may be shared is in OUT/export/; OUT/private/ holds
    seed, ledger and logs and stays with you.
    """

    recipe: Annotated[Literal["dp-cap", "dp-clip", "dp-gcl", "logit-dp"], tyro.conf.Positional]
    """What to train: dp-cap (a captioner, clipped per example), or with a contrastive loss: dp-clip (the whole batch's
    gradient is clipped), dp-gcl (that of small groups), logit-dp (that of each pair's similarity)."""

    data: str
    """shapes[:NUM], fashion-mnist, mnist, cifar10:FOLDER, cifar100:FOLDER, emoji, a folder of pictures, a .parquet
    file, or hf:NAME."""

    out: Path | None = None
    """Folder of the run. Default: runs/RECIPE-DATA."""

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

    templates: tuple[str, ...] | None = None
    """Captions of labelled pictures, such as "a photo of {a} {label}"."""

    coarse: bool | None = None
    """Of cifar100: the 20 groups of classes are the labels."""

    contrast: Literal["captions", "views"] | None = None
    """What a contrastive loss compares: pictures with captions (two towers), or two views of a picture (one encoder).
    Default: captions for dp-clip and dp-gcl, views for logit-dp."""

    size: str | None = None
    """Of the captioner: pico, micro, nano, tiny, small, base, large. Of towers: micro, tiny. Of an encoder: small-conv,
    resnet18, micro or timm:NAME."""

    image_size: int | None = None
    """Pixels of a side."""

    channels: Literal[1, 3] | None = None
    """1 for gray pictures."""

    max_tokens: int | None = None
    """Tokens of a caption, the end included. Needed for private captions."""

    init: str | None = None
    """Start from a former run or a local checkpoint. Captioner: transformers folder (image encoder, or whole).
    Towers: transformers folder, IMAGE_FOLDER+TEXT_FOLDER, open_clip:NAME:FILE, or lit (EfficientNet-Lite0 and MiniLM of
    their packages). Encoder: a former run."""

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

    embed_dim: int | None = None
    """Numbers of an embedding, of towers and encoders."""

    loss: Literal["infonce", "sigmoid", "spread-out"] | None = None
    """Contrastive loss."""

    temperature: float | None = None
    """Public constant that divides similarities. Under logit-dp it decides how far one record can move the sum."""

    bias: float | None = None
    """Public constant of the sigmoid loss."""

    symmetric: bool | None = None
    """InfoNCE of both directions."""

    train_temperature: bool | None = None
    """Learn the scale of the towers themselves (dp-clip and dp-gcl); --temperature is then 1 unless given."""

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

    num_groups: int | None = None
    """Number of groups of dp-gcl."""

    group_size: float | None = None
    """Instead: expected records of a group."""

    views: int | None = None
    """Rows that each drawn record gives to its group: more negatives at no cost in privacy."""

    norms: Literal["exact", "bound"] | None = None
    """Of logit-dp with one encoder: the exact norm of a pair's gradient, or its triangle bound (cheaper)."""

    sampler: Literal["poisson", "fixed"] | None = None
    """Poisson sampling, or a fixed batch size without replacement."""

    cap: int | None = None
    """Largest number of records in a Poisson draw; of a larger draw a random subset is kept. Epsilon pays for it."""

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

    jitter: bool | None = None
    """Distort brightness and contrast (captions stay true)."""

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


_OF_TEXT = ("vocabulary", "public_text", "max_tokens", "vary_captions", "train_temperature", "templates", "jitter")
_OF_GROUPS = ("num_groups", "group_size")
_CONSTANTS = {"temperature", "bias", "symmetric"}
_CONSTANTS_OF = {"infonce": {"temperature", "symmetric"}, "sigmoid": {"temperature", "bias"}, "spread-out": set()}
_OF_CONTRAST = (
    "contrast",
    "loss",
    "temperature",
    "bias",
    "symmetric",
    "embed_dim",
    "train_temperature",
    "views",
    "norms",
)
_HAS_NO = {
    "dp-cap": (*_OF_CONTRAST, *_OF_GROUPS),
    "dp-clip": ("norms", *_OF_GROUPS),
    "dp-gcl": ("norms",),
    "logit-dp": ("clip", "views", "train_temperature", *_OF_GROUPS),
}


def run_of(command: TrainCommand) -> Run:
    """Return the recipe's run with the flags that were given.

    Raises:
        BadInput: flags that contradict one another, or that the recipe would ignore.
    """
    from sfumato.recipes.override import given, override

    run = _recipe(command)
    flags = given(command)
    for name in (*_HAS_NO[command.recipe], *(_OF_TEXT if run.model.kind == "encoder" else ())):
        if name in flags:
            raise BadInput(
                f"{command.recipe} of {run.model.kind} has no setting --{name.replace('_', '-')}: remove it."
            )
    if command.recipe != "dp-cap":
        loss = command.loss or run.loss.kind
        for name in _CONSTANTS - _CONSTANTS_OF[loss]:
            if name in flags:
                raise BadInput(f"the loss {loss} has no --{name}: remove it.")
    if command.epsilon is not None and command.noise_multiplier is not None:
        raise BadInput("give one of --epsilon and --noise-multiplier.")
    run = override(replace(run, private=not command.non_private), command)
    if command.init is not None and command.size is None and run.model.kind != "captioner":
        run = replace(run, model=replace(run.model, size=None))
    if command.init == "lit":
        usual = {"image_size": command.image_size or 224, "channels": command.channels or 3}
        run = replace(run, model=replace(run.model, **usual, train=command.train or "heads"))
    if command.train_temperature and command.temperature is None:  # the checkpoint's own scale stands alone
        run = replace(run, loss=replace(run.loss, temperature=1.0))
    if command.loss is not None:
        run = replace(run, loss=replace(run.loss, kind=command.loss))
    return run


def _recipe(command: TrainCommand) -> Run:
    from sfumato.recipes import dp_cap, dp_clip, dp_gcl, logit_dp
    from sfumato.recipes.logit_dp import with_views

    if command.recipe == "dp-cap":
        return dp_cap(command.data, command.out)
    if command.recipe == "logit-dp":
        return logit_dp(command.data, command.out, command.contrast or "views")
    run = (dp_clip if command.recipe == "dp-clip" else dp_gcl)(command.data, command.out)
    return with_views(run) if command.contrast == "views" else run


def run(command: TrainCommand) -> int:
    """Train, show progress, and say where the result is."""
    settings = run_of(command)
    return _training.carry_out(settings, new_attempt=command.new_attempt, reveal=command.reveal, seed=command.seed)
