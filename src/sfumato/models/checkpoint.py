"""Reading a local checkpoint: a captioner or an image encoder, with its weights, configuration and tokenizer."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModel,
    CLIPVisionModel,
    PreTrainedModel,
    SiglipVisionModel,
    VisionEncoderDecoderModel,
    ViTMSNConfig,
)

from sfumato.base import BadInput
from sfumato.base.reason import reason
from sfumato.models.folders import locate, quiet, read_json, require_weights
from sfumato.models.tokenizer import Tokenizer

_TOWERS = {"clip": CLIPVisionModel, "siglip": SiglipVisionModel}  # dual encoders: the image tower is taken
WHOLE = "vision-encoder-decoder"


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """What a folder holds.

    Attributes:
        kind: `whole` captioner or image `encoder`.
        config: of the captioner, or of the encoder.
        weights: name -> tensor, names as in the captioner or in the encoder.
        tokenizer: None where the folder has none.
    """

    folder: Path
    kind: Literal["whole", "encoder"]
    config: Any
    weights: dict[str, Tensor]
    tokenizer: Tokenizer | None

    @property
    def encoder_config(self) -> Any:
        return self.config.encoder if self.kind == "whole" else self.config


def read_checkpoint(folder: str | Path) -> Checkpoint:
    """Read a run of sfumato (its export), or a local transformers folder of a captioner or an image encoder.

    Raises:
        BadInput: naming what is missing, or why the folder is neither.
    """
    path = locate(folder)
    model_type = read_json(path / "config.json").get("model_type")
    require_weights(path)
    if model_type == WHOLE:
        model = load_model(VisionEncoderDecoderModel, path)
        has_words = any((path / name).is_file() for name in ("tokenizer.json", "vocab.txt"))
        tokenizer = Tokenizer.from_checkpoint(path) if has_words else None
        return _checkpoint(path, "whole", model, tokenizer)
    return _checkpoint(path, "encoder", _load_encoder(path, model_type), None)


def without_pooler(config: Any) -> Any:
    """Return the configuration of the same ViT without a pooler, which no captioner's gradient would reach.

    transformers' ViT-MSN is its ViT, name by name, without the pooler. Other encoders are returned as they are.
    """
    if config.model_type != "vit":
        return config
    return ViTMSNConfig(**{name: getattr(config, name) for name in VIT_FIELDS})


VIT_FIELDS = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "hidden_act",
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "initializer_range",
    "layer_norm_eps",
    "image_size",
    "patch_size",
    "num_channels",
    "qkv_bias",
)


def _checkpoint(
    path: Path, kind: Literal["whole", "encoder"], model: PreTrainedModel, tokenizer: Tokenizer | None
) -> Checkpoint:
    return Checkpoint(folder=path, kind=kind, config=model.config, weights=model.state_dict(), tokenizer=tokenizer)


def _load_encoder(path: Path, model_type: str | None) -> PreTrainedModel:
    try:
        # A folder's own code is never run, nor asked about.
        config = AutoConfig.from_pretrained(str(path), local_files_only=True, trust_remote_code=False)
    except Exception as error:  # a library raises anything on a broken file
        raise BadInput(f"{path / 'config.json'} names no model that transformers knows: {reason(error)}.") from error
    model = load_model(_TOWERS.get(config.model_type, AutoModel), path)
    if getattr(model, "main_input_name", None) != "pixel_values" or not hasattr(model.config, "hidden_size"):
        raise BadInput(
            f"{path} holds a {model_type!r}, which is neither an image encoder (ViT, DeiT, DINOv2, CLIP, ...) "
            "nor a VisionEncoderDecoderModel."
        )
    return model


def load_model(model_class: Any, path: Path) -> PreTrainedModel:
    """Load a transformers class from a local folder in float32; BadInput names what is missing or misshapen."""
    model, missing = load_with_gaps(model_class, path)
    require_all([name for name in missing if "pooler" not in name], path)
    return model


def require_all(missing: list[str], path: Path) -> None:
    """Raise BadInput if anything is missing."""
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise BadInput(f"the weights in {path} lack {missing[0]}{more}.")


def load_with_gaps(model_class: Any, path: Path) -> tuple[PreTrainedModel, list[str]]:
    """Load as `load_model` does, and return the names of the parameters that the file lacks: those are random."""
    try:
        with quiet(), torch.random.fork_rng(devices=[]):  # a pooler that the file lacks would be drawn at random
            model, report = model_class.from_pretrained(
                str(path),
                local_files_only=True,
                trust_remote_code=False,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # reported below, by name
                dtype=torch.float32,  # a half-precision file trains in full precision
            )
    except Exception as error:  # a library raises anything on a broken file
        raise BadInput(f"the weights in {path} cannot be read: {reason(error)}.") from error
    for name, found, expected in sorted(report["mismatched_keys"]):
        raise BadInput(f"{path}: {name} has shape {tuple(found)}, its config.json says {tuple(expected)}.")
    return model, sorted(report["missing_keys"])
