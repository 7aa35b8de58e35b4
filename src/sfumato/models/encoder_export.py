"""Exports of image encoders: folders that load without sfumato, and the reader of such a folder.

A folder holds `config.json`, `model.safetensors` and the file of the encoder's class. In a timm model's folder
`model.safetensors` is a checkpoint of timm's own: its classifier is the last linear layer.
"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from sfumato.base import BadInput
from sfumato.base.reason import reason
from sfumato.models import modeling_sfumato_encoders, modeling_sfumato_stem, modeling_sfumato_timm
from sfumato.models.encoders import Encoder, kind_of, make_encoder, settings_of
from sfumato.models.folders import locate, read_json, require_weights
from sfumato.models.modeling_sfumato_timm import TimmEncoder
from sfumato.models.started import LoadedTowers
from sfumato.models.two_views import TwoViewTowers
from sfumato.models.whole_folder import whole_folder

MODEL_TYPE = "sfumato_encoder"
WEIGHTS = "model.safetensors"
_MODELING = {"micro": modeling_sfumato_stem, "timm": modeling_sfumato_timm}
_PREPROCESS = ("image_size", "mean", "std", "channels")


def export_encoder(model: nn.Module, preprocess: Mapping[str, Any], folder: str | Path) -> Path:
    """Write an encoder as a folder that loads without sfumato (see `docs/image-encoders.md`), and return the folder.

    A new folder appears whole; in an existing one each file is replaced whole, the weights last, and files of other
    names stay.

    Args:
        model: of `start_encoder` or `load_encoder`.
        preprocess: `image_size`, `mean`, `std`, `channels` of the run.

    Raises:
        BadInput: the model is no encoder of sfumato, or the preprocessing lacks a number.
    """
    with whole_folder(folder) as into:
        write_encoder(model, preprocess, into)
    return Path(folder)


def write_encoder(model: Any, preprocess: Mapping[str, Any], into: Path) -> None:
    """Write the files of an encoder into a folder that exists."""
    kind = kind_of(model)
    config: dict[str, Any] = {"model_type": MODEL_TYPE, "kind": kind, "settings": settings_of(model)}
    if isinstance(model, TimmEncoder):
        config["timm"] = {"name": model.settings.name, "arguments": model.settings.arguments}
    config["preprocess"] = public_preprocess(preprocess)
    (into / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    modeling = Path(str(_MODELING.get(kind, modeling_sfumato_encoders).__file__))
    shutil.copyfile(modeling, into / modeling.name)  # the class travels with its weights
    write_weights(model.backbone if isinstance(model, TimmEncoder) else model, into / WEIGHTS)


def load_encoder(folder: str | Path) -> LoadedTowers:
    """Read what `export_encoder` wrote, or a run's folder that holds it; the model is in evaluation mode.

    Raises:
        BadInput: naming what is missing or does not fit.
    """
    path = locate(folder)
    config = read_json(path / "config.json")
    if config.get("model_type") != MODEL_TYPE:
        raise BadInput(f"{path} holds no image encoder of sfumato (its config.json says {config.get('model_type')!r}).")
    model = read_encoder(path)
    preprocess = public_preprocess(config.get("preprocess", {}))
    return LoadedTowers(model=model, embed=TwoViewTowers(), tokenizer=None, preprocess=preprocess)


def read_encoder(path: Path) -> Encoder:
    """Return the encoder of a folder that `write_encoder` wrote, in evaluation mode."""
    config = read_json(path / "config.json")
    require_weights(path)
    model = make_encoder(str(config.get("kind")), config.get("settings", {}))
    fill(model.backbone if isinstance(model, TimmEncoder) else model, path / WEIGHTS)
    return model.eval()


def public_preprocess(preprocess: Mapping[str, Any]) -> dict[str, Any]:
    """Return the public constants that a model expects of its pictures, mean and std one number a channel."""
    missing = [name for name in _PREPROCESS if name not in preprocess]
    if missing:
        raise BadInput(f"the preprocessing lacks {', '.join(missing)}.")
    channels = int(preprocess["channels"])
    return {
        "image_size": int(preprocess["image_size"]),
        "mean": _per_channel(preprocess["mean"], channels),
        "std": _per_channel(preprocess["std"], channels),
        "channels": channels,
    }


def _per_channel(values: Any, channels: int) -> list[float]:
    numbers = [float(value) for value in values]
    return numbers * channels if len(numbers) == 1 else numbers  # one number stands for all channels


def write_weights(module: nn.Module, file: Path) -> None:
    """Write parameters and buffers of a module as safetensors, in the order of their names."""
    state = module.state_dict()
    tensors = {name: state[name].detach().cpu().contiguous() for name in sorted(state)}
    save_file(tensors, file, metadata={"format": "pt"})


def fill(module: nn.Module, file: Path) -> None:
    """Fill a module's parameters and buffers from a safetensors file; BadInput names the tensor that does not fit."""
    try:
        found = load_file(str(file))
    except Exception as error:  # a library raises anything on a broken file
        raise BadInput(f"the weights in {file} cannot be read: {reason(error)}.") from error
    fill_from(module, found, file)


def fill_from(module: nn.Module, found: Mapping[str, torch.Tensor], file: Path) -> None:
    """Fill a module from tensors, name by name; BadInput names one that is missing, unknown or of another shape."""
    wanted = module.state_dict()
    for name, tensor in wanted.items():
        if name not in found:
            raise BadInput(f"{file} lacks the tensor {name}.")
        if found[name].shape != tensor.shape:
            shapes = f"has shape {tuple(found[name].shape)}, the model takes {tuple(tensor.shape)}"
            raise BadInput(f"{file}: {name} {shapes}.")
    unknown = sorted(set(found) - set(wanted))
    if unknown:
        raise BadInput(f"{file} has the tensor {unknown[0]}, which the model does not.")
    module.load_state_dict(dict(found))
