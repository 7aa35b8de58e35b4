"""How the two towers of a dual encoder are called: pictures and texts to vectors of unit norm.

N rows, C channels, S pixels a side, L text tokens, d numbers of an embedding.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sfumato.base import BadInput

KINDS = ("transformers", "open_clip", "pair")
UNMASKED = ("clip_text_model", "siglip_text_model")  # see `Towers.texts`


@dataclass(frozen=True)
class Towers:
    """The embedder of a dual encoder, for `losses.Contrast(embed=...)` and for evaluation.

    Attributes:
        kind: how the towers of the model are called: `transformers` (CLIPModel, SiglipModel,
            VisionTextDualEncoderModel), `open_clip`, or `pair` (`embed_images` and `embed_texts`).
        pad_id: token that fills a text up to L; a text tower that takes an attention mask does not see it.
        architecture: of `open_clip`, its configuration as JSON: its models do not carry it, and an export needs it.
    """

    kind: str
    pad_id: int
    architecture: str | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise BadInput(f"towers are of kind {', '.join(KINDS)}, got {self.kind!r}.")

    def __call__(self, model: nn.Module, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return u and v, (N, d) each, of `pixel_values` (N, C, S, S) and `input_ids` (N, L) int64."""
        return self.images(model, batch["pixel_values"]), self.texts(model, batch["input_ids"])

    def images(self, model: nn.Module, pixel_values: Tensor) -> Tensor:
        """Return (N, d) rows of unit norm, in float32 at least."""
        towers: Any = model
        if self.kind == "open_clip":
            return unit_norm(towers.encode_image(pixel_values))
        if self.kind == "pair":
            return unit_norm(towers.embed_images(pixel_values))
        return unit_norm(towers.get_image_features(pixel_values=pixel_values).pooler_output)

    def features(self, model: nn.Module, pixel_values: Tensor) -> Tensor:
        """Return (N, D), what probes and neighbours are given: the image tower's own output, before its projection.

        Models of open_clip and pairs give the embedding: the former have no common name for the other, and the towers
        of the latter may be frozen, so that the projection is what learned.
        """
        if self.kind != "transformers":
            return self.images(model, pixel_values)
        towers: Any = model
        return towers.vision_model(pixel_values=pixel_values).pooler_output

    def texts(self, model: nn.Module, input_ids: Tensor) -> Tensor:
        """Return (N, d) rows of unit norm, in float32 at least.

        CLIP's text tower gets no attention mask: it is causal and read at the first end token, so what follows cannot
        be seen, and padding may be the end token itself. SigLIP's was trained without a mask.
        """
        towers: Any = model
        if self.kind == "open_clip":
            return unit_norm(towers.encode_text(input_ids))
        mask = (input_ids != self.pad_id).long()
        if self.kind == "pair":
            return unit_norm(towers.embed_texts(input_ids, mask))
        masks = {} if towers.config.text_config.model_type in UNMASKED else {"attention_mask": mask}
        return unit_norm(towers.get_text_features(input_ids=input_ids, **masks).pooler_output)


def text_positions(model: nn.Module) -> int | None:
    """Return how many tokens the text tower of a dual encoder reads at most, or None where nothing says so."""
    towers: Any = model
    if hasattr(towers, "context_length"):  # open_clip
        return int(towers.context_length)
    config = towers.text.config if hasattr(towers, "text_projection") and hasattr(towers, "image") else towers.config
    found = getattr(getattr(config, "text_config", config), "max_position_embeddings", None)
    return None if found is None else int(found)


def unit_norm(x: Tensor) -> Tensor:
    """Return x / max(||x||, 1e-12) row by row, in float32 or float64: half precision would round the norm itself."""
    return nn.functional.normalize(x.to(torch.promote_types(x.dtype, torch.float32)), dim=-1, eps=1e-12)
