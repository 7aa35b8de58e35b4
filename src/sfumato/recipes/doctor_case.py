"""What the doctor is asked about, and the model, loss and made-up rows that it makes of it."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Self

from torch import Tensor, nn

from sfumato import mechanisms, models
from sfumato.base import BadInput
from sfumato.losses import Contrast
from sfumato.mechanisms import LossFn
from sfumato.plan import InfoNCE
from sfumato.recipes.adapters import adapter_for
from sfumato.recipes.run import Adapter

TEMPERATURE = 0.2
COUPLED = f"InfoNCE at temperature {TEMPERATURE:g} (dp-clip and dp-gcl take 0.07 on folders of pictures)"
UNITS = ("example", "group")
OF_QUESTIONS = ("max_question", "max_answer", "prompt")
_COUNTS = ("group_size", "image_size", "channels", "max_tokens", "max_question", "max_answer")
SETTINGS = ("kind", "image_size", "channels", "max_tokens", *OF_QUESTIONS, "batch_norm")


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What the doctor is asked about; plain values, so that a fresh process can be asked the same.

    Attributes:
        model: a folder, `open_clip:NAME[:FILE]`, `timm:NAME[:FILE]`, or a built-in size.
        kind: of a built-in size or timm model: `captioner`, `towers`, `encoder` (two views); None: what is usual.
        train: which parameters train.
        adapter: of lora and dora.
        unit: `example` or `group`; None: what the loss allows, example first.
        group_size: rows of a group.
        image_size, channels, max_tokens: public shapes; None: those of the model.
        max_question, max_answer, prompt: of a model that answers questions; None: those of training.
        batch_norm: of timm: `keep`, `frozen` or `group`; None: `keep` of a classifier, `group` of two views.

    Raises:
        BadInput: a number below 1.
    """

    model: str
    kind: str | None = None
    train: str = "all"
    adapter: Adapter = field(default_factory=Adapter)
    unit: str | None = None
    group_size: int = 16
    image_size: int | None = None
    channels: int | None = None
    max_tokens: int | None = None
    max_question: int | None = None
    max_answer: int | None = None
    prompt: str | None = None
    batch_norm: str | None = None

    def __post_init__(self) -> None:
        for name in _COUNTS:
            value = getattr(self, name)
            if value is not None and value < 1:
                raise BadInput(f"{flag(name)} must be >= 1, got {value}.")

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        """Return what `to_dict` gave, also after a way through JSON."""
        adapter = dict(values["adapter"])
        adapter["targets"] = tuple(adapter["targets"])
        return cls(**{**values, "adapter": Adapter(**adapter)})

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Case:
    """A model with everything that a step needs.

    Attributes:
        source: the model in words.
        model: in training mode, `requires_grad` set.
        loss_fn: one value per row, or a `Contrast`.
        batch: n -> n made-up rows, texts at full length.
        synthetic: n -> rows for the engine's checks; None: twins of a batch, as in training.
        training: which parameters train.
        unit: `example` or `group`.
        choices: what `train` may be besides, so that fewer parameters train, and how to set it.
        encode: texts and their length -> ids, for public rows; None where the model has no tokenizer.
        text_name: of these ids in a batch.
        answer: (picture, question, answer) -> a row, where the model answers questions.
        notes: what else is to be said of the model.
        image_size, channels: of pictures.
    """

    source: str
    model: nn.Module
    loss_fn: LossFn | Contrast
    batch: Callable[[int], Any]
    synthetic: Callable[[int], Any] | None = None
    training: models.Training
    unit: str
    choices: "Choices" = field(default_factory=lambda: Choices())
    encode: Callable[[list[str], int], Tensor] | None = None
    text_name: str = ""
    answer: Callable[[Any, str, str], Any] | None = None
    notes: tuple[str, ...] = ()
    image_size: int
    channels: int

    @property
    def computation(self) -> mechanisms.Computation:
        """What a step is computed with."""
        return mechanisms.Computation(model=self.model, loss_fn=self.loss_fn, synthetic=self.synthetic)


@dataclass(frozen=True, kw_only=True)
class Choices:
    """What `train` may be for a model, for advice.

    Attributes:
        names: such as `heads` and `last-1`; LoRA is told by `lora`.
        choose: sets `requires_grad` of the model to one of them; raises BadInput where the model has no such part.
        lora: returns how many numbers train under LoRA besides its products, and how many more with each rank; raises
            BadInput where no layer can carry it. None: training puts no LoRA on such models.
    """

    names: tuple[str, ...] = ()
    choose: Callable[[str], models.Training] | None = None
    lora: Callable[[], tuple[int, int]] | None = None

    @property
    def said(self) -> str:
        """The choices as one types them."""
        return ", ".join((*self.names, *(("lora",) if self.lora else ())))


def adapter_of(asked: Asked) -> models.Adapter | None:
    """Return the adapter that is asked for, None where something else trains; BadInput for settings of none."""
    return adapter_for(asked.train, asked.adapter)


def row_unit(asked: Asked) -> str:
    """Return the unit of a loss of one value per row: the example, which needs half the noise of a group.

    Raises:
        BadInput: a size of groups where there are none.
    """
    if asked.unit != "group" and asked.group_size != Asked.group_size:
        raise BadInput("--group-size is of the unit group: leave it out, or give --unit group.")
    return asked.unit or "example"


def contrast_unit(asked: Asked) -> str:
    """Return the unit of a loss in which rows meet.

    Raises:
        Refused: the example unit, in the words of training.
    """
    if asked.unit == "example":
        nothing: Any = None
        computation = mechanisms.Computation(model=nn.Linear(1, 1), loss_fn=contrast(nothing))
        mechanisms.clip_examples(computation, [], nothing, mechanisms.flat(1.0))  # pyright: ignore[reportArgumentType]
    return "group"


def contrast(embed: Any) -> Contrast:
    """Return the loss in which rows meet, at one temperature for all models."""
    return Contrast(embed=embed, loss=InfoNCE(temperature=TEMPERATURE))


def text_length(asked: Asked, most: int | None, usual: int) -> int:
    """Return how many tokens a text has: those asked for, else `usual`.

    Args:
        most: places that the model has for them; None where nothing says so.

    Raises:
        BadInput: more tokens than places.
    """
    if asked.max_tokens is not None and most is not None and asked.max_tokens > most:
        raise BadInput(f"--max-tokens {asked.max_tokens}: this model reads at most {most} tokens.")
    return asked.max_tokens or usual


def flag(name: str) -> str:
    """Return a setting as one types it."""
    return f"--{name.replace('_', '-')}"


def name_and_file(rest: str) -> tuple[str, str | None]:
    """Return the two parts of NAME[:FILE]."""
    name, _, file = rest.partition(":")
    return name, file or None


def only(asked: Asked, what: str, *takes: str) -> None:
    """Raise BadInput for a setting that `what` would ignore.

    Args:
        what: the model in a few words.
        takes: the settings that it reads, of `SETTINGS`.
    """
    usual = {one.name: one.default for one in fields(Asked)}
    for name in SETTINGS:
        if name not in takes and getattr(asked, name) != usual[name]:
            raise BadInput(f"{flag(name)} is no setting of {what}: leave it out.")


def no_adapter(asked: Asked) -> None:
    """Raise BadInput for settings of an adapter on a model that takes none; `train` is the model's own to refuse."""
    if asked.adapter != Adapter():
        raise BadInput(
            "on this model training puts no adapter: leave out --rank, --alpha, --targets and --frozen-dtype."
        )
