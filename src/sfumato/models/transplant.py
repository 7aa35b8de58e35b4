"""Moving weights from a checkpoint into a captioner of other vocabulary, text length or image size.

Every tensor is copied whole, or adapted by one of three stated rules, or named in an error:
rows of the token embedding and the vocabulary head follow their token; text positions keep their leading rows; image
positions are interpolated on their grid.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import VisionEncoderDecoderModel

from sfumato.base import BadInput
from sfumato.models.captioner import tower
from sfumato.models.checkpoint import Checkpoint
from sfumato.models.tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True)
class Moved:
    """What was adapted, one sentence each, and how many tokens the checkpoint did not know."""

    notes: tuple[str, ...]
    new_tokens: int


@torch.no_grad()
def transplant(model: VisionEncoderDecoderModel, source: Checkpoint, tokenizer: Tokenizer) -> Moved:
    """Fill `model` with the checkpoint's weights, in place; an encoder's checkpoint leaves the decoder as it is.

    Raises:
        BadInput: naming the tensor whose shape does not fit, or that the checkpoint lacks.
    """
    target: nn.Module = model if source.kind == "whole" else tower(model, "encoder")
    notes: list[str] = []
    rows = _shared_rows(source, tokenizer) if source.kind == "whole" else None
    vocabulary = _vocabulary_tensors(model) if source.kind == "whole" else set()
    for name, tensor in target.state_dict().items():
        old = source.weights.get(name)
        if old is None:
            raise BadInput(f"the checkpoint {source.folder} has no tensor {name}.")
        if name in vocabulary and rows is not None:
            _copy_rows(tensor, old, rows, name, source)
        elif old.shape == tensor.shape:
            tensor.copy_(old)
        else:
            notes.append(_adapt(name, tensor, old, source))
    if rows is None:
        return Moved(notes=tuple(notes), new_tokens=0)
    fresh = tokenizer.vocab_size - len(rows)
    notes.append(f"vocabulary changed: {len(rows)} tokens keep their rows, {fresh} start anew")
    return Moved(notes=tuple(notes), new_tokens=fresh)


def _shared_rows(source: Checkpoint, tokenizer: Tokenizer) -> dict[int, int] | None:
    """Return new id -> old id of the tokens that both vocabularies know; None where they are equal."""
    if source.tokenizer is None:
        if source.config.decoder.vocab_size == tokenizer.vocab_size:
            return None
        raise BadInput(
            f"{source.folder} has no tokenizer (tokenizer.json is missing): which of its "
            f"{source.config.decoder.vocab_size} rows belong to the {tokenizer.vocab_size} tokens is unknown."
        )
    if tokenizer.same_ids(source.tokenizer) and source.config.decoder.vocab_size == tokenizer.vocab_size:
        return None
    old, new = source.tokenizer.vocabulary, tokenizer.vocabulary
    shared = {index: old[token] for token, index in new.items() if token in old}
    # Start, end, padding and unknown tokens keep their role even where the two tokenizers spell them differently.
    for role in ("bos_id", "eos_id", "pad_id"):
        shared[getattr(tokenizer, role)] = getattr(source.tokenizer, role)
    return shared


def _vocabulary_tensors(model: VisionEncoderDecoderModel) -> set[str]:
    """Return the names of the tensors that have one row per token (by identity: widths may equal the vocabulary)."""
    head = tower(model, "decoder").get_output_embeddings()
    owned = [tower(model, "decoder").get_input_embeddings().weight, head.weight, getattr(head, "bias", None)]
    wanted = {tensor.data_ptr() for tensor in owned if tensor is not None}
    return {name for name, tensor in model.state_dict().items() if tensor.data_ptr() in wanted}


def _copy_rows(tensor: Tensor, old: Tensor, rows: Mapping[int, int], name: str, source: Checkpoint) -> None:
    if old.shape[1:] != tensor.shape[1:]:
        raise misfit(name, tensor, old, source)
    new_ids, old_ids = torch.tensor(list(rows)), torch.tensor(list(rows.values()))
    tensor[new_ids] = old[old_ids]


def _adapt(name: str, tensor: Tensor, old: Tensor, source: Checkpoint) -> str:
    if "position" not in name or old.shape[-1] != tensor.shape[-1]:
        raise misfit(name, tensor, old, source)
    if name.startswith("decoder."):
        length = min(len(old), len(tensor))
        tensor[:length] = old[:length]
        return f"{name}: {length} of {len(tensor)} text positions kept"
    tensor.copy_(interpolate_positions(name, tensor, old, source))
    return f"{name}: image positions interpolated from {tuple(old.shape)} to {tuple(tensor.shape)}"


def interpolate_positions(name: str, tensor: Tensor, old: Tensor, source: Checkpoint) -> Tensor:
    """Resize a grid of image positions, (1, P + G^2, D) or (P + G^2, D); the P leading tokens are kept."""
    config = source.encoder_config
    size, patch = getattr(config, "image_size", None), getattr(config, "patch_size", None)
    if not isinstance(size, int) or not isinstance(patch, int):
        raise misfit(name, tensor, old, source)
    grid = size // patch
    leading = old.shape[-2] - grid * grid
    new_grid = math.isqrt(max(tensor.shape[-2] - leading, 0))
    if leading < 0 or new_grid * new_grid != tensor.shape[-2] - leading:
        raise misfit(name, tensor, old, source)
    flat = old.reshape(old.shape[-2:])
    picture = flat[leading:].T.reshape(1, -1, grid, grid)
    resized = nn.functional.interpolate(picture, size=(new_grid, new_grid), mode="bicubic", align_corners=False)
    return torch.cat([flat[:leading], resized.reshape(flat.shape[1], -1).T]).reshape(tensor.shape)


def misfit(name: str, tensor: Tensor, old: Tensor, source: Checkpoint) -> BadInput:
    """Return the error that names a tensor whose shape does not fit, and the channels where it is the first layer's."""
    first = ("embeddings.", "encoder.embeddings.", "stages.0", "encoder.stages.0", "vision_model.")
    picture = old.ndim == 4 and name.startswith(first)
    hint = f" Give {old.shape[1]} channels." if picture and old.shape[1] != tensor.shape[1] else ""
    return BadInput(
        f"tensor {name} of {source.folder} has shape {tuple(old.shape)}, "
        f"the model asked for takes {tuple(tensor.shape)}.{hint}"
    )
