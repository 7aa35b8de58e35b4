"""What a run is made of: frozen settings, as plain values that go into run.json and come back from it."""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from sfumato.base import BadInput, limits
from sfumato.base.ranges import Real, check_ranges
from sfumato.base.reason import reason
from sfumato.plan import Plan
from sfumato.recipes.privacy import Loss, Privacy


@dataclass(frozen=True, kw_only=True)
class Data:
    """Which images, texts and people."""

    spec: str
    """As `sfumato.data.load` takes it."""

    captions: str | None = None
    """CSV, TSV or JSONL table of an image folder. Default: a .txt file next to each image."""

    image_column: str | None = None
    """Column with the image's file name."""

    caption_column: str | None = None
    """Column with the caption."""

    owner_column: str | None = None
    """Column that names the person: all rows of one person are one record, in whatever spelling (7, 7.0 and 007)."""

    label_column: str | None = None
    """Column with a class, for probes in the evaluation."""

    holdout: Annotated[float, limits.HOLDOUT] = 0.0
    """Fraction of the people (rows, without owners) that is held out, below 1. 0 where the set has a test split."""

    window: Annotated[tuple[float, float] | None, limits.WINDOW] = None
    """Public intensity range LOW HIGH of 16-bit and DICOM images."""

    max_pixels: Annotated[int | None, limits.PIXELS] = None
    """Public limit on width times height of an image; larger ones count as unreadable."""

    missing: Literal["error", "zero"] = "error"
    """How to treat images that are listed, or named in rows, and do not exist: fail, or keep the record with zero
    contribution."""

    public: bool = False
    """Declare images and captions public (they may then be shown in the report)."""

    num: Annotated[int | None, limits.SCENES] = None
    """Of shapes and shape-questions: how many; given in the name, as in shapes:5000."""

    seed: Annotated[int, limits.SEED] = 0
    """Of shapes and shape-questions."""

    scenes: Literal["single", "pair", "mixed", "lone"] = "mixed"
    """Of shapes: one group of objects, two with a relation, or both. Of shape-questions also lone: one object."""

    kinds: tuple[str, ...] = ()
    """Of shape-questions: kinds of question that are asked, such as "shape" "has shape"; more often where named again.
    Default: all."""

    templates: tuple[str, ...] = ()
    """Captions of labelled images, such as "a photo of {a} {label}"."""

    coarse: bool = False
    """Of cifar100: the 20 groups of classes are the labels."""

    classes: tuple[str, ...] = ()
    """Public names of the classes that a classifier tells apart; () takes those of a public set."""

    question_column: str | None = None
    """Column with the question; a table with one is a set of visual questions."""

    answer_column: str | None = None
    """Column with the answer (in JSON lines also a list of answers)."""

    kind_column: str | None = None
    """Column with the type of the question, for tables of results."""

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.window is not None and not self.window[0] < self.window[1]:
            raise BadInput(f"--window is LOW HIGH with LOW below HIGH, got {self.window[0]:g} {self.window[1]:g}.")


@dataclass(frozen=True, kw_only=True)
class Model:
    """Which model, where it starts, and what of it trains."""

    kind: str = "captioner"
    """captioner (images to words), towers (images and words in one space), encoder (two views of an image), classifier
    (a linear layer on the frozen features of `init`), or vlm (answers to questions)."""

    size: str | None = None
    """Of the captioner: pico, micro, nano, tiny, small, base, large. Of towers: micro, tiny. Of an encoder: small-conv,
    resnet18, micro or timm:NAME. Default with --init: that of the checkpoint."""

    image_size: Annotated[int, limits.IMAGE_SIZE] = 224
    """Image side length in pixels."""

    channels: Annotated[int, limits.CHANNELS] = 3
    """Color channels of an image; 1 for gray."""

    max_tokens: Annotated[int | None, limits.TOKENS] = None
    """Tokens of a caption, the end included. Needed for private captions; default: the longest of a public set."""

    init: str | None = None
    """Start from a former run or a local checkpoint. Captioner: transformers folder (image encoder, or whole).
    Towers: transformers folder, IMAGE_FOLDER+TEXT_FOLDER, open_clip:NAME:FILE, or lit (EfficientNet-Lite0 and MiniLM of
    their packages). Encoder: a former run. Default: random weights."""

    train: str = "all"
    """What trains: all, heads or last-K; of a vision-language model also bias, lora and dora; of --init lit also
    lora and dora (on the text tower)."""

    vocabulary: str | None = None
    """A public WordPiece vocab.txt. Default: that of --init, else built from public text."""

    public_text: str | None = None
    """A file of public sentences to build the vocabulary from."""

    strip_accents: bool | None = None
    """Leave accents and other marks out of the words: "café" becomes "cafe". Hindi and Thai lose their vowel signs.
    Default: no; of --vocabulary, where no word of it has such marks."""

    dropout: Annotated[float, limits.DROPOUT] = 0.0
    """Dropout in both towers, at most 0.9."""

    checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time."""

    embed_dim: Annotated[int | None, limits.EMBED_DIM] = None
    """Embedding dimension (dual encoders and image encoders). Default: what is usual for the model."""

    train_temperature: bool = False
    """Learn the scale of the towers themselves (dp-clip and dp-gcl); --temperature is then 1 unless given."""

    seed: Annotated[int, limits.SEED] = 0
    """Of the initial weights, which are public."""

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """Small trained parts on frozen weights (`--train lora` and `dora`): see `sfumato.models.Adapter`."""

    rank: Annotated[int, limits.RANK] = 8
    """Rank of the product."""

    alpha: Annotated[float, limits.ALPHA] = 16.0
    """The product is multiplied by alpha / rank."""

    targets: tuple[str, ...] = ()
    """Ends of the names of the layers that carry it, or all-linear. Default: attention."""

    frozen_dtype: Literal["bfloat16", "float16"] | None = None
    """Keep frozen weights in half precision under an adapter in float32. Default: as they are."""

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass(frozen=True, kw_only=True)
class Asking:
    """How a vision-language model is fed: public lengths and texts of a question and its answer."""

    max_question: Annotated[int, limits.TOKENS] = 24
    """Tokens kept of a question; those of the prompt and of the image come on top."""

    max_answer: Annotated[int, limits.TOKENS] = 8
    """Tokens of an answer, its end included."""

    prompt: str | None = None
    """Public text around {question}. Default: the model's chat template or usual prompt."""

    question: str | None = None
    """A public question that is asked of data without questions (images with captions)."""

    image_size: Annotated[int | None, limits.IMAGE_SIZE] = None
    """Image side length in pixels, where the model leaves a choice. Default: its own."""

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass(frozen=True, kw_only=True)
class Training:
    """How released gradients are used, and how the work is cut up."""

    optimizer: Literal["adamw", "adam", "sgd"] = "adamw"
    """Optimizer. Any torch optimizer is available through the Python API."""

    learning_rate: Annotated[float, limits.RATE] = 1e-3
    """Peak learning rate."""

    weight_decay: Annotated[float, limits.DECAY] = 0.005
    """Weight decay, decoupled for adamw."""

    beta1: Annotated[float, Real(0.0, 1.0, below=True, name="beta1")] = 0.9
    """Of adam and adamw; of sgd the momentum."""

    beta2: Annotated[float, Real(0.0, 1.0, below=True, name="beta2")] = 0.95
    """Of adam and adamw."""

    warmup_steps: Annotated[int, limits.SCHEDULE] = 20
    """Steps of linear warm-up, at most --steps; cosine decay follows."""

    final_rate: Annotated[float, limits.SHARE] = 0.0
    """Where the cosine ends, as a fraction of the learning rate."""

    ema_decay: Annotated[float | None, limits.AVERAGE] = None
    """Export an exponential average of the released weights with this decay. Default: the last weights."""

    micro_batch_size: Annotated[int, limits.MICRO_BATCH] = 64
    """Examples in memory at once; changes speed and memory, not the meaning of the result."""

    num_workers: Annotated[int, limits.WORKERS] = 0
    """Processes that read and augment images."""

    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    """Precision of the forward pass (autocast); norms and sums stay float32 and float64."""

    loss_scale: Annotated[float, limits.LOSS_SCALE] = 1.0
    """Public constant for float16."""

    augment: Literal["crop", "shift", "none"] | None = None
    """Augmentation. Default: the strongest that keeps captions true."""

    flip: bool | None = None
    """Mirror every second image: only if no caption says left or right. Default: what the data set declares safe."""

    vary_captions: bool = True
    """Draw one of a row's captions where it has several, as the built-in templates do."""

    jitter: bool = False
    """Distort brightness and contrast, and the colors of two views (captions stay true)."""

    crop_scale: Annotated[tuple[float, float], Real(0.0, 1.0, above=True, name="crop_scale")] = (0.2, 1.0)
    """Range of the area that a crop keeps."""

    mean: Annotated[tuple[float, ...], Real(-1e3, 1e3, name="mean")] = (0.5,)
    """Public mean of the normalisation, by channel."""

    std: Annotated[tuple[float, ...], Real(1e-6, 1e3, name="std")] = (0.5,)
    """Public standard deviation of the normalisation, by channel."""

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.learning_rate * self.weight_decay >= 1.0:
            raise BadInput(
                f"--weight-decay {self.weight_decay:g} at --learning-rate {self.learning_rate:g} takes all of every "
                "weight away in one step: their product must be below 1."
            )


@dataclass(frozen=True, kw_only=True)
class Run:
    """Everything that is public about a run: a recipe returns one, variants come by `dataclasses.replace`."""

    recipe: str
    out: Path
    data: Data
    model: Model = field(default_factory=Model)
    loss: Loss = field(default_factory=Loss)
    privacy: Privacy = field(default_factory=Privacy)
    training: Training = field(default_factory=Training)
    adapter: Adapter = field(default_factory=Adapter)
    asking: Asking = field(default_factory=Asking)
    private: bool = True

    def plan(self, num_records: int) -> Plan:
        """Return the plan for `num_records`; that of a twin has no noise, and is not calibrated.

        Raises:
            BadInput: numbers that contradict each other.
        """
        privacy = self.privacy
        if not self.private:
            privacy = dataclasses.replace(privacy, epsilon=None, noise_multiplier=0.0)
        return privacy.plan(num_records, self.loss)

    def to_json(self) -> dict[str, Any]:
        """Return the settings as JSON values (without `out`, which the folder knows)."""
        values = dataclasses.asdict(self)
        values.pop("out")
        return _plain(values)

    @classmethod
    def from_json(cls, values: dict[str, Any], out: Path) -> "Run":
        """Return the Run of `to_json`.

        Raises:
            BadInput: a part or field that there is not.
        """
        try:
            made = {name: kind(**_tuples(values.get(name, {}))) for name, kind in PARTS.items()}
            return cls(recipe=values["recipe"], out=out, private=values["private"], **made)
        except (AttributeError, KeyError, TypeError, BadInput) as error:
            why = reason(error)
            raise BadInput(f"{out / 'run.json'} is not a run of this version of sfumato: {why}.") from error


PARTS: dict[str, Any] = {
    "data": Data,
    "model": Model,
    "loss": Loss,
    "privacy": Privacy,
    "training": Training,
    "adapter": Adapter,
    "asking": Asking,
}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, tuple):
        return list(value)
    return str(value) if isinstance(value, Path) else value


def _tuples(values: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
