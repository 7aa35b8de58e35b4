"""Decoded pictures as the processors take them, and picture features at their place among word embeddings."""

import numpy as np
import torch
from torch import Tensor

from sfumato.base import UndecodableRow


def as_rgb(picture: np.ndarray) -> Tensor:
    """Return a decoded (H, W, C) uint8 picture as (3, H, W) uint8; one channel is repeated, a fourth is left out.

    Raises:
        UndecodableRow: another shape or type.
    """
    if picture.ndim != 3 or picture.dtype != np.uint8 or picture.shape[2] not in (1, 3, 4) or 0 in picture.shape:
        raise UndecodableRow("a picture is no (height, width, channels) array of bytes.")
    pixels = torch.from_numpy(np.ascontiguousarray(picture)).movedim(2, 0)
    return pixels.expand(3, -1, -1).contiguous() if len(pixels) == 1 else pixels[:3].contiguous()


def squared(pixels: Tensor, side: int) -> Tensor:
    """Return (3, H, W) uint8 resized to (3, side, side): a public size, whatever the picture's own shape is."""
    wide = pixels[None].float()
    resized = torch.nn.functional.interpolate(wide, (side, side), mode="bilinear", antialias=True, align_corners=False)
    return resized[0].round().clamp(0, 255).to(torch.uint8)


def place(words: Tensor, features: Tensor, slots: Tensor) -> Tensor:
    """Return word embeddings (N, L, D) with row i's features (N, T, D) in order where `slots` (N, L) is not zero.

    Row by row, unlike transformers' `masked_scatter`, which fills the batch's placeholders in one sequence: there a row
    with one placeholder too many would take the next row's picture.
    """
    slots = slots.bool()
    index = (slots.long().cumsum(1) - 1).clamp(0, features.shape[1] - 1)
    chosen = index[..., None] == torch.arange(features.shape[1], device=index.device)  # a product stays in its row
    spread = chosen.to(features.dtype) @ features
    return torch.where(slots[..., None], spread.to(words.dtype), words)
