"""Qwen2-VL: its patches have no batch dimension; here every picture has one public size, and rows keep their own."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers.models.qwen2_vl.modeling_qwen2_vl import PatchEmbed, VisionAttention, apply_rotary_pos_emb_vision

from sfumato.base import BadInput
from sfumato.models.families.family import Rows, Setup
from sfumato.models.families.placeholders import Placeholders


class Qwen2Vl(Placeholders):
    """`Qwen2VLForConditionalGeneration`, with pictures of image_size x image_size pixels.

    A row holds its patches as (patches, values); the vision tower gets those of a batch one row after the other, and
    the same number from each (`hold_patches`). Positions (3, L) are part of a row: nothing is looked up across rows.
    """

    name = "Qwen2VLForConditionalGeneration"

    def __init__(self, setup: Setup) -> None:
        vision = setup.config.vision_config
        unit = vision.patch_size * vision.spatial_merge_size
        side = setup.image_size if setup.image_size is not None else 8 * unit
        if side < 2 * unit or side % unit:
            raise BadInput(f"{self.name} takes pictures whose side is a multiple of {unit} pixels, got {side}.")
        image_processor = setup.processor.image_processor
        image_processor.size = {"shortest_edge": side * side, "longest_edge": side * side}  # counts of pixels
        self.grid = side // vision.patch_size
        self.merged = self.grid // vision.spatial_merge_size
        super().__init__(setup, side=side, facts={"image_size": side})
        if self.reader.shape[0] != self.grid**2 or self.reader.num_slots != self.merged**2:
            raise BadInput(f"{self.name}: the image processor makes {self.reader.shape[0]} patches of {side} pixels.")

    def one(self, pixels: Tensor) -> Tensor:
        return pixels

    def features(self, model: Any, pixels: Tensor) -> Tensor:
        count = len(pixels)
        grid = torch.tensor([[1, self.grid, self.grid]], device=pixels.device).expand(count, -1)
        found = model.model.visual(pixels.flatten(0, 1), grid_thw=grid).pooler_output
        return found.view(count, -1, found.shape[-1])

    def extras(self, mask: Tensor, slots: Tensor, prompt: Tensor) -> Rows:
        inside = torch.arange(self.merged**2)
        line = (mask - slots).cumsum(0) - 1  # text before, the picture not counted
        start = int(line[slots.argmax()]) + 1
        line = torch.where((slots.cumsum(0) > 0) & (slots == 0), line + self.merged, line)
        positions = line.clamp(min=0)[None].repeat(3, 1)
        places = slots.nonzero()[:, 0]
        rows, columns = inside // self.merged, inside % self.merged
        positions[:, places] = torch.stack([torch.zeros_like(inside), rows, columns])[:, : len(places)] + start
        return {"position_ids": positions * mask}

    def grown(self, batch: Rows) -> Rows:
        positions = batch["position_ids"]
        following = positions.amax((1, 2))[:, None, None].expand(-1, 3, 1) + 1
        return {"position_ids": torch.cat([positions, following], 2)}

    def positions(self, batch: Rows) -> Tensor:
        return batch["position_ids"].movedim(1, 0)


class LinearPatches(nn.Module):
    """The forward pass of Qwen2-VL's patch embedding as a matrix product: its stride is its kernel.

    A convolution in three dimensions has no rule for per-example gradients; the same sum as a linear map has.
    """

    proj: Any
    embed_dim: int

    def forward(self, hidden_states: Tensor) -> Tensor:
        weight = self.proj.weight
        flat = hidden_states.reshape(-1, weight[0].numel()).to(weight.dtype)
        return nn.functional.linear(flat, weight.view(self.embed_dim, -1), self.proj.bias)


class EvenAttention(nn.Module):
    """The forward pass of Qwen2-VL's vision attention for pictures of one size, as one batch.

    transformers loops over the pictures, so that the path of the model depends on how many rows there are, and the norm
    engine cannot tell whose patches are whose.
    """

    qkv: Any
    proj: Any
    num_heads: int
    scaling: float

    def forward(self, hidden_states: Tensor, cu_seqlens: Tensor, position_embeddings: Any, **_: Any) -> Tensor:
        length, count = len(hidden_states), len(cu_seqlens) - 1
        query, key, value = self.qkv(hidden_states).reshape(length, 3, self.num_heads, -1).unbind(1)
        query, key = apply_rotary_pos_emb_vision(query, key, *position_embeddings)

        def rows(states: Tensor) -> Tensor:
            return states.reshape(count, length // count, self.num_heads, -1).transpose(1, 2)

        seen = nn.functional.scaled_dot_product_attention(rows(query), rows(key), rows(value), scale=self.scaling)
        return self.proj(seen.transpose(1, 2).reshape(length, -1))


def hold_patches(model: nn.Module) -> None:
    """Give Qwen2-VL's patch embedding and vision attention the forward passes above.

    Only the class changes, by which `forward` is found: names of tensors, and so exports, do not.
    """
    for module in model.modules():
        if type(module) is PatchEmbed:
            module.__class__ = _HeldPatchEmbed
        elif type(module) is VisionAttention:
            module.__class__ = _HeldVisionAttention


class _HeldPatchEmbed(LinearPatches, PatchEmbed):
    pass


class _HeldVisionAttention(EvenAttention, VisionAttention):
    pass
