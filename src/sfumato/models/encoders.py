"""Image encoders for self-supervision: pixels to embeddings, each row a function of its own picture.

Every encoder has `settings` (a frozen dataclass that makes it again), `features` and `head`, the last linear layer. The
classes that an export must bring along live in files of their own, `modeling_sfumato_*.py`.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from sfumato.base import BadInput
from sfumato.base.reason import reason
from sfumato.models.modeling_sfumato_encoders import ResNet18Plain, SmallConv, make
from sfumato.models.modeling_sfumato_stem import StemConfig, StemModel
from sfumato.models.modeling_sfumato_timm import TimmEncoder, TimmSettings, batch_norms
from sfumato.models.sizes import named_size

PLAIN = ("small-conv", "resnet18", "resnet18-group", "micro")
_STEM_FIELDS = ("num_channels", "hidden_sizes", "kernel_sizes", "strides", "num_groups", "num_waves")


@dataclass(frozen=True, kw_only=True)
class StemSettings:
    """What a `StemEncoder` is made of: d (`width`, 0 for no last layer) and the fields of its `StemConfig`."""

    channels: int = 3
    width: int = 8
    stem: dict[str, Any] = field(default_factory=dict)


class StemEncoder(nn.Module):
    """Pixels (N, C, S, S) to (N, d): the convolutional encoder of the captioner `micro`, mean of its tokens, linear."""

    def __init__(self, settings: StemSettings) -> None:
        super().__init__()
        self.settings = settings
        self.stem = StemModel(StemConfig(**settings.stem))
        self.head = nn.Linear(self.stem.config.hidden_size, settings.width) if settings.width else nn.Identity()

    @property
    def stages(self) -> nn.ModuleList:
        """The convolutional stages, in order."""
        return self.stem.stages

    def features(self, pixels: Tensor) -> Tensor:
        """Return the mean of the tokens, (N, F), as `models.embed` does for a captioner."""
        return self.stem(pixels).last_hidden_state.mean(1)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.head(self.features(pixels))


Encoder = SmallConv | ResNet18Plain | StemEncoder | TimmEncoder


def plain_settings(kind: str, *, image_size: int, channels: int, width: int) -> dict[str, Any]:
    """Return the settings of one of `PLAIN`; BadInput if the picture is too small."""
    fields: dict[str, Any] = {"channels": channels, "width": width}
    if kind == "micro":
        config = named_size("micro").encoder(image_size, channels, 0.0)
        return {**fields, "stem": {name: getattr(config, name) for name in _STEM_FIELDS}}
    return {**fields, "norm": "group"} if kind == "resnet18-group" else fields


_MAKE: dict[str, Callable[[dict[str, Any]], Encoder]] = {
    "small-conv": lambda fields: make("small-conv", fields),
    "resnet18": lambda fields: make("resnet18", fields),
    "resnet18-group": lambda fields: make("resnet18-group", fields),
    "micro": lambda fields: StemEncoder(StemSettings(**fields)),
    "timm": lambda fields: TimmEncoder(TimmSettings(**fields)),
}


def make_encoder(kind: str, settings: dict[str, Any]) -> Encoder:
    """Return an encoder with weights that nobody chose: the caller fills them in. Global random state stays as it was.

    Raises:
        BadInput: no such kind, or settings that it does not have.
    """
    if kind not in _MAKE:
        raise BadInput(f"there is no encoder of kind {kind!r}; the kinds are {', '.join(_MAKE)}.")
    try:
        with torch.random.fork_rng(devices=[]):
            return _MAKE[kind](settings)
    except TypeError as error:
        raise BadInput(f"the settings {settings} are not those of an encoder {kind}: {reason(error)}.") from error


def kind_of(model: nn.Module) -> str:
    """Return the kind of an encoder made here: its name in `start_encoder`, but `timm` for every timm model."""
    if isinstance(model, ResNet18Plain):
        return "resnet18" if model.settings.norm == "none" else "resnet18-group"
    kinds = {SmallConv: "small-conv", StemEncoder: "micro", TimmEncoder: "timm"}
    if type(model) not in kinds:
        raise BadInput(f"{type(model).__name__} is no encoder of sfumato: take start_encoder or load_encoder.")
    return kinds[type(model)]


def settings_of(model: Any) -> dict[str, Any]:
    """Return the settings of an encoder as JSON values."""
    return asdict(model.settings)


def held_names(model: nn.Module) -> set[str]:
    """Return the names of the weights and biases of BatchNorm layers, which never train here."""
    held = {id(param) for norm in batch_norms(model) for param in norm.parameters()}
    return {name for name, param in model.named_parameters() if id(param) in held}
