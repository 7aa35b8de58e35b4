"""The table of cases over which the engine meets the oracle: small random configurations of real classes.

Each case is a function of nothing that returns (model, loss_fn, batch of four or more rows); models start from a fixed
seed, all their initially zero parameters are shaken so that every gradient is alive.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Case = tuple[nn.Module, Callable[[Any, Any], Tensor], dict[str, Tensor]]
CASES: dict[str, Callable[[], Case]] = {}
N = 5


def case(function: Callable[[], Case]) -> Callable[[], Case]:
    CASES[function.__name__] = function
    return function


def build(name: str, dtype: torch.dtype) -> Case:
    torch.manual_seed(0)
    model, loss_fn, batch = CASES[name]()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    batch = {key: value.to(dtype) if value.is_floating_point() else value for key, value in batch.items()}
    return model.to(dtype), loss_fn, batch


def pixels(size: int = 32) -> Tensor:
    return torch.randn(N, 3, size, size)


def tokens(length: int = 7, vocab: int = 20) -> Tensor:
    return torch.randint(3, vocab, (N, length))


def ragged(length: int = 7) -> Tensor:
    return (torch.arange(length) < torch.tensor([7, 5, 6, 3, 4])[:, None]).long()


def token_loss(logits: Tensor, labels: Tensor) -> Tensor:
    losses = F.cross_entropy(logits.transpose(1, 2), labels, reduction="none", ignore_index=-100)
    return losses.sum(1) / (labels != -100).sum(1).clamp(min=1)


def class_loss(model: Any, batch: dict[str, Tensor]) -> Tensor:
    out = model(batch["x"])
    return F.cross_entropy(out if isinstance(out, Tensor) else out.logits, batch["y"], reduction="none")


def classes() -> Tensor:
    return torch.arange(N) % 3


class Odd(nn.Module):
    """Convolutions of many kinds, and parameters that a module owns directly."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, stride=2, padding=1)
        self.norm = nn.GroupNorm(2, 6)
        self.grouped = nn.Conv2d(6, 6, 3, groups=3, padding="same", dilation=2)
        self.wide = nn.Conv2d(6, 6, (4, 3), padding=(1, 2), padding_mode="reflect", bias=False)
        self.token = nn.Parameter(torch.randn(6))
        self.position = nn.Parameter(torch.randn(40, 6))
        self.scale = nn.Parameter(torch.tensor(0.3))
        self.gain = nn.Parameter(torch.ones(6))
        self.projection = nn.Parameter(torch.randn(6, 3))
        self.mix = nn.Parameter(torch.randn(19, 19) / 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.stem(x)), inplace=True)
        x = self.wide(self.grouped(x)).flatten(2).transpose(1, 2)
        token = self.token.view(1, 1, -1).expand(len(x), -1, -1).to(x.dtype)
        x = torch.cat([token, x], 1)
        x = x + self.position[: x.shape[1]].to(x.dtype)
        x = self.mix @ x * self.gain
        x += self.token
        return (x.mean(1) / self.gain.abs().sum()) @ self.projection * self.scale.exp()


@case
def convolutions_and_raw_parameters() -> Case:
    return Odd(), class_loss, {"x": pixels(8), "y": classes()}


class Sequence(nn.Module):
    """1-d convolutions, RMSNorm, torch's attention in both orders, an embedding with padding, GPT-2's Conv1D."""

    def __init__(self, batch_first: bool, bias_kv: bool = False) -> None:
        super().__init__()
        self.batch_first = batch_first
        self.words = nn.Embedding(20, 8, padding_idx=4)
        self.conv = nn.Conv1d(8, 8, 3, padding=1, groups=2)
        self.narrow = nn.Conv1d(8, 8, 3, stride=2, padding="valid", bias=False)
        self.rms = nn.RMSNorm(8)
        self.norm = nn.LayerNorm((8,), bias=False)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=batch_first, add_bias_kv=bias_kv)
        self.cross = nn.MultiheadAttention(8, 2, batch_first=batch_first)
        self.head = nn.Linear(8, 3)
        self.weight = nn.Parameter(torch.randn(8, 8))
        self.bias = nn.Parameter(torch.randn(8))

    def forward(self, ids: Tensor) -> Tensor:
        x = self.conv(self.words(ids).transpose(1, 2))
        memory = self.narrow(x).transpose(1, 2)
        x = self.rms(x.transpose(1, 2))
        if not self.batch_first:
            x, memory = x.transpose(0, 1), memory.transpose(0, 1)
        x = x + self.attention(x, x, x, need_weights=False)[0]
        x = self.norm(x + self.cross(x, memory, memory)[0])
        x = torch.addmm(self.bias, x.reshape(-1, 8), self.weight).view(x.shape)
        return self.head(x.mean(1 if self.batch_first else 0))


@case
def sequence_batch_first() -> Case:
    return Sequence(True), class_loss, {"x": tokens(), "y": classes()}


@case
def sequence_batch_second() -> Case:
    return Sequence(False), class_loss, {"x": tokens(N), "y": classes()}  # as long as the batch: shapes tell nothing


@case
def attention_with_learned_key() -> Case:
    return Sequence(True, bias_kv=True), class_loss, {"x": tokens(), "y": classes()}


class Reused(nn.Module):
    """Weights tied between an embedding and a head, and a block that is called three times."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(20, 8)
        self.block = nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 8), nn.GELU())
        self.head = nn.Linear(8, 20, bias=True)
        self.head.weight = self.words.weight

    def forward(self, ids: Tensor) -> Tensor:
        x = self.words(ids)
        for _ in range(3):
            x = x + self.block(x)
        return self.head(x)


@case
def tied_and_reused() -> Case:
    return Reused(), lambda m, b: token_loss(m(b["x"]), b["x"].roll(-1, 1)), {"x": tokens()}


@case
def two_views_of_one_encoder() -> Case:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.GELU(), nn.Flatten(), nn.Linear(4 * 36, 8))
    return model, lambda m, b: (m(b["x"]) - m(b["x"].flip(-1))).square().sum(1), {"x": pixels(8)}


@case
def masked_tokens() -> Case:
    class Pooled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words = nn.Embedding(20, 8)
            self.mask_token = nn.Parameter(torch.randn(1, 1, 8))
            self.head = nn.Linear(8, 3)

        def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
            x = torch.where(mask[..., None] > 0, self.words(ids), self.mask_token)
            return self.head((x * mask[..., None]).sum(1) / mask.sum(1, keepdim=True) + x.mean(1))

    def loss_fn(model: Any, batch: dict[str, Tensor]) -> Tensor:
        return F.cross_entropy(model(batch["x"], batch["mask"]), batch["y"], reduction="none")

    return Pooled(), loss_fn, {"x": tokens(), "mask": ragged(), "y": classes()}


@case
def frozen_batchnorm() -> Case:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(144, 3))
    return model.eval(), class_loss, {"x": pixels(8), "y": classes()}


@case
def dropout_in_training() -> Case:
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 16), nn.Dropout(0.3), nn.ReLU(), nn.Linear(16, 3))
    return model.train(), class_loss, {"x": pixels(8), "y": classes()}
