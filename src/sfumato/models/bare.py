"""A model as its library or folder gives it: nothing is adapted, replaced or frozen. What the doctor looks at.

Nothing is downloaded, and a folder's own code is never run. A folder without weights gives random ones.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from transformers import AutoConfig, AutoModelForImageTextToText, VisionEncoderDecoderModel

from sfumato.base import BadInput, Refused
from sfumato.base.reason import reason
from sfumato.models.checkpoint import WHOLE, load_with_gaps
from sfumato.models.dual_sources import DUAL_CLASSES
from sfumato.models.families import FAMILIES, Known, known_family
from sfumato.models.folders import locate, quiet, read_json, require_weights
from sfumato.models.modeling_sfumato_timm import freeze_batch_norms, hold_batch_norms, replace_batch_norms
from sfumato.models.timm_start import require_timm

_BYTES = 4  # of a weight: training is in float32
_BATCH_NORMS = ("keep", "frozen", "group")


@dataclass(frozen=True, kw_only=True)
class Bare:
    """A model and where it comes from.

    Attributes:
        kind: `captioner`, `towers`, `words` (text from pictures and text) or `classifier` (pictures to logits).
        model: in training mode.
        source: in words.
        is_random: no weights were found.
        image_size, channels: of the pictures that it reads.
        notes: what else there is to say.
    """

    kind: str
    model: Any
    source: str
    is_random: bool
    image_size: int
    channels: int
    notes: tuple[str, ...] = ()

    @property
    def said(self) -> tuple[str, ...]:
        """What there is to say, random weights first."""
        return (*(("random weights: the folder or name gives none",) if self.is_random else ()), *self.notes)


@dataclass(frozen=True, kw_only=True)
class Looked:
    """What a folder's configuration says, before any weights are read.

    Attributes:
        path: where config.json is.
        kind: as of `Bare`.
        model_class, config: of transformers.
        has_weights: whether there is a weights file.
    """

    path: Path
    kind: str
    model_class: Any
    config: Any
    has_weights: bool


def look_at(folder: str | Path, *, room_bytes: float | None = None) -> Looked:
    """Return what a transformers folder holds.

    Args:
        folder: with config.json.
        room_bytes: refuse what is larger than this; None: whatever it takes.

    Raises:
        BadInput: no such folder, one that transformers does not know, or a class that nothing here trains.
        Refused: quantised weights, or weights that do not fit.
    """
    path = locate(folder)
    content = read_json(path / "config.json")
    if content.get("quantization_config"):
        method = content["quantization_config"].get("quant_method", "")
        raise Refused(
            f"the weights in {path} are quantised ({method or 'int8'}): their rows' gradients are not measured. Take "
            "the checkpoint in float16, bfloat16 or float32, frozen where it shall not train."
        )
    config = _config(path)
    kind, model_class = _class_of(config, path)
    _require_room(model_class, config, path, room_bytes)
    try:
        require_weights(path)
    except BadInput:
        return Looked(path=path, kind=kind, model_class=model_class, config=config, has_weights=False)
    return Looked(path=path, kind=kind, model_class=model_class, config=config, has_weights=True)


def bare_folder(looked: Looked) -> Bare:
    """Return the model of a transformers folder; without a weights file its weights are random."""
    missing: list[str] = []
    if looked.has_weights:
        model, missing = load_with_gaps(looked.model_class, looked.path)
    else:
        model = random_model(looked.model_class, looked.config)
    more = f" and {len(missing) - 1} more" if missing[1:] else ""
    size, channels = pictures_of(looked.config)
    return Bare(
        kind=looked.kind,
        model=model.train(),
        source=f"{type(model).__name__} of {looked.path}",
        is_random=not looked.has_weights,
        image_size=size,
        channels=channels,
        notes=(f"the weights lack {missing[0]}{more}",) if missing else (),
    )


def random_model(model_class: Any, config: Any) -> Any:
    """Return the model of a configuration with random weights, always the same ones."""
    with quiet(), torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        return model_class._from_config(config)


def pictures_of(config: Any) -> tuple[int, int]:
    """Return pixels of a side and channels of the pictures that a configuration is made for."""
    image = getattr(config, "encoder", None) or getattr(config, "vision_config", None) or config
    size = getattr(image, "image_size", 224)
    channels = getattr(image, "num_channels", 3)
    return int(size[0] if isinstance(size, list | tuple) else size), int(channels)


def bare_timm(
    name: str, file: str | None, *, channels: int = 3, image_size: int | None = None, batch_norm: str = "keep"
) -> Bare:
    """Return a timm model with its own classifier.

    Args:
        name, file: as timm lists it, and a local checkpoint; without one the weights are random.
        channels, image_size: of pictures; None takes the model's own size.
        batch_norm: `keep`, `frozen` (held in evaluation mode), or `group` (GroupNorm in its place).

    Raises:
        BadInput: timm is not installed, has no such model, or the file does not fit.
    """
    timm = require_timm()
    if batch_norm not in _BATCH_NORMS:
        raise BadInput(f"batch_norm is {', '.join(_BATCH_NORMS)}, got {batch_norm!r}.")
    if not timm.is_model(name):
        near = timm.list_models(f"*{name.split('_')[0]}*")[:3]
        raise BadInput(f"timm has no model {name!r}" + (f"; it has {', '.join(near)}." if near else "."))
    config = timm.get_pretrained_cfg(name)
    side = image_size or int(config.input_size[-1])
    sized = {"img_size": side} if getattr(config, "fixed_input_size", False) else {}
    try:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)
            model: Any = timm.create_model(
                name, pretrained=False, in_chans=channels, checkpoint_path=file or "", **sized
            )
    except Exception as error:  # a library raises anything on a broken file
        raise BadInput(f"timm cannot make {name}: {reason(error)}.") from error
    model.train()
    if batch_norm == "frozen":
        freeze_batch_norms(model)
        model.register_forward_pre_hook(_hold)
    elif batch_norm == "group":
        replace_batch_norms(model)
    return Bare(
        kind="classifier",
        model=model,
        source=f"timm {name}",
        is_random=file is None,
        image_size=side,
        channels=channels,
    )


def _hold(module: nn.Module, inputs: Any) -> None:
    """Keep BatchNorm in evaluation mode, whatever mode the model was put into since."""
    hold_batch_norms(module)


def _config(path: Path) -> Any:
    try:  # a folder's own code is never run, nor asked about
        return AutoConfig.from_pretrained(str(path), local_files_only=True, trust_remote_code=False)
    except Exception as error:  # a library raises anything on a broken file
        why = reason(error)
        raise BadInput(f"{path / 'config.json'} names no model that transformers knows: {why}.") from error


def _class_of(config: Any, path: Path) -> tuple[str, Any]:
    if config.model_type == WHOLE:
        return "captioner", VisionEncoderDecoderModel
    if config.model_type in DUAL_CLASSES:
        return "towers", DUAL_CLASSES[config.model_type]
    if config.model_type in FAMILIES or _reads_pictures(config):
        return "words", getattr(transformers, _family_of(config).model_class)
    named = ", ".join(config.architectures or ()) or config.model_type
    raise BadInput(
        f"{path} holds {named}, which neither captions nor embeds pictures with texts. An image encoder trains "
        "inside a captioner (sfumato train dp-cap --init FOLDER) or as timm:NAME."
    )


def _reads_pictures(config: Any) -> bool:
    """Whether transformers has a class that writes text from pictures for this configuration."""
    known: Any = AutoModelForImageTextToText._model_mapping
    named = config.architectures or ()
    return type(config) in known or any("Conditional" in name or "Question" in name for name in named)


def _family_of(config: Any) -> Known:
    try:
        return known_family(config.model_type, config.architectures or ())
    except BadInput as error:
        raise BadInput(f"{error} With a loss of your own, one value per row, PrivateGradients may train it.") from error


def _require_room(model_class: Any, config: Any, path: Path, room_bytes: float | None) -> None:
    if room_bytes is None:
        return
    with quiet(), torch.device("meta"):
        model = model_class._from_config(config)
    count = sum(parameter.numel() for parameter in model.parameters())
    if count * _BYTES > room_bytes:
        raise Refused(
            f"{type(model).__name__} of {path} has {count:,} parameters, {count * _BYTES / 1e9:.1f} GB in float32 "
            f"before anything trains; there are {room_bytes / 1e9:.1f} GB. Take a smaller model or a larger machine."
        )
