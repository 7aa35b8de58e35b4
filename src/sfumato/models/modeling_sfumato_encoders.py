"""Two small image encoders without BatchNorm, in one file that needs torch and safetensors alone.

An export copies this file beside the weights, so that it loads without sfumato:

    import sys; sys.path.insert(0, "runs/x/export")
    import modeling_sfumato_encoders
    model = modeling_sfumato_encoders.load("runs/x/export")
    embeddings, features = model(pixels), model.features(pixels)

N pictures, C channels, S pixels a side, F features before the last linear layer, d numbers of an embedding. Embeddings
are not normalised. Every row is a function of its own picture: what crosses rows (BatchNorm) is not here.
"""

import itertools
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class SmallConvSettings:
    """What a `SmallConv` is made of; `width` 0 leaves the last linear layer out."""

    channels: int = 3
    width: int = 8


@dataclass(frozen=True, kw_only=True)
class ResNet18Settings:
    """What a `ResNet18Plain` is made of; `norm` is `none` or `group`, `base` the number of maps of the first stage."""

    channels: int = 3
    width: int = 8
    norm: str = "none"
    base: int = 64


class SmallConv(nn.Module):
    """Pixels (N, C, S, S) to (N, d): 8, 16 and 32 maps of 3 x 3 with stride 2 and ReLU, global mean, linear.

    6,296 parameters with 3 channels and d = 8. Source: experiments of Logit-DP (arXiv 2310.03104).
    """

    def __init__(self, channels: int = 3, width: int = 8) -> None:
        super().__init__()
        self.settings = SmallConvSettings(channels=channels, width=width)
        maps = (channels, 8, 16, 32)
        self.stages = nn.ModuleList(
            nn.Conv2d(before, after, 3, stride=2, padding=1) for before, after in itertools.pairwise(maps)
        )
        self.head = _head(maps[-1], width)

    def features(self, pixels: Tensor) -> Tensor:
        """Return the global mean of the last maps, (N, 32)."""
        x = pixels
        for stage in self.stages:
            x = F.relu(stage(x))
        return x.mean((2, 3))

    def forward(self, pixels: Tensor) -> Tensor:
        return self.head(self.features(pixels))


class Block(nn.Module):
    """relu(shortcut(x) + branch(x)), the branch two convolutions of 3 x 3; the shortcut 1 x 1 where shapes change."""

    def __init__(self, before: int, after: int, stride: int, norm: str) -> None:
        super().__init__()
        changes = stride != 1 or before != after
        bias = norm == "none"
        self.first = nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=bias)
        self.first_norm = _norm(norm, after)
        self.last = nn.Conv2d(after, after, 3, padding=1, bias=bias)
        self.last_norm = _norm(norm, after)
        self.shortcut = nn.Conv2d(before, after, 1, stride=stride, bias=bias) if changes else nn.Identity()
        self.shortcut_norm = _norm(norm, after) if changes else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        branch = self.last_norm(self.last(F.relu(self.first_norm(self.first(x)))))
        return F.relu(self.shortcut_norm(self.shortcut(x)) + branch)


class ResNet18Plain(nn.Module):
    """Pixels (N, C, S, S) to (N, d): ResNet18 for small pictures (3 x 3 stem, no max pool) without BatchNorm.

    `norm="none"` has convolutions with biases alone; `norm="group"` a GroupNorm of at most 32 groups behind each.
    `settle` gives the initial weights with which it trains although nothing is normalised.
    """

    def __init__(self, channels: int = 3, width: int = 8, norm: str = "none", base: int = 64) -> None:
        super().__init__()
        self.settings = ResNet18Settings(channels=channels, width=width, norm=norm, base=base)
        self.stem = nn.Conv2d(channels, base, 3, padding=1, bias=norm == "none")
        self.stem_norm = _norm(norm, base)
        blocks, before = [], base
        for stage in range(4):
            after = base << stage
            for place in range(2):
                blocks.append(Block(before, after, 2 if stage and not place else 1, norm))
                before = after
        self.stages = nn.ModuleList(blocks)
        self.head = _head(before, width)

    def features(self, pixels: Tensor) -> Tensor:
        """Return the global mean of the last maps, (N, 8 * base)."""
        x = F.relu(self.stem_norm(self.stem(pixels)))
        for block in self.stages:
            x = block(x)
        return x.mean((2, 3))

    def forward(self, pixels: Tensor) -> Tensor:
        return self.head(self.features(pixels))


@torch.no_grad()
def settle(model: SmallConv | ResNet18Plain) -> None:
    """Rescale convolutions drawn with variance 1 / fan-in, in place, for ReLU and for depth.

    Convolutions get variance 2 / fan-in (He et al. 2015), which keeps the scale through a ReLU. In a residual branch
    the last layer starts at zero (the convolution, or the GroupNorm's weight), so that every block starts as its
    shortcut; without norm the branch's first convolution is also multiplied by blocks ** -0.5, after which one update
    moves the output by as much as in a net of one block (Fixup, Zhang et al. 2019, with biases of convolutions in the
    place of its scalar ones).
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.weight.mul_(2**0.5)
    for block in model.stages:
        if isinstance(block, Block) and isinstance(block.last_norm, nn.GroupNorm):
            block.last_norm.weight.zero_()
        elif isinstance(block, Block):
            block.first.weight.mul_(len(model.stages) ** -0.5)
            block.last.weight.zero_()


def _norm(norm: str, maps: int) -> nn.Module:
    if norm == "none":
        return nn.Identity()
    if norm != "group":
        raise ValueError(f"norm is none or group, got {norm!r}.")
    return nn.GroupNorm(min(32, maps // 2), maps)


def _head(features: int, width: int) -> nn.Module:
    return nn.Linear(features, width) if width else nn.Identity()


CLASSES: dict[str, Any] = {"small-conv": SmallConv, "resnet18": ResNet18Plain, "resnet18-group": ResNet18Plain}


def make(kind: str, settings: Any) -> SmallConv | ResNet18Plain:
    """Return the encoder of a kind from its settings, a dataclass or its fields; torch's own initial weights."""
    fields = settings if isinstance(settings, dict) else asdict(settings)
    return CLASSES[kind](**fields)


def load(folder: str | Path) -> SmallConv | ResNet18Plain:
    """Return the exported encoder of `folder`, in evaluation mode."""
    from safetensors.torch import load_file

    config = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))
    model = make(config["kind"], config["settings"])
    model.load_state_dict(load_file(str(Path(folder) / "model.safetensors")))
    return model.eval()
