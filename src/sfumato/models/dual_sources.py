"""Where a dual encoder starts that is not made anew: a whole model of transformers, or two towers from two folders."""

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    CLIPModel,
    CLIPTextModel,
    CLIPVisionModel,
    SiglipModel,
    SiglipTextModel,
    SiglipVisionModel,
    VisionTextDualEncoderConfig,
    VisionTextDualEncoderModel,
)

from sfumato.base import BadInput
from sfumato.base.reason import reason
from sfumato.models.checkpoint import Checkpoint, load_with_gaps, require_all
from sfumato.models.export import PREPROCESSOR
from sfumato.models.folders import locate, read_json, require_weights
from sfumato.models.initialise import as_key, torch_seed
from sfumato.models.open_clip_door import CONFIG
from sfumato.models.start import fit_tower
from sfumato.models.tokenizer import Tokenizer
from sfumato.models.towers import UNMASKED
from sfumato.models.transplant import interpolate_positions, misfit

DUAL_CLASSES: dict[str, Any] = {
    "clip": CLIPModel,
    "siglip": SiglipModel,
    "vision-text-dual-encoder": VisionTextDualEncoderModel,
}
_TOWERS: dict[str, dict[str, Any]] = {
    "vision": {"clip": CLIPVisionModel, "siglip": SiglipVisionModel},
    "text": {"clip": CLIPTextModel, "siglip": SiglipTextModel},
}
_OFFSET_POSITIONS = ("roberta", "xlm-roberta", "camembert", "xlm-roberta-xl")  # positions start after the padding id


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """The run's own constants, which a checkpoint must fit or be fitted to."""

    tokenizer: Tokenizer
    image_size: int
    max_tokens: int
    channels: int
    dropout: float
    embed_dim: int | None
    seed: bytes | int

    @property
    def fields(self) -> dict[str, Any]:
        return {"image_size": self.image_size, "channels": self.channels, "dropout": self.dropout}


def locate_dual(folder: str | Path) -> Path:
    """Return the folder meant by `folder`: itself, or a run's `export/`, in transformers' or open_clip's layout."""
    for path in (Path(folder), Path(folder) / "export"):
        if (path / CONFIG).is_file() and not (path / "config.json").is_file():
            return path
    return locate(folder)


def read_whole(path: Path, wanted: Wanted) -> tuple[Any, list[str]]:
    """Return a CLIPModel, SiglipModel or VisionTextDualEncoderModel with the weights of `path`, and notes.

    Raises:
        BadInput: naming what the folder holds instead, or the setting or tensor that does not fit.
    """
    model_type = read_json(path / "config.json").get("model_type")
    if model_type not in DUAL_CLASSES:
        raise BadInput(f"{path} holds a {model_type!r}, which is no dual encoder ({', '.join(DUAL_CLASSES)}).")
    require_weights(path)
    loaded, missing = load_with_gaps(DUAL_CLASSES[model_type], path)
    require_all(missing, path)
    config: Any = copy.deepcopy(loaded.config)
    if wanted.embed_dim not in (None, projected(config)):
        raise BadInput(f"{path} embeds into {projected(config)} dimensions, embed_dim asks for {wanted.embed_dim}.")
    config.vision_config = fit_tower(config.vision_config, path, wanted.fields)
    config.text_config = _fit_text(config.text_config, path, wanted)
    model = _make(DUAL_CLASSES[model_type], config, wanted.seed)
    notes = _pour(model, loaded, loaded.config.vision_config, path)
    return model, [f"{type(model).__name__} of {path}", *notes]


def read_two(image: Path, text: Path, wanted: Wanted) -> tuple[Any, list[str]]:
    """Return a VisionTextDualEncoderModel of two pretrained towers, with new projections, and notes.

    Raises:
        BadInput: naming the folder that does not hold such a tower, or what does not fit.
    """
    vision, lacks_vision = _load_tower("vision", image)
    words, lacks_words = _load_tower("text", text)
    config: Any = VisionTextDualEncoderConfig.from_vision_text_configs(
        fit_tower(copy.deepcopy(vision.config), image, wanted.fields),
        _fit_text(copy.deepcopy(words.config), text, wanted),
        projection_dim=wanted.embed_dim if wanted.embed_dim else 256,
    )
    model = _make(VisionTextDualEncoderModel, config, wanted.seed)
    notes = [f"image tower {vision.config.model_type} of {image}", f"text tower {words.config.model_type} of {text}"]
    notes += _pour(model.vision_model, vision, vision.config, image, lacks_vision)
    notes += _pour(model.text_model, words, vision.config, text, lacks_words)
    for name, param in (("visual", model.visual_projection.weight), ("text", model.text_projection.weight)):
        generator = torch.Generator().manual_seed(torch_seed(as_key(wanted.seed), "init", f"{name}_projection.weight"))
        nn.init.normal_(param, 0.0, param.shape[1] ** -0.5, generator=generator)
    return model, [*notes, f"new projections into {config.projection_dim} dimensions"]


def statistics(path: Path) -> tuple[list[float], list[float]] | None:
    """Return mean and standard deviation per channel of a folder's image processor, or None where it has none."""
    if not (path / PREPROCESSOR).is_file():
        return None
    content = read_json(path / PREPROCESSOR)
    if "image_mean" not in content or "image_std" not in content:
        return None
    return list(content["image_mean"]), list(content["image_std"])


def projected(config: Any) -> int:
    """Return the width of the common space."""
    return config.text_config.projection_size if config.model_type == "siglip" else config.projection_dim


def _make(model_class: Any, config: Any, seed: bytes | int) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(torch_seed(as_key(seed), "assemble"))
        return model_class._from_config(config)


def _load_tower(side: str, path: Path) -> tuple[Any, list[str]]:
    read_json(path / "config.json")
    require_weights(path)
    try:  # a folder's own code is never run, nor asked about
        config: Any = AutoConfig.from_pretrained(str(path), local_files_only=True, trust_remote_code=False)
    except Exception as error:  # a library raises anything on a broken file
        raise BadInput(f"{path / 'config.json'} names no model that transformers knows: {reason(error)}.") from error
    model, missing = load_with_gaps(_TOWERS[side].get(config.model_type, AutoModel), path)
    first_input = "pixel_values" if side == "vision" else "input_ids"
    if model.main_input_name != first_input or not hasattr(model.config, "hidden_size"):
        raise BadInput(f"{path} holds a {config.model_type!r}, which is no encoder of {first_input}.")
    require_all([name for name in missing if "pooler" not in name], path)
    return model, missing


def _fit_text(config: Any, path: Path, wanted: Wanted) -> Any:
    """Set dropout and the end token in a text tower's configuration, in place; BadInput if texts do not fit."""
    tokenizer = wanted.tokenizer
    config = fit_tower(config, path, wanted.fields)
    positions = getattr(config, "max_position_embeddings", wanted.max_tokens)  # relative positions have no bound
    if config.model_type in _OFFSET_POSITIONS:
        positions -= config.pad_token_id + 1
    if wanted.max_tokens > positions:
        raise BadInput(f"{path} knows {positions} text positions, max_tokens asks for {wanted.max_tokens}.")
    if config.model_type == "siglip_text_model" and wanted.max_tokens != positions:
        raise BadInput(f"{path} is read at the last of its {positions} text positions: set max_tokens to {positions}.")
    _require_words(config, path, tokenizer)
    if config.model_type == "clip_text_model":
        config.eos_token_id = tokenizer.eos_id  # where it is read out
    return config


def require_end(config: Any, tokenizer: Tokenizer) -> None:
    """Raise BadInput where the text tower cannot tell the end of a text, or padding from its end."""
    if config.model_type == "clip_text_model" and config.eos_token_id == 2:
        raise BadInput(
            "the tokenizer's end token is 2, which transformers' CLIP takes to mean the highest id of a text."
        )
    if config.model_type not in UNMASKED and tokenizer.pad_id == tokenizer.eos_id:
        raise BadInput(
            "the tokenizer pads with its end token, so the text tower's mask would hide the end: give it [PAD]."
        )


def _require_words(config: Any, path: Path, tokenizer: Tokenizer) -> None:
    own = Tokenizer.from_checkpoint(path) if _has_words(path) else None
    if own is None and tokenizer.vocab_size == config.vocab_size:
        return
    if own is None or not tokenizer.same_ids(own) or tokenizer.vocab_size > config.vocab_size:
        raise BadInput(
            f"{path} knows {config.vocab_size} tokens, and the tokenizer is another: "
            "start with the folder's own, Tokenizer.from_checkpoint(folder)."
        )


def _has_words(path: Path) -> bool:
    return any((path / name).is_file() for name in ("tokenizer.json", "vocab.txt", "tokenizer.model"))


@torch.no_grad()
def _pour(target: nn.Module, loaded: Any, vision: Any, path: Path, missing: list[str] | None = None) -> list[str]:
    """Copy the loaded weights into `target`; image positions of another size are interpolated. Returns notes."""
    weights = loaded.state_dict()
    source = Checkpoint(folder=path, kind="encoder", config=vision, weights=weights, tokenizer=None)
    notes = []
    for name, tensor in target.state_dict().items():
        if name in (missing or ()):
            notes.append(f"{name} is new: {path} has none")
        elif weights[name].shape == tensor.shape:
            tensor.copy_(weights[name])
        elif "position" in name and weights[name].shape[-1] == tensor.shape[-1]:
            tensor.copy_(interpolate_positions(name, tensor, weights[name], source))
            notes.append(f"{name}: interpolated from {tuple(weights[name].shape)} to {tuple(tensor.shape)}")
        else:
            raise misfit(name, tensor, weights[name], source)
    return notes
