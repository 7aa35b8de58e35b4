"""What a run is made of: frozen settings, as plain values that go into run.json and come back from it."""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from sfumato.base import BadInput
from sfumato.plan import Example, Plan
from sfumato.sampling import FixedSize, Poisson


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
        missing: "error" or "zero": what a listed picture that is absent is.
        public: the user declares pictures and captions public.
        num, seed, scenes: of shapes.
    """

    spec: str
    captions: str | None = None
    image_column: str | None = None
    caption_column: str | None = None
    owner_column: str | None = None
    label_column: str | None = None
    holdout: float = 0.0
    window: tuple[float, float] | None = None
    max_pixels: int | None = None
    missing: str = "error"
    public: bool = False
    num: int | None = None
    seed: int = 0
    scenes: str = "mixed"


@dataclass(frozen=True, kw_only=True)
class Model:
    """Which captioner and where it starts.

    Attributes:
        size: a name of `sfumato.models.SIZES`; None takes that of `init`.
        image_size, channels, max_tokens: public shapes. max_tokens None: the longest caption of a public set.
        init: folder of a former run or of a transformers checkpoint; None starts at random.
        train: "all", "heads" or "last-K".
        vocabulary: a vocab.txt file; None: that of `init`, else built from public text.
        public_text: a file of declared public text that the vocabulary is built from.
        dropout: in both towers.
        checkpointing: recompute activations in the backward pass (less memory, about a third more time).
        seed: of the initial weights, which are public.
    """

    size: str | None = None
    image_size: int = 224
    channels: int = 3
    max_tokens: int | None = None
    init: str | None = None
    train: str = "all"
    vocabulary: str | None = None
    public_text: str | None = None
    dropout: float = 0.0
    checkpointing: bool = False
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Privacy:
    """What the plan is made from once the number of records is known.

    Attributes:
        epsilon: target; None takes `noise_multiplier` as it is.
        delta: None takes 1 / (10 N).
        expected_batch_size, steps, clip_norm, clip: of the plan.
        sampler: "poisson" or "fixed".
    """

    epsilon: float | None = 8.0
    delta: float | None = None
    noise_multiplier: float | None = None
    expected_batch_size: int = 2048
    steps: int = 400
    clip_norm: float = 1.0
    clip: str = "flat"
    sampler: str = "poisson"

    def plan(self, num_records: int) -> Plan:
        """Return the plan for `num_records`, calibrated to `epsilon` where no noise multiplier is given.

        Raises:
            BadInput: neither or both of epsilon and noise_multiplier, or numbers that contradict each other.
        """
        if (self.epsilon is None) == (self.noise_multiplier is None):
            raise BadInput("give one of --epsilon and --noise-multiplier.")
        batch = min(self.expected_batch_size, num_records)
        sampler = (
            Poisson(num_records=num_records, expected_batch_size=batch)
            if self.sampler == "poisson"
            else FixedSize(num_records=num_records, batch_size=batch)
        )
        unit = Example(clip_norm=self.clip_norm, clip=self.clip)  # pyright: ignore[reportArgumentType]
        delta = cast(float, self.delta)  # None becomes 1 / (10 N)
        plan = Plan(unit=unit, sampler=sampler, steps=self.steps, delta=delta, noise_multiplier=self.noise_multiplier)
        accountant = "pld" if self.sampler == "poisson" else "rdp"
        return plan if self.epsilon is None else plan.calibrated(epsilon=self.epsilon, accountant=accountant)


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
        vary_captions: draw one of a row's captions where it has several (the built-in templates).
        mean, std: public normalisation.
    """

    optimizer: str = "adamw"
    learning_rate: float = 1e-3
    weight_decay: float = 0.005
    beta1: float = 0.9
    beta2: float = 0.95
    warmup_steps: int = 20
    final_rate: float = 0.0
    ema_decay: float | None = None
    micro_batch_size: int = 64
    num_workers: int = 0
    precision: str = "float32"
    loss_scale: float = 1.0
    augment: str | None = None
    flip: bool | None = None
    vary_captions: bool = True
    crop_scale: tuple[float, float] = (0.2, 1.0)
    mean: tuple[float, ...] = (0.5,)
    std: tuple[float, ...] = (0.5,)


@dataclass(frozen=True, kw_only=True)
class Run:
    """Everything that is public about a run: a recipe returns one, variants come by `dataclasses.replace`."""

    recipe: str
    out: Path
    data: Data
    model: Model = field(default_factory=Model)
    privacy: Privacy = field(default_factory=Privacy)
    training: Training = field(default_factory=Training)
    private: bool = True

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
        parts = {"data": Data, "model": Model, "privacy": Privacy, "training": Training}
        try:
            made = {name: kind(**_tuples(values[name])) for name, kind in parts.items()}
            return cls(recipe=values["recipe"], out=out, private=values["private"], **made)
        except (KeyError, TypeError) as error:
            raise BadInput(f"{out / 'run.json'} is not a run of this version of sfumato: {error}.") from error


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, tuple):
        return list(value)
    return str(value) if isinstance(value, Path) else value


def _tuples(values: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
