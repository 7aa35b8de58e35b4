"""How one image encoder embeds two views of a picture: the embedder of self-supervision (SimCLR, Logit-DP).

N rows, C channels, S pixels a side, F features before the last linear layer, d numbers of an embedding.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sfumato.models.captioner import evaluating
from sfumato.models.towers import unit_norm


@dataclass(frozen=True)
class TwoViewTowers:
    """The embedder of a single encoder, for `losses.Contrast(embed=...)` and for evaluation.

    Its batches are those of `data.TwoViews`: `pixel_values` and `other_view`, (N, C, S, S) each.
    """

    def __call__(self, model: nn.Module, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return u of the first and v of the other view, (N, d) each, rows of unit norm."""
        return self.images(model, batch["pixel_values"]), self.images(model, batch["other_view"])

    def images(self, model: nn.Module, pixel_values: Tensor) -> Tensor:
        """Return (N, d) rows of unit norm, in float32 at least."""
        return unit_norm(model(pixel_values))

    def features(self, model: nn.Module, pixel_values: Tensor) -> Tensor:
        """Return what the last linear layer is applied to, (N, F) in float32 at least, without gradient.

        Probes and nearest neighbours are taken here: the last layer forgets what the views do not share (SimCLR,
        Chen et al. 2020, section 4.2).
        """
        encoder: Any = model
        with evaluating(model):
            found = encoder.features(pixel_values)
        return found.to(torch.promote_types(found.dtype, torch.float32))
