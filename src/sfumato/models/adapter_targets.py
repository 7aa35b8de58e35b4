"""Which linear layers carry LoRA, and which models cannot: quantised weights, layers that are called functionally."""

from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from sfumato.base import BadInput
from sfumato.models.adapter_blocks import output_embeddings

ALL_LINEAR = "all-linear"

# Projections of an attention stand under a module that says so (self_attn, attention.self, SelfAttention, attn), or
# have one of these names.
_ATTENTION = ("attn", "attention")
_FEED_FORWARD = ("mlp", "ffn", "feed_forward")  # also below an attention: open_clip's cross_attn holds whole blocks
_PROJECTIONS = ("q_proj", "k_proj", "v_proj", "query", "key", "value", "qkv", "c_attn")


def targets_of(
    model: nn.Module, targets: tuple[str, ...], kept: tuple[str, ...], unreached: set[str]
) -> tuple[list[str], tuple[str, ...]]:
    """Return the full names of the linear layers that carry LoRA, and notes on those that were left out.

    Args:
        targets: ends of names, as peft reads them; `all-linear`: every linear layer but the vocabulary heads; empty:
            the projections of attention.
        kept: ends of names of modules that train whole (`modules_to_save`).
        unreached: names of parameters that no gradient reaches: a layer of theirs is left out.

    Raises:
        BadInput: no layer is meant, or one that cannot carry LoRA is asked for by name.
    """
    linear: dict[str, nn.Module] = {
        name: module for name, module in model.named_modules() if isinstance(module, (nn.Linear, Conv1D))
    }
    if not linear:
        raise BadInput(f"a {type(model).__name__} has no linear layers to put LoRA on; train is all or bias.")
    functional = _called_functionally(model)
    able = {name: module for name, module in linear.items() if name not in functional}
    chosen = _chosen(model, able, functional, targets)
    chosen = [name for name in chosen if not _ends(name, kept, within=True)]
    reached = [name for name in chosen if f"{name}.weight" not in unreached]
    notes = [f"no LoRA on {name}: no gradient reaches it" for name in chosen if name not in reached]
    if functional and not (targets and targets != (ALL_LINEAR,)):
        notes.append(f"no LoRA on {_some(sorted(functional))}: torch's attention calls it functionally")
    if chosen and not reached:
        raise BadInput(f"no gradient reaches {_some(chosen)} in a {type(model).__name__}: choose other targets.")
    if not reached:
        raise BadInput(_nothing(model, able, functional, targets))
    return reached, tuple(notes)


def _chosen(model: nn.Module, able: dict[str, nn.Module], functional: set[str], targets: tuple[str, ...]) -> list[str]:
    if targets == (ALL_LINEAR,):
        heads = {id(head) for head in output_embeddings(model)}
        return [name for name, module in able.items() if id(module) not in heads]
    if not targets:
        return [name for name in able if _is_attention(name)]
    for name, module in model.named_modules():
        if _ends(name, targets) and name in functional:
            raise BadInput(f"{name} cannot carry LoRA: torch's attention calls it functionally, past any adapter.")
        if _ends(name, targets) and name not in able:
            raise BadInput(f"{name} is a {type(module).__name__}: LoRA goes on linear layers (Linear, Conv1D) here.")
    for target in targets:
        if not any(_ends(name, (target,)) for name in able):
            raise BadInput(_nothing(model, able, functional, (target,)))
    return [name for name in able if _ends(name, targets)]


def _is_attention(name: str) -> bool:
    *path, leaf = name.lower().split(".")
    if leaf in _PROJECTIONS:
        return True
    around = [place for place, part in enumerate(path) if any(word in part for word in _ATTENTION)]
    return bool(around) and not set(_FEED_FORWARD).intersection(path[around[-1] :])


def _ends(name: str, ends: tuple[str, ...], within: bool = False) -> bool:
    """Whether a name ends as one of `ends`; with `within`, whether it or a module around it does."""
    parts = name.split(".")
    names = [".".join(parts[:count]) for count in range(1, len(parts) + 1)] if within else [name]
    return any(one == end or one.endswith(f".{end}") for one in names for end in ends)


def _called_functionally(model: nn.Module) -> set[str]:
    """Return the names of the output projections of torch's attention: it reads their weights, and never calls them."""
    return {f"{name}.out_proj".lstrip(".") for name, m in model.named_modules() if isinstance(m, nn.MultiheadAttention)}


def _nothing(model: nn.Module, able: dict[str, nn.Module], functional: set[str], targets: tuple[str, ...]) -> str:
    asked = f"no linear layer is named {', '.join(targets)}" if targets else "no projection of attention can carry LoRA"
    why = f" ({_some(sorted(functional))}: torch's attention calls it functionally)" if functional else ""
    there = sorted({".".join(name.split(".")[-2:]) for name in able})
    hint = f"there is {_some(there)}; targets='{ALL_LINEAR}' takes all." if there else "train is all, heads or bias."
    return f"{asked} in a {type(model).__name__}{why}: {hint}"


def _some(names: list[str], most: int = 8) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


# ---------------------------------------------------------------- quantised weights

_QUANTISED = ("Linear8bitLt", "Linear4bit", "QuantLinear", "WQLinear", "QuantizedLinear", "FP8Linear")
_PACKAGES = ("bitsandbytes", "auto_gptq", "gptqmodel", "awq", "hqq", "quanto", "aqlm", "eetq", "torchao")


def refuse_quantised(model: nn.Module) -> None:
    """Raise for weights in less than 16 bits, which are not measured.

    Raises:
        BadInput: naming the module or the configuration, and what works instead.
    """
    for name, module in model.named_modules():
        kind = type(module)
        if kind.__name__ in _QUANTISED or kind.__module__.split(".")[0] in _PACKAGES:
            raise BadInput(f"{name or 'the model'} is a {kind.__name__}: {_INSTEAD}")
        config: Any = getattr(module, "config", None)
        if getattr(config, "quantization_config", None) is not None:
            raise BadInput(f"the configuration of {name or 'the model'} has a quantization_config: {_INSTEAD}")
    for name, param in model.named_parameters():
        if param.dtype not in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
            raise BadInput(f"{name} is stored as {str(param.dtype).removeprefix('torch.')}: {_INSTEAD}")


_INSTEAD = (
    "weights in 8 or 4 bits are not supported, not frozen either. Load the checkpoint without quantisation and take "
    "Adapter(frozen_dtype='bfloat16'): frozen weights in 16 bits, the adapter in float32."
)
