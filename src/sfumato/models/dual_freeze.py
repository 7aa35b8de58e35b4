"""What trains in a dual encoder: every parameter's `requires_grad` is set explicitly, and all lists are returned."""

import re
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sfumato.base import BadInput
from sfumato.models.freeze import Training, blocks_of, unreached_by
from sfumato.models.towers import Towers

SCALES = ("logit_scale", "logit_bias")


@dataclass(frozen=True, kw_only=True)
class Parts:
    """Where the parts of a dual encoder lie, as prefixes of parameter names.

    Attributes:
        image, text: the towers, which hold the lists of blocks.
        last: norms after the text tower's blocks that lie outside of it.
        heads: the projections into the common space.
    """

    image: str
    text: str
    last: tuple[str, ...] = ()
    heads: tuple[str, ...]


def parts_of(model: nn.Module, kind: str) -> Parts:
    """Return where the parts of a model of transformers or open_clip lie."""
    if kind == "open_clip":
        image = ("visual.proj", "visual.head", "visual.trunk.attn_pool")
        if hasattr(model, "text"):
            return Parts(image="visual", text="text", heads=(*image, "text.text_projection"))
        return Parts(image="visual", text="transformer", last=("ln_final",), heads=(*image, "text_projection"))
    towers: Any = model
    if towers.config.model_type == "siglip":  # its pooling heads stand in the place of projections
        return Parts(image="vision_model", text="text_model", heads=("vision_model.head", "text_model.head"))
    return Parts(image="vision_model", text="text_model", heads=("visual_projection", "text_projection"))


def choose_dual(
    model: nn.Module, embed: Towers, train: str, sample: dict[str, Tensor], *, train_temperature: bool
) -> Training:
    """Set `requires_grad` of every parameter.

    `all`: both towers and their projections. `heads`: the projections. `last-K`: the projections, the last K blocks of
    each tower (all of the text tower's where it has fewer) and what stands after them. The learned temperature trains
    only where `train_temperature` says so, SigLIP's bias never: InfoNCE has none.

    Args:
        sample: one synthetic row, `pixel_values` and `input_ids`, on which is found what no gradient reaches.

    Raises:
        BadInput: `train` is none of these, or K exceeds the blocks of the image tower.
    """
    chosen = _chosen(model, parts_of(model, embed.kind), train) - set(SCALES)
    if train_temperature:
        chosen |= {"logit_scale"}
    out_of_reach = unreached_of(model, embed, sample) - set(SCALES)
    groups: dict[str, list[str]] = {"trainable": [], "frozen": [], "absent": [], "unreached": []}
    for name, param in model.named_parameters():
        group = "unreached" if name in out_of_reach else "trainable" if name in chosen else "frozen"
        param.requires_grad_(group == "trainable")
        groups[group].append(name)
    if not groups["trainable"]:
        raise BadInput(f"train={train} leaves nothing to train: the model has no projections.")
    return Training(**{group: tuple(names) for group, names in groups.items()})


def unreached_of(model: nn.Module, embed: Towers, sample: dict[str, Tensor]) -> set[str]:
    """Return the names of the parameters that the embeddings do not depend on, found on one synthetic row."""
    return unreached_by(model, lambda m: torch.cat([out.flatten() for out in embed(m, sample)]))


def _chosen(model: nn.Module, parts: Parts, train: str) -> set[str]:
    if train == "all":
        return {name for name, _ in model.named_parameters()}
    heads = _under(model, *parts.heads)
    if train == "heads":
        return heads
    if not (match := re.fullmatch(r"last-([1-9]\d*)", train)):
        raise BadInput(f"train is all, heads or last-K (such as last-2), got {train!r}.")
    last = int(match.group(1))
    image, text = blocks_of(model, parts.image), blocks_of(model, parts.text)
    if last > len(image):
        raise BadInput(f"train={train}: the image tower has only {len(image)} blocks.")
    if not text:
        raise BadInput(f"train={train}: the text tower has no list of blocks.")
    ends = _from_block(model, parts.image, image, last) | _from_block(model, parts.text, text, last)
    return heads | ends | _under(model, *parts.last)


def _from_block(model: nn.Module, tower: str, blocks: list[str], last: int) -> set[str]:
    """Return the names, in one tower, of the last blocks and of all that was registered after them."""
    names = [name for name, _ in model.named_parameters() if name.startswith(f"{tower}.")]
    final = max(index for index, name in enumerate(names) if name.startswith(f"{blocks[-1]}."))
    return _under(model, *blocks[max(len(blocks) - last, 0) :]) | set(names[final + 1 :])


def _under(model: nn.Module, *prefixes: str) -> set[str]:
    return {name for name, _ in model.named_parameters() for prefix in prefixes if f"{name}.".startswith(f"{prefix}.")}
