"""Which parameters of an image encoder train: `requires_grad` is set for every one, and the lists are returned."""

import re
from typing import Any

from torch import Tensor, nn

from sfumato.base import BadInput
from sfumato.models.encoders import held_names
from sfumato.models.freeze import Training, unreached_by
from sfumato.models.modeling_sfumato_timm import TimmEncoder

_INSIDE = "backbone."  # where a `TimmEncoder` holds timm's model


def parse_train(train: str, also: str = "") -> int | None:
    """Return how many last blocks train: None for `all`, 0 for `heads`, K for `last-K`; BadInput for anything else.

    Args:
        also: what else there is, for the message.
    """
    if train == "all":
        return None
    if train == "heads":
        return 0
    if match := re.fullmatch(r"last-([1-9]\d*)", train):
        return int(match.group(1))
    raise BadInput(f"train is all, heads or last-K (such as last-2){also}, got {train!r}.")


def last_blocks(blocks: list[list[str]], last: int | None, what: str) -> set[str]:
    """Return the names in the last blocks, all for None; BadInput if there are fewer."""
    if last is not None and last > len(blocks):
        raise BadInput(f"train=last-{last}: {what} has only {len(blocks)} blocks.")
    return {name for block in blocks[0 if last is None else len(blocks) - last :] for name in block}


def choose_encoder(model: Any, train: str, pixels: Tensor) -> Training:
    """Set `requires_grad` of every parameter of an encoder.

    `all`: everything. `heads`: the last linear layer. `last-K`: the last linear layer, the last K blocks and what
    stands behind them; a block is a stage of small-conv and micro, a residual block of resnet18, and what timm calls a
    layer group of its models (a block, or the stem). Weights and biases of a frozen BatchNorm are among the frozen.

    Args:
        pixels: one synthetic picture (1, C, S, S), on which is found what no gradient reaches.

    Raises:
        BadInput: `train` is none of these, or K exceeds the blocks.
    """
    last = parse_train(train)
    chosen = {name for name, _ in model.named_parameters()} if last is None else _names_of(model, model.head)
    if last:
        chosen |= last_blocks(blocks_of(model), last, "the encoder")
    return set_training(model, chosen - held_names(model), unreached(model, pixels))


def set_training(model: nn.Module, chosen: set[str], out_of_reach: set[str]) -> Training:
    """Set every `requires_grad`: on for `chosen` that can be reached, off for the rest; return the lists."""
    groups: dict[str, list[str]] = {"trainable": [], "frozen": [], "unreached": []}
    for name, param in model.named_parameters():
        group = "unreached" if name in out_of_reach else "trainable" if name in chosen else "frozen"
        param.requires_grad_(group == "trainable")
        groups[group].append(name)
    return Training(absent=(), **{group: tuple(names) for group, names in groups.items()})


def blocks_of(model: Any) -> list[list[str]]:
    """Return the names of the parameters of each block, in order; the last one has what stands between it and the head.

    Raises:
        BadInput: a timm model that does not say what its blocks are.
    """
    head = _names_of(model, model.head)
    if isinstance(model, TimmEncoder):
        inside = {name.removeprefix(_INSIDE) for name in head if name.startswith(_INSIDE)}
        found = timm_blocks(model.backbone, inside, model.settings.name)
        return [[f"{_INSIDE}{name}" for name in block] for block in found]
    names = [name for name, _ in model.named_parameters() if name not in head]
    own = [_names_of(model, stage) for stage in model.stages]
    after = names[max(names.index(name) for name in own[-1]) + 1 :]
    blocks = [[name for name in names if name in block] for block in own]
    blocks[-1] += after
    return blocks


def timm_blocks(model: Any, head: set[str], named: str) -> list[list[str]]:
    """Return the names of the parameters of each layer group of a timm model, in order, without those of its head.

    Raises:
        BadInput: timm does not say what the blocks are.
    """
    from timm.models import group_parameters

    if not hasattr(model, "group_matcher"):
        raise BadInput(f"timm does not say what the blocks of {named} are: train is all or heads.")
    found = group_parameters(model, model.group_matcher(coarse=False))
    blocks: list[list[str]] = []
    for place in sorted(found):
        group = found[place]
        rest = [name for name in group if name not in head]
        if len(rest) == len(group) or not blocks:
            blocks.append(rest)
        else:  # what timm counts to the classifier, such as the norm before it
            blocks[-1] += rest
    return [block for block in blocks if block]


def unreached(model: nn.Module, pixels: Tensor) -> set[str]:
    """Return the names of the parameters that the embedding does not depend on."""
    return unreached_by(model, lambda m: m(pixels))


def _names_of(model: nn.Module, module: nn.Module) -> set[str]:
    wanted = {id(param) for param in module.parameters()}
    return {name for name, param in model.named_parameters() if id(param) in wanted}
