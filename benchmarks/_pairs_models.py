"""The models of pairs.py: one encoder for both views, embeddings of unit norm; random weights, random pictures."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SIDE = 32


class SmallConv(nn.Module):
    """The paper's small network: 8, 16 and 32 channels, 3 x 3, stride 2; mean over positions; linear to d."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        widths = (3, 8, 16, 32)
        self.convolutions = nn.ModuleList(
            nn.Conv2d(before, after, 3, stride=2, padding=1) for before, after in pairwise(widths)
        )
        self.head = nn.Linear(widths[-1], dim)

    def forward(self, x: Tensor) -> Tensor:
        for convolution in self.convolutions:
            x = convolution(x).relu()
        return self.head(x.mean((2, 3)))


class Block(nn.Module):
    """Two convolutions beside the identity, or beside a 1 x 1 convolution where the shape changes."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(before, after, 3, stride=stride, padding=1)
        self.second = nn.Conv2d(after, after, 3, padding=1)
        self.beside = nn.Identity() if before == after else nn.Conv2d(before, after, 1, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        return (self.second(self.first(x).relu()) + self.beside(x)).relu()


class ResNet18(nn.Module):
    """ResNet18 with the 3 x 3 stem of CIFAR and without BatchNorm (which would mix rows)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 64, 3, padding=1)
        widths = (64, 64, 64, 128, 128, 256, 256, 512, 512)
        self.blocks = nn.Sequential(
            *(Block(before, after, 1 if before == after else 2) for before, after in pairwise(widths))
        )
        self.head = nn.Linear(widths[-1], dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x).relu()).mean((2, 3)))


MODELS: dict[str, Callable[[int], nn.Module]] = {"conv": SmallConv, "resnet18": ResNet18}


def make(model: str, dim: int, num_rows: int) -> tuple[nn.Module, dict[str, Tensor]]:
    """Return a model and the two views of `num_rows` records, the same in every process."""
    torch.manual_seed(0)
    made = MODELS[model](dim)
    first = torch.randn(num_rows, 3, SIDE, SIDE)
    return made, {"x": first, "y": first + 0.5 * torch.randn_like(first)}


def embed(model: Any, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Return the embeddings of both views."""
    return F.normalize(model(batch["x"]), dim=1), F.normalize(model(batch["y"]), dim=1)
