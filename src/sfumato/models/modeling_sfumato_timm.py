"""A timm model as an image encoder whose rows are independent, in one file that needs timm and safetensors alone.

An export copies this file beside the weights, so that it loads without sfumato:

    import sys; sys.path.insert(0, "runs/x/export")
    import modeling_sfumato_timm
    model = modeling_sfumato_timm.load("runs/x/export")
    embeddings, features = model(pixels), model.features(pixels)

Unless BatchNorm was replaced by GroupNorm, timm's own `create_model(name, checkpoint_path=..., **arguments)` loads the
same file to the same embeddings: timm's classifier is the last linear layer.

N pictures, C channels, S pixels a side, F features before the last linear layer, d numbers of an embedding.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


@dataclass(frozen=True, kw_only=True)
class TimmSettings:
    """What a `TimmEncoder` is made of.

    Attributes:
        name: of the model, as timm lists it.
        channels: C.
        width: d; 0 leaves the classifier out.
        image_size: S where the architecture depends on it, otherwise None.
        batch_norm: `frozen`, `group` (replaced by GroupNorm), or `none` where the model has no BatchNorm.
    """

    name: str
    channels: int = 3
    width: int = 8
    image_size: int | None = None
    batch_norm: str = "none"

    @property
    def arguments(self) -> dict[str, Any]:
        """The keywords of `timm.create_model`."""
        sized = {} if self.image_size is None else {"img_size": self.image_size}
        return {"num_classes": self.width, "in_chans": self.channels, **sized}


class TimmEncoder(nn.Module):
    """Pixels (N, C, S, S) to (N, d) by a timm model with its classifier as the last linear layer."""

    def __init__(self, settings: TimmSettings) -> None:
        super().__init__()
        import timm

        self.settings = settings
        self.backbone: Any = timm.create_model(settings.name, pretrained=False, **settings.arguments)
        if settings.batch_norm == "group":
            replace_batch_norms(self.backbone)
        elif settings.batch_norm == "frozen":
            freeze_batch_norms(self.backbone)
        hold_batch_norms(self)

    @property
    def head(self) -> nn.Module:
        """The last linear layer, or the identity."""
        return self.backbone.get_classifier()

    def features(self, pixels: Tensor) -> Tensor:
        """Return what the classifier is applied to, (N, F)."""
        return self.backbone.forward_head(self.backbone.forward_features(pixels), pre_logits=True)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.backbone(pixels)

    def train(self, mode: bool = True) -> "TimmEncoder":
        """Switch the mode of everything but BatchNorm, which stays as it was trained elsewhere."""
        super().train(mode)
        hold_batch_norms(self)
        return self


def batch_norms(model: nn.Module) -> list[_BatchNorm]:
    """Return the BatchNorm layers of `model`, synchronised and fused ones (timm's BatchNormAct2d) among them."""
    return [module for module in model.modules() if isinstance(module, _BatchNorm)]


def hold_batch_norms(model: nn.Module) -> None:
    """Put every BatchNorm into evaluation mode: fixed statistics, rows independent."""
    for module in batch_norms(model):
        module.eval()


def freeze_batch_norms(model: nn.Module) -> None:
    """Put every BatchNorm into evaluation mode and switch the gradients of its weight and bias off."""
    hold_batch_norms(model)
    for module in batch_norms(model):
        module.requires_grad_(False)


def replace_batch_norms(model: nn.Module) -> None:
    """Put a GroupNorm in the place of every BatchNorm, with its weight, bias, activation and dropout.

    The number of groups is the largest divisor of the channels that is at most 32 and leaves two channels or more each.
    """
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, _BatchNorm):
                setattr(parent, name, _as_group_norm(child))


def _as_group_norm(norm: _BatchNorm) -> nn.GroupNorm:
    from timm.layers.norm_act import GroupNormAct

    channels = norm.num_features
    groups = max(count for count in (1, *range(2, min(32, channels // 2) + 1)) if channels % count == 0)
    if hasattr(norm, "act"):
        found: Any = GroupNormAct(channels, groups, eps=norm.eps, affine=norm.affine)
        found.act, found.drop = norm.act, getattr(norm, "drop", nn.Identity())
    else:
        found = nn.GroupNorm(groups, channels, eps=norm.eps, affine=norm.affine)
    if norm.affine:
        found.load_state_dict({"weight": norm.weight.detach(), "bias": norm.bias.detach()})
    return found.train(norm.training)


def load(folder: str | Path) -> TimmEncoder:
    """Return the exported encoder of `folder`, in evaluation mode."""
    from safetensors.torch import load_file

    config = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))
    with torch.random.fork_rng(devices=[]):  # timm draws weights that are overwritten
        model = TimmEncoder(TimmSettings(**config["settings"]))
    model.backbone.load_state_dict(load_file(str(Path(folder) / "model.safetensors")))
    return model.eval()
