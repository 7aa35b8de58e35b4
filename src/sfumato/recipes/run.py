"""What a run is made of: frozen settings, as plain values that go into run.json and come back from it."""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from sfumato.base import BadInput, limits
from sfumato.base.ranges import Real, check_ranges
from sfumato.base.reason import reason
from sfumato.plan import Plan
from sfumato.recipes.privacy import Loss, Privacy


@dataclass(frozen=True, kw_only=True)
class Data:
    """Which pictures and captions.

    Attributes:
        spec: as `sfumato.data.load` takes it.
        captions: table of a picture folder (CSV or JSONL); None: a .txt beside each picture.
        image_column, caption_column, owner_column, label_column: names in the table.
        holdout: fraction of the owners (or rows) that is held out; 0 where the set has a test split of its own.
        window: declared public range (low, high) of 16-bit and DICOM pictures.
        max_pixels: public limit on the pixels of a picture; larger ones count as unreadable.
        missing: "error" or "zero": whether a listed picture that does not exist is an error or contributes zero.
        public: the user declares pictures and captions public.
        num, seed, scenes: of shapes and shape-questions.
        kinds: of shape-questions: which kinds of question are asked; () is all.
        templates: captions of labelled pictures, with {label} and {a}; () takes the usual.
        coarse: of cifar100: labels are the 20 groups of classes.
        classes: public names of the classes that a classifier tells apart; () takes those of a public set.
        question_column, answer_column, kind_column: of a table of visual questions.
    """

    spec: str
    captions: str | None = None
    image_column: str | None = None
    caption_column: str | None = None
    owner_column: str | None = None
    label_column: str | None = None
    holdout: Annotated[float, limits.HOLDOUT] = 0.0
    window: Annotated[tuple[float, float] | None, limits.WINDOW] = None
    max_pixels: Annotated[int | None, limits.PIXELS] = None
    missing: str = "error"
    public: bool = False
    num: Annotated[int | None, limits.SCENES] = None
    seed: Annotated[int, limits.SEED] = 0
    scenes: str = "mixed"
    kinds: tuple[str, ...] = ()
    templates: tuple[str, ...] = ()
    coarse: bool = False
    classes: tuple[str, ...] = ()
    question_column: str | None = None
    answer_column: str | None = None
    kind_column: str | None = None

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.window is not None and not self.window[0] < self.window[1]:
            raise BadInput(f"--window is LOW HIGH with LOW below HIGH, got {self.window[0]:g} {self.window[1]:g}.")


@dataclass(frozen=True, kw_only=True)
class Model:
    """Which model and where it starts.

    Attributes:
        kind: "captioner" (pictures to words), "towers" (pictures and words in one space), "encoder" (two views of a
            picture), "classifier" (a linear layer on the frozen features of `init`), or "vlm" (answers to questions).
        size: of a captioner a name of `sfumato.models.SIZES`, of towers or an encoder as `models.start_dual` and
            `models.start_encoder` take it; None takes that of `init`.
        image_size, channels, max_tokens: public shapes. max_tokens None: the longest caption of a public set.
        init: folder of a former run or of a transformers checkpoint; None starts at random.
        train: "all", "heads" or "last-K"; of a vlm also "bias", "lora" or "dora", of the towers of
            packages also "lora" or "dora".
        vocabulary: a vocab.txt file; None: that of `init`, else built from public text.
        public_text: a file of declared public text that the vocabulary is built from.
        strip_accents: whether the words of a vocabulary file or of public text lose their marks ("café" is "cafe");
            None: of public text they keep them, of a file where it has any.
        dropout: in both towers.
        checkpointing: recompute activations in the backward pass (less memory, about a third more time).
        embed_dim: numbers of an embedding, of towers and encoders; None takes what is usual for the model.
        train_temperature: of towers: the checkpoint's own temperature is learned (groups only).
        seed: of the initial weights, which are public.
    """

    kind: str = "captioner"
    size: str | None = None
    image_size: Annotated[int, limits.IMAGE_SIZE] = 224
    channels: Annotated[int, limits.CHANNELS] = 3
    max_tokens: Annotated[int | None, limits.TOKENS] = None
    init: str | None = None
    train: str = "all"
    vocabulary: str | None = None
    public_text: str | None = None
    strip_accents: bool | None = None
    dropout: Annotated[float, limits.DROPOUT] = 0.0
    checkpointing: bool = False
    embed_dim: Annotated[int | None, limits.EMBED_DIM] = None
    train_temperature: bool = False
    seed: Annotated[int, limits.SEED] = 0

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """Small trained parts on frozen weights, where `train` of the model asks for one: see `sfumato.models.Adapter`."""

    rank: Annotated[int, limits.RANK] = 8
    alpha: Annotated[float, limits.ALPHA] = 16.0
    targets: tuple[str, ...] = ()
    frozen_dtype: str | None = None

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass(frozen=True, kw_only=True)
class Asking:
    """How a vision-language model is fed: public lengths and texts.

    Attributes:
        max_question, max_answer: tokens that are kept of each, the answer's with its end.
        prompt: text around "{question}"; None: the model's own.
        question: what is asked of data without questions.
        image_size: side of the pictures that the model sees, where it leaves a choice; None: its own.
    """

    max_question: Annotated[int, limits.TOKENS] = 24
    max_answer: Annotated[int, limits.TOKENS] = 8
    prompt: str | None = None
    question: str | None = None
    image_size: Annotated[int | None, limits.IMAGE_SIZE] = None

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass(frozen=True, kw_only=True)
class Training:
    """How the released gradients are used, and how the work is cut up.

    Attributes:
        optimizer: "adamw", "adam" or "sgd".
        learning_rate, weight_decay, beta1, beta2: of it (sgd: beta1 is the momentum).
        warmup_steps, final_rate: linear warm-up, then cosine down to final_rate times the rate.
        ema_decay: average of the released weights that is exported; None exports the last weights.
        micro_batch_size: rows in memory at once.
        num_workers: processes that make rows.
        precision: "float32", "bfloat16" or "float16" (autocast of the forward pass).
        loss_scale: public constant for float16.
        augment, flip, crop_scale: of pictures; None: what the data set declares safe.
        jitter: distort brightness and contrast of pictures (and the colours of two views).
        vary_captions: draw one of a row's captions where it has several (the built-in templates).
        mean, std: public normalisation.
    """

    optimizer: str = "adamw"
    learning_rate: Annotated[float, limits.RATE] = 1e-3
    weight_decay: Annotated[float, limits.DECAY] = 0.005
    beta1: Annotated[float, Real(0.0, 1.0, below=True, name="beta1")] = 0.9
    beta2: Annotated[float, Real(0.0, 1.0, below=True, name="beta2")] = 0.95
    warmup_steps: Annotated[int, limits.SCHEDULE] = 20
    final_rate: Annotated[float, limits.SHARE] = 0.0
    ema_decay: Annotated[float | None, limits.AVERAGE] = None
    micro_batch_size: Annotated[int, limits.MICRO_BATCH] = 64
    num_workers: Annotated[int, limits.WORKERS] = 0
    precision: str = "float32"
    loss_scale: Annotated[float, limits.LOSS_SCALE] = 1.0
    augment: str | None = None
    flip: bool | None = None
    vary_captions: bool = True
    jitter: bool = False
    crop_scale: Annotated[tuple[float, float], Real(0.0, 1.0, above=True, name="crop_scale")] = (0.2, 1.0)
    mean: Annotated[tuple[float, ...], Real(-1e3, 1e3, name="mean")] = (0.5,)
    std: Annotated[tuple[float, ...], Real(1e-6, 1e3, name="std")] = (0.5,)

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
