"""A timm model as an image encoder: made by its name, filled from a local file, its rows made independent.

Nothing is ever downloaded: weights come from a file or from the seed.
"""

import importlib.util
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sfumato.base import BadInput
from sfumato.base.reason import reason
from sfumato.models.encoder_export import fill_from
from sfumato.models.initialise import torch_seed
from sfumato.models.modeling_sfumato_timm import (
    TimmEncoder,
    TimmSettings,
    batch_norms,
    freeze_batch_norms,
    replace_batch_norms,
)

BATCH_NORMS = ("group", "frozen")


def timm_encoder(
    name: str, file: str | None, *, image_size: int, channels: int, width: int, key: bytes, batch_norm: str
) -> TimmEncoder:
    """Return a timm model with a linear layer to d, its weights from `file` or a function of `key`.

    Args:
        name: as timm lists it.
        file: a local checkpoint of that model (.safetensors or .pth), its classifier left out; None starts at random.
        image_size, channels, width: S, C and d; a width of 0 leaves the last layer out.
        key: 32 bytes.
        batch_norm: `group` replaces every BatchNorm, from scratch only; `frozen` holds those of `file`.

    Raises:
        BadInput: timm is not installed or does not know the name, the settings do not fit the model, or its rows
            cannot be made independent.
    """
    settings = _settings(name, image_size=image_size, channels=channels, width=width)
    model = _made(settings, key)
    _check_head(model)
    if file is not None:
        _fill(model, Path(file))
    _separate_rows(model, batch_norm, pretrained=file is not None)
    _redraw_head(model, key)
    _check(model, image_size)
    return model


def require_timm() -> Any:
    """Return the module timm; BadInput says how to install it."""
    if importlib.util.find_spec("timm") is None:
        raise BadInput('models of timm need the package timm: pip install "sfumato[timm]".')
    import timm

    return timm


def timm_normalisation(name: str) -> dict[str, Any]:
    """Return mean and std of the pictures that timm's weights of this model were trained on."""
    config = require_timm().get_pretrained_cfg(name)
    return {"mean": list(config.mean), "std": list(config.std)}


def _settings(name: str, *, image_size: int, channels: int, width: int) -> TimmSettings:
    timm = require_timm()
    if not timm.is_model(name):
        near = timm.list_models(f"*{name.split('_')[0]}*")[:3]
        raise BadInput(f"timm has no model {name!r}" + (f"; it has {', '.join(near)}." if near else "."))
    fixed = bool(getattr(timm.get_pretrained_cfg(name), "fixed_input_size", False))
    return TimmSettings(name=name, channels=channels, width=width, image_size=image_size if fixed else None)


def _made(settings: TimmSettings, key: bytes) -> TimmEncoder:
    try:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(torch_seed(key, "timm"))
            return TimmEncoder(settings)
    except Exception as error:  # a library raises anything on a broken file
        raise BadInput(f"timm cannot make {settings.name} with {settings.arguments}: {reason(error)}.") from error


def _fill(model: TimmEncoder, file: Path) -> None:
    """Fill the model from a checkpoint, all but the classifier; BadInput names the tensor that does not fit."""
    if not file.is_file():
        raise BadInput(f"there is no weights file {file}.")
    from timm.models import load_state_dict

    try:
        found = load_state_dict(str(file))
    except Exception as error:  # torch.load and safetensors raise of many kinds
        raise BadInput(f"the weights in {file} cannot be read: {reason(error)}.") from error
    own = model.backbone.state_dict()
    head = [name for name in own if name.startswith(f"{_head_name(model)}.")]
    rest = {name: tensor for name, tensor in found.items() if not name.startswith(f"{_head_name(model)}.")}
    fill_from(model.backbone, {**rest, **{name: own[name] for name in head}}, file)


def _head_name(model: TimmEncoder) -> str:
    name = model.backbone.pretrained_cfg.get("classifier", "")
    if not isinstance(name, str) or not name:
        raise BadInput(f"timm does not say which layer of {model.settings.name} is its classifier.")
    return name


def _check_head(model: TimmEncoder) -> None:
    if not isinstance(model.head, nn.Linear if model.settings.width else nn.Identity):
        raise BadInput(f"the classifier of {model.settings.name} is no single linear layer, which an encoder needs.")


def _separate_rows(model: TimmEncoder, batch_norm: str, *, pretrained: bool) -> None:
    """Freeze or replace every BatchNorm, and write into the settings which."""
    name = model.settings.name
    if not batch_norms(model.backbone):
        return
    if batch_norm == "frozen" and not pretrained:
        raise BadInput(
            f"{name} starts at random, where a frozen BatchNorm has no statistics to keep: give a weights file "
            f"(timm:{name}:FILE), or batch_norm group."
        )
    if batch_norm == "group" and pretrained:
        raise BadInput(
            f"the weights of {name} were trained with BatchNorm and mean nothing under GroupNorm: "
            "give batch_norm frozen."
        )
    (freeze_batch_norms if batch_norm == "frozen" else replace_batch_norms)(model.backbone)
    model.settings = replace(model.settings, batch_norm=batch_norm)


@torch.no_grad()
def _redraw_head(model: TimmEncoder, key: bytes) -> None:
    """Draw the last layer anew: some models of timm start their classifier at zero, where every picture is alike."""
    if isinstance(model.head, nn.Linear):
        generator = torch.Generator().manual_seed(torch_seed(key, "init", "head.weight"))
        model.head.weight.normal_(0.0, model.head.in_features**-0.5, generator=generator)
        if model.head.bias is not None:
            model.head.bias.zero_()


def _check(model: TimmEncoder, image_size: int) -> None:
    """Run synthetic pictures: shapes, the last layer's place, and rows that do not depend on each other."""
    name, settings = model.settings.name, model.settings
    pixels = torch.randn(3, settings.channels, image_size, image_size, generator=torch.Generator().manual_seed(0))
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    try:
        before, features = _run(model, pixels)
    except Exception as error:  # a library raises anything on a broken file
        raise BadInput(f"{name} does not take pictures of {image_size} pixels: {reason(error)}.") from error
    wanted = model.head(features)
    if before.shape != wanted.shape or not torch.allclose(before, wanted, rtol=1e-4, atol=1e-5):
        raise BadInput(f"the classifier of {name} is not the last thing that it applies, which an encoder needs.")
    pixels[0] = 3 * pixels[0] + 1
    after, _ = _run(model, pixels)
    changed = [key for key, buffer in model.named_buffers() if not torch.equal(buffer, buffers[key])]
    if changed or not torch.allclose(before[1:], after[1:], rtol=1e-4, atol=1e-5):
        why = f" (its buffer {changed[0]} learns from the batch)" if changed else ""
        raise BadInput(f"the rows of {name} depend on each other{why}, so that no record can be clipped by itself.")


@torch.no_grad()
def _run(model: TimmEncoder, pixels: Tensor) -> tuple[Tensor, Tensor]:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        out = model.train()(pixels)
        torch.default_generator.manual_seed(0)
        return out, model.features(pixels)
