"""Blocks and heads of any module tree: which parameters stand in the last blocks of its towers, and which after them.

A tower is a list of residual blocks (an `nn.ModuleList`), such as the layers of a ViT, a BERT or a Llama. A model may
have several, at any depth; a parameter belongs to the tower with which its name shares most.
"""

from itertools import takewhile
from typing import Any

from torch import nn

from sfumato.base import BadInput


def towers_of(model: nn.Module) -> dict[str, nn.ModuleList]:
    """Return the innermost lists of blocks by name; a block holds a normalisation layer.

    Of lists in lists the inner one counts (Swin's stages hold blocks), unless its entries are the unlike parts of one
    block (attention and feed-forward of T5) or hold no normalisation (experts).
    """
    found = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) and all(_has_norm(block) for block in module)
    }
    outer = [name for name in found if any(name.startswith(f"{other}.") for other in found)]
    parts = {name for name in outer if len({type(block) for block in found[name]}) > 1}
    kept = [name for name in found if name not in parts]
    return {name: found[name] for name in kept if not any(other.startswith(f"{name}.") for other in kept)}


def heads_of(model: nn.Module) -> set[str]:
    """Return the names of what stands after the last blocks: final norms, projections between towers, output heads.

    Raises:
        BadInput: the model has no list of blocks, or nothing stands after it.
    """
    heads = _after(model, _need_towers(model, "heads")) | _output_embeddings(model)
    if not heads:
        raise BadInput(f"train=heads leaves nothing to train: nothing stands after the blocks of {_kind(model)}.")
    return heads


def last_blocks_of(model: nn.Module, last: int) -> tuple[set[str], tuple[str, ...]]:
    """Return the names in the last blocks of each tower and after them, and notes on towers that have fewer.

    Raises:
        BadInput: the model has no list of blocks, or every tower has fewer than `last`.
    """
    towers = _need_towers(model, f"last-{last}")
    most = max(len(blocks) for blocks in _stages(towers).values())
    if last > most:
        raise BadInput(f"train=last-{last}: the longest tower of {_kind(model)} has only {most} blocks.")
    chosen, notes = _after(model, towers) | _output_embeddings(model), []
    for tower, blocks in _stages(towers).items():
        own = {id(param) for block in blocks[max(len(blocks) - last, 0) :] for param in block.parameters()}
        chosen |= {name for name, param in model.named_parameters() if id(param) in own}
        if last > len(blocks):
            notes.append(f"{tower} has only {len(blocks)} blocks: all of them train")
    return chosen, tuple(notes)


def biases_of(model: nn.Module) -> set[str]:
    """Return the names of all biases (BitFit, Ben Zaken et al. 2022).

    Raises:
        BadInput: there is none.
    """
    found = {name for name, _ in model.named_parameters() if name.split(".")[-1] in _BIASES}
    if not found:
        raise BadInput(f"train=bias: {_kind(model)} has no biases; take train='lora' or 'heads'.")
    return found


_PROJECTIONS = ("proj", "text_projection")
_LAST_NORMS = {"final_layer_norm", "final_norm", "post_layernorm", "ln_final", "ln_post", "ln_f"}
_BIASES = ("bias", "in_proj_bias", "q_bias", "v_bias")


def _has_norm(block: nn.Module) -> bool:
    return any("norm" in type(module).__name__.lower() for module in block.modules())


def _stages(towers: dict[str, nn.ModuleList]) -> dict[str, list[nn.Module]]:
    """Return the blocks of each tower in order; lists whose names differ in a number alone are stages of one tower."""
    found: dict[str, list[nn.Module]] = {}
    for name, blocks in towers.items():
        found.setdefault(_stem(name), []).extend(blocks)
    return found


def _need_towers(model: nn.Module, train: str) -> dict[str, nn.ModuleList]:
    towers = towers_of(model)
    if not towers:
        raise BadInput(
            f"train={train}: {_kind(model)} has no list of blocks (an nn.ModuleList of modules with a normalisation); "
            "train is all, bias or lora."
        )
    return towers


def _after(model: nn.Module, towers: dict[str, nn.ModuleList]) -> set[str]:
    """Return the names, outside of the blocks, that are registered after the last block of their tower.

    What stands between towers belongs to all that are equally near, and is after one of them. Parameters that a module
    owns directly come first whatever their place in the forward pass, and OPT makes its last norm before its blocks:
    these are told by name. Embedding tables are never after the blocks (open_clip makes them last).
    """
    names = [name for name, _ in model.named_parameters()]
    last = _last_places(names, towers)
    tables = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    chosen = set()
    for place, (name, param) in enumerate(model.named_parameters()):
        if id(param) in tables or any(name.startswith(f"{tower}.") for tower in towers):
            continue
        shared = {tower: _shared(name, tower) for tower in towers}
        near = [tower for tower in towers if shared[tower] == max(shared.values())]
        by_name = name.split(".")[-1] in _PROJECTIONS or not _LAST_NORMS.isdisjoint(name.split("."))
        if by_name or any(place > last[tower] for tower in near):
            chosen.add(name)
    return chosen


def _last_places(names: list[str], towers: dict[str, nn.ModuleList]) -> dict[str, int]:
    """Return for each tower the place of its last parameter; stages of one tower end where the last of them ends."""
    ends: dict[str, int] = {}
    for place, name in enumerate(names):
        for tower in towers:
            if name.startswith(f"{tower}."):
                ends[_stem(tower)] = place
    return {tower: ends[_stem(tower)] for tower in towers}


def _stem(tower: str) -> str:
    return ".".join("*" if part.isdigit() else part for part in tower.split("."))


def _shared(name: str, tower: str) -> int:
    pairs = zip(name.split("."), tower.split("."), strict=False)
    return len(list(takewhile(lambda pair: pair[0] == pair[1], pairs)))


def output_embeddings(model: nn.Module) -> list[nn.Module]:
    """Return the vocabulary heads that transformers' models in the tree name, each once."""
    found: dict[int, nn.Module] = {}
    for module in model.modules():
        asked: Any = getattr(module, "get_output_embeddings", None)
        head = asked() if callable(asked) else None
        if isinstance(head, nn.Module):
            found[id(head)] = head
    return list(found.values())


def _output_embeddings(model: nn.Module) -> set[str]:
    wanted = {id(param) for head in output_embeddings(model) for param in head.parameters()}
    return {name for name, param in model.named_parameters() if id(param) in wanted}


def _kind(model: nn.Module) -> str:
    return f"a {type(model).__name__}"
