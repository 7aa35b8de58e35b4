"""Flags that several commands share, as dataclasses that a command inherits: what a run's settings are named."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from sfumato.base import limits


@dataclass(frozen=True, kw_only=True)
class DataFlags:
    """Which pictures, texts and people."""

    data: str
    """shapes[:NUM], shape-questions[:NUM], fashion-mnist, mnist, cifar10:FOLDER, cifar100:FOLDER, emoji, easy-vqa,
    vqa2:FOLDER, a folder of pictures, a .parquet file, or hf:NAME."""

    out: Path | None = None
    """Folder of the run. Default: runs/RECIPE-DATA."""

    captions: str | None = None
    """CSV, TSV or JSONL table of a picture folder. Default: a .txt file beside each picture."""

    image_column: str | None = None
    """Column with the picture's file name."""

    caption_column: str | None = None
    """Column with the caption."""

    owner_column: str | None = None
    """Column that names the person: all rows of one person are one record, in whatever spelling (7, 7.0 and 007)."""

    label_column: str | None = None
    """Column with a class, for probes in the evaluation."""

    holdout: float | None = None
    """Fraction of the people (rows, without owners) that is held out, below 1."""

    window: tuple[float, float] | None = None
    """Public range LOW HIGH of 16-bit and DICOM pictures."""

    max_pixels: int | None = None
    """Public limit on width times height of a picture; larger ones count as unreadable."""

    missing: Literal["error", "zero"] | None = None
    """How to treat pictures that are listed, or named in rows, and do not exist: fail, or keep the record with zero
    contribution."""

    public: bool | None = None
    """Declare pictures and captions public (they may then be shown in the report)."""

    scenes: Literal["single", "pair", "mixed", "lone"] | None = None
    """Of shapes: one group of objects, two with a relation, or both. Of shape-questions also lone: one object."""

    kinds: tuple[str, ...] | None = None
    """Of shape-questions: kinds of question that are asked, such as "shape" "has shape"; more often where named again.
    Default: all."""

    templates: tuple[str, ...] | None = None
    """Captions of labelled pictures, such as "a photo of {a} {label}"."""

    coarse: bool | None = None
    """Of cifar100: the 20 groups of classes are the labels."""

    question_column: str | None = None
    """Column with the question; a table with one is a set of visual questions."""

    answer_column: str | None = None
    """Column with the answer (in JSON lines also a list of answers)."""

    kind_column: str | None = None
    """Column with the type of the question, for tables of results."""


@dataclass(frozen=True, kw_only=True)
class AdapterFlags:
    """Settings of an adapter, where one trains."""

    rank: Annotated[int | None, limits.RANK] = None
    """Of lora and dora: rank of the product."""

    alpha: Annotated[float | None, limits.ALPHA] = None
    """Of lora and dora: the product is multiplied by alpha / rank."""

    targets: tuple[str, ...] | None = None
    """Of lora and dora: ends of the names of the layers that carry it, or all-linear. Default: attention."""

    frozen_dtype: Literal["bfloat16", "float16"] | None = None
    """Frozen weights in half precision under an adapter in float32."""


@dataclass(frozen=True, kw_only=True)
class ModelFlags(AdapterFlags):
    """Which model, where it starts, and what of it trains."""

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
    """What trains: all, heads or last-K; of a vision-language model also bias, lora and dora; of --init lit also
    lora and dora (on the text tower)."""

    vocabulary: str | None = None
    """A public WordPiece vocab.txt."""

    public_text: str | None = None
    """A file of public sentences to build the vocabulary from."""

    strip_accents: bool | None = None
    """Leave accents and other marks out of the words: "café" becomes "cafe". Hindi and Thai lose their vowel signs.
    Default: no; of --vocabulary, where no word of it has such marks."""

    checkpointing: bool | None = None
    """Recompute activations: less memory, more time."""

    dropout: float | None = None
    """Dropout in both towers, at most 0.9."""

    embed_dim: int | None = None
    """Numbers of an embedding, of towers and encoders."""


@dataclass(frozen=True, kw_only=True)
class LengthFlags:
    """Public lengths and texts of a question and its answer."""

    max_question: Annotated[int | None, limits.TOKENS] = None
    """Tokens kept of a question; those of the prompt and of the picture come on top."""

    max_answer: Annotated[int | None, limits.TOKENS] = None
    """Tokens of an answer, its end included."""

    prompt: str | None = None
    """Public text around {question}. Default: the model's chat template or usual prompt."""


@dataclass(frozen=True, kw_only=True)
class UnitFlags:
    """What is clipped, where the recipe leaves a choice."""

    unit: Literal["example", "group", "batch"] | None = None
    """What is clipped: the gradient of each record, of groups of records, or of the whole batch (the paper's)."""


@dataclass(frozen=True, kw_only=True)
class AskingFlags(UnitFlags, LengthFlags):
    """How a vision-language model is asked."""

    model: str | None = None
    """Folder of a vision-language model of transformers (BLIP, BLIP-2, GIT, LLaVA, PaliGemma, Qwen2-VL, SmolVLM,
    Idefics3), of open_clip's CoCa, or of a run of dp-vqa."""

    question: str | None = None
    """A public question that is asked of data without questions (pictures with captions)."""


@dataclass(frozen=True, kw_only=True)
class ContrastFlags:
    """What a contrastive loss compares."""

    contrast: Literal["captions", "views"] | None = None
    """What a contrastive loss compares: pictures with captions (two towers), or two views of a picture (one encoder).
    Default: captions for dp-clip and dp-gcl, views for logit-dp."""

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


@dataclass(frozen=True, kw_only=True)
class PrivacyFlags:
    """Noise, sampling, clipping."""

    epsilon: float | None = None
    """Target epsilon; the noise is calibrated to it."""

    delta: float | None = None
    """Default 1 / (10 N); has to be given below 100 records."""

    noise_multiplier: float | None = None
    """Noise std over presence, instead of a target epsilon."""

    expected_batch_size: int | None = None
    """Expected size of the logical batch: one noise draw. At most the number of records."""

    steps: int | None = None
    """Number of steps."""

    clip_norm: float | None = None
    """Norm to which each example's gradient is clipped."""

    clip: Literal["flat", "automatic"] | None = None
    """min(1, C/norm), or C/(norm + gamma)."""

    num_groups: int | None = None
    """Number of groups of dp-gcl."""

    group_size: float | None = None
    """Instead of --num-groups: expected records of a group."""

    views: int | None = None
    """Rows that each drawn record gives: to its group, where they are more negatives, or, clipped together, as the
    record's own (several questions of a picture). No cost in privacy."""

    norms: Literal["exact", "bound"] | None = None
    """Of logit-dp with one encoder: the exact norm of a pair's gradient, or its triangle bound (cheaper)."""

    sampler: Literal["poisson", "fixed"] | None = None
    """Poisson sampling, or a fixed batch size without replacement."""

    cap: int | None = None
    """Largest number of records in a Poisson draw; of a larger draw a random subset is kept. Epsilon pays for it."""


@dataclass(frozen=True, kw_only=True)
class OptimizerFlags:
    """How released gradients are used, and how the work is cut up."""

    optimizer: Literal["adamw", "adam", "sgd"] | None = None
    """Any of the three; others through the library."""

    learning_rate: float | None = None
    """Peak learning rate."""

    weight_decay: float | None = None
    """Decoupled for adamw."""

    warmup_steps: int | None = None
    """Linear warm-up, at most --steps; cosine decay follows."""

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


@dataclass(frozen=True, kw_only=True)
class OnceFlags:
    """What concerns this call alone."""

    non_private: bool = False
    """Train the twin without clipping and noise, to see what privacy costs. NOT PRIVATE."""

    new_attempt: bool = False
    """Go on with an interrupted run although settings changed; steps done again are charged again."""

    reveal: Literal["debug"] | None = None
    """Show un-noised losses. The card will say so."""

    seed: Annotated[int | None, limits.SEED] = None
    """Make the run reproducible. The card will say NOT PRIVATE: public seed."""
