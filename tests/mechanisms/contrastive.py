"""Small models with two embeddings, and the definitions that the group and pair mechanisms are held against."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
import transformers
from torch import Tensor, nn

from sfumato.losses import Contrast
from sfumato.losses.contrast import rows
from sfumato.mechanisms import Clipped, Computation, MeasureOnce, MicroBatch, Ranks, clip_batch, clip_factor
from sfumato.mechanisms.clip import MARGIN
from sfumato.plan import Group, InfoNCE, Pair

DIM = 4


class ConvNet(nn.Module):
    """The small network of the paper in smaller still: strided convolutions, mean pool, linear."""

    def __init__(self, channels: int = 1) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(channels, 4, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(4, 6, 3, stride=2, padding=1),
            nn.ReLU(),
        )
        self.head = nn.Linear(6, DIM)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layers(x).mean((2, 3)))


class Words(nn.Module):
    """A table, a norm and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(12, 5)
        self.norm = nn.LayerNorm(5)
        self.head = nn.Linear(5, DIM)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.norm(self.table(ids)).tanh().mean(1))


class Vit(nn.Module):
    """A transformers ViT with a linear head on the mean of its patches."""

    def __init__(self) -> None:
        super().__init__()
        config = transformers.ViTConfig(
            hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=12, image_size=8, patch_size=4,
            num_channels=1, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
        )  # fmt: skip
        self.vit = transformers.ViTModel(config, add_pooling_layer=False)
        self.head = nn.Linear(8, DIM)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.vit(x).last_hidden_state[:, 1:].mean(1))


class TwoTowers(nn.Module):
    def __init__(self, image: nn.Module, text: nn.Module) -> None:
        super().__init__()
        self.image, self.text = image, text
        self.log_scale = nn.Parameter(torch.tensor(0.5))


def of_towers(model: Any, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    return F.normalize(model.image(batch["x"]), dim=1), F.normalize(model.text(batch["ids"]), dim=1)


def of_views(model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    return F.normalize(model(batch["x"]), dim=1), F.normalize(model(batch["y"]), dim=1)


Embed = Callable[[Any, Any], tuple[Tensor, Tensor]]
KINDS = ("conv and words", "vit and words", "conv, two views", "vit, two views")


def build(kind: str, dtype: torch.dtype = torch.float64) -> tuple[nn.Module, Embed]:
    torch.manual_seed(0)
    image = Vit() if kind.startswith("vit") else ConvNet()
    model = image if kind.endswith("views") else TwoTowers(image, Words())
    if isinstance(model, TwoTowers):
        model.log_scale.requires_grad_(False)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        if kind.startswith("vit"):  # at its small initial weights all pictures are embedded alike
            image.vit.embeddings.patch_embeddings.projection.weight.mul_(10.0)
    return model.to(dtype), of_views if kind.endswith("views") else of_towers


def batch_of(count: int, dtype: torch.dtype = torch.float64, seed: int = 1) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "x": torch.randn(count, 1, 8, 8, generator=generator, dtype=torch.float64).to(dtype),
        "y": torch.randn(count, 1, 8, 8, generator=generator, dtype=torch.float64).to(dtype),
        "ids": torch.randint(0, 12, (count, 3), generator=generator),
    }


def cut(batch: dict[str, Tensor], size: int, groups: Tensor | None = None, in_parts: bool = False) -> list[MicroBatch]:
    """Micro-batches of `size` rows with the last one filled up; rows sorted by group."""
    count = len(batch["x"])
    found = []
    for start in range(0, count, size):
        index = torch.arange(start, start + size)
        valid = index < count
        index = torch.where(valid, index, start)
        named = None if groups is None else torch.where(valid, groups[index], -1)
        found.append(
            MicroBatch(
                batch={name: value[index] for name, value in batch.items()}, valid=valid, groups=named, records=named,
                in_parts=in_parts,
            )
        )  # fmt: skip
        if groups is not None:
            found[-1] = replace(found[-1], records=torch.where(valid, index, -1))
    return found


@dataclass
class Result:
    sums: Tensor
    clipped: Clipped
    tally: Any


def clip_with(
    model: nn.Module,
    embed: Embed,
    unit: Group | Pair,
    micro_batches: list[MicroBatch],
    loss: Any = None,
    computing: dict[str, Any] | None = None,
    **options: Any,
) -> Result:
    contrast = Contrast(embed=embed, loss=loss or getattr(unit, "loss", InfoNCE(temperature=0.3)), **options)
    computation = Computation(model=model, loss_fn=contrast, **(computing or {}))
    clipped, tally = clip_batch(
        computation,
        micro_batches,
        unit,
        clip_factor(unit),
        measure=MeasureOnce(computation),
        reduce=lambda flat: None,
        reseed=lambda chunk: torch.manual_seed(chunk),
        ranks=Ranks(),
        batch_size=8.0,
    )
    return Result(flat(clipped.sums), clipped, tally)


def flat(tensors: Any) -> Tensor:
    return torch.cat([tensors[name].double().flatten() for name in sorted(tensors)])


def trained(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def gradient(model: nn.Module, value: Tensor) -> Tensor:
    parameters = trained(model)
    grads = torch.autograd.grad(value, list(parameters.values()), retain_graph=True, allow_unused=True)
    return flat(
        {n: torch.zeros_like(p) if g is None else g for (n, p), g in zip(parameters.items(), grads, strict=True)}
    )


def literal_pairs(model: nn.Module, embed: Embed, unit: Pair, batch: dict[str, Tensor]) -> Tensor:
    """The published recipe: the gradient of every Z_ij by autograd, clipped, weighted, summed."""
    u, v = embed(model, batch)
    z = u @ v.mT
    leaf = z.detach().requires_grad_()
    everyone = torch.ones_like(z, dtype=torch.bool)
    (weights,) = torch.autograd.grad(rows(unit.loss, leaf, everyone).sum(), leaf)
    total = 0.0
    for i in range(len(z)):
        for j in range(len(z)):
            pair = gradient(model, z[i, j])
            total = total + weights[i, j].double() * min(1.0, unit.clip_norm * (1 - MARGIN) / float(pair.norm())) * pair
    assert isinstance(total, Tensor)
    return total


def literal_groups(
    model: nn.Module, embed: Embed, loss: Any, clip_norm: float, batch: dict[str, Tensor], groups: Tensor
) -> Tensor:
    """A loop over groups: the gradient of the mean loss of each, clipped, summed."""
    total = 0.0
    for group in groups.unique():
        own = {name: value[groups == group] for name, value in batch.items()}
        u, v = embed(model, own)
        z = u @ v.mT
        found = gradient(model, rows(loss, z, torch.ones_like(z, dtype=torch.bool)).mean())
        total = total + min(1.0, clip_norm * (1 - MARGIN) / max(float(found.norm()), 1e-30)) * found
    assert isinstance(total, Tensor)
    return total
