"""What trains: every parameter's `requires_grad` is set explicitly, and both lists are returned."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import VisionEncoderDecoderModel

from sfumato.base import BadInput
from sfumato.models.captioner import absent, tower


@dataclass(frozen=True, kw_only=True)
class Training:
    """Names of the parameters that train, that are frozen by choice, and that no gradient can reach.

    Attributes:
        trainable: the optimizer's parameters.
        frozen: left as they are because of `train`.
        absent: biases that the architecture does not have, held at zero.
        unreached: of a foreign checkpoint, such as a pooler; the captioner's loss does not depend on them.
    """

    trainable: tuple[str, ...]
    frozen: tuple[str, ...]
    absent: tuple[str, ...]
    unreached: tuple[str, ...]


def choose(
    model: VisionEncoderDecoderModel, train: str, *, image_size: int, decoder_is_new: bool, words_are_new: bool
) -> Training:
    """Set `requires_grad` of every parameter.

    `all`: everything. `heads`: what stands after the towers' last blocks (the decoder's last norm, the vocabulary head,
    the projection between the towers); the whole decoder where the checkpoint brought an encoder only; the token
    embedding where tokens are new. `last-K`: the heads, the last K blocks of each tower (all of the decoder's where it
    has fewer), and the encoder's last norm.

    Raises:
        BadInput: `train` is none of these, or K exceeds the blocks of the encoder.
    """
    chosen = _chosen(model, train, decoder_is_new=decoder_is_new)
    if words_are_new:
        chosen |= _names_of(model, tower(model, "decoder").get_input_embeddings())
    void, out_of_reach = set(absent(model)), unreached(model, image_size)
    groups: dict[str, list[str]] = {"trainable": [], "frozen": [], "absent": [], "unreached": []}
    for name, param in model.named_parameters():
        group = (
            "absent"
            if name in void
            else "unreached"
            if name in out_of_reach
            else "trainable"
            if name in chosen
            else "frozen"
        )
        param.requires_grad_(group == "trainable")
        groups[group].append(name)
    return Training(**{group: tuple(names) for group, names in groups.items()})


def unreached(model: VisionEncoderDecoderModel, image_size: int) -> set[str]:
    """Return the names of the parameters that the logits do not depend on, found on one synthetic picture."""
    weight = next(model.parameters())
    pixels = weight.new_zeros(1, tower(model, "encoder").config.num_channels, image_size, image_size)
    start = torch.full((1, 1), model.config.decoder_start_token_id, device=weight.device)
    return unreached_by(model, lambda m: m(pixel_values=pixels, decoder_input_ids=start, use_cache=False).logits)


def unreached_by(model: nn.Module, reach: Callable[[nn.Module], Tensor]) -> set[str]:
    """Return the names of the parameters that `reach(model)`, a tensor made of synthetic inputs, does not depend on.

    The graph of the forward pass is read, no gradient is made: those of all frozen weights would need as much memory as
    the weights themselves.

    Raises:
        BadInput: a part of the model is checkpointed by re-entrant autograd, which hides its parameters.
    """
    params = {name: param for name, param in model.named_parameters() if param.is_floating_point()}
    before = {name: param.requires_grad for name, param in params.items()}
    try:
        for param in params.values():
            param.requires_grad_(True)
        with torch.random.fork_rng(devices=[]), torch.enable_grad():  # dropout may draw
            reached = _leaves(reach(model))
    finally:
        for name, param in params.items():
            param.requires_grad_(before[name])
    return {name for name, param in params.items() if id(param) not in reached}


def _leaves(tensor: Tensor) -> set[int]:
    """Return the ids of the leaves of a tensor's graph."""
    nodes: list[Any] = [] if tensor.grad_fn is None else [tensor.grad_fn]
    seen, leaves = set(nodes), {id(tensor)}
    while nodes:
        node = nodes.pop()
        if type(node).__name__ == "AccumulateGrad":
            leaves.add(id(node.variable))
        if type(node).__name__ == "CheckpointFunctionBackward":
            raise BadInput("gradient checkpointing hides what trains: enable it with use_reentrant=False.")
        behind = {edge for edge, _ in node.next_functions if edge is not None} - seen
        seen |= behind
        nodes.extend(behind)
    return leaves


def _chosen(model: VisionEncoderDecoderModel, train: str, *, decoder_is_new: bool) -> set[str]:
    if train == "all":
        return {name for name, _ in model.named_parameters()}
    if train == "heads":
        last = 0
    elif match := re.fullmatch(r"last-([1-9]\d*)", train):
        last = int(match.group(1))
    else:
        raise BadInput(f"train is all, heads or last-K (such as last-2), got {train!r}.")
    heads = _after(model, "decoder", last) if not decoder_is_new else _under(model, "decoder")
    heads |= _under(model, "enc_to_dec_proj") | _names_of(model, tower(model, "decoder").get_output_embeddings())
    return heads | (_after(model, "encoder", last) if last else set())


def _after(model: nn.Module, tower: str, last: int) -> set[str]:
    """Return the names, in one tower, of the last blocks and of all that was registered after them."""
    blocks = blocks_of(model, tower)
    if last > len(blocks) and tower == "encoder":
        raise BadInput(f"train=last-{last}: the encoder has only {len(blocks)} blocks.")
    names = [name for name, _ in model.named_parameters() if name.startswith(f"{tower}.")]
    inside = {name for block in blocks[max(len(blocks) - last, 0) :] for name in names if name.startswith(f"{block}.")}
    final = max(index for index, name in enumerate(names) if name.startswith(f"{blocks[-1]}."))
    return inside | set(names[final + 1 :])


def blocks_of(model: nn.Module, tower: str) -> list[str]:
    """Return the names of a tower's blocks in order: the entries of its innermost module lists."""
    lists = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and name.startswith(f"{tower}.")
    }
    inner = [name for name in lists if not any(other.startswith(f"{name}.") for other in lists)]
    return [f"{name}.{index}" for name in inner for index in range(len(lists[name]))]


def _under(model: nn.Module, prefix: str) -> set[str]:
    return {name for name, _ in model.named_parameters() if name.startswith(f"{prefix}.")}


def _names_of(model: nn.Module, module: nn.Module) -> set[str]:
    wanted = {id(param) for param in module.parameters()}
    return {name for name, param in model.named_parameters() if id(param) in wanted}
