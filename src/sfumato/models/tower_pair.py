"""Two pretrained towers and a projection of each: a dual encoder of parts that never met (LiT, Zhai et al. 2022).

N rows, C channels, S pixels a side, L text tokens, F and G features of pictures and texts, d numbers of an embedding.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from sfumato.base import BadInput
from sfumato.models.captioner import evaluating
from sfumato.models.modeling_sfumato_timm import hold_batch_norms
from sfumato.models.towers import unit_norm


class TowerPair(nn.Module):
    """Pictures (N, C, S, S) and texts (N, L) to two (N, d), by an image tower, a text tower and two linear layers.

    A tower of which nothing trains stays in evaluation mode, and so does every BatchNorm, also after `train()`.

    Attributes:
        image: pictures to features (N, F).
        text: transformers' text encoder; its feature is the mean of `last_hidden_state` over the tokens.
        image_projection, text_projection: F and G to d, without bias.
    """

    def __init__(self, image: nn.Module, text: nn.Module, *, image_width: int, text_width: int, embed_dim: int) -> None:
        super().__init__()
        self.image: Any = image
        self.text: Any = text
        self.image_projection = nn.Linear(image_width, embed_dim, bias=False)
        self.text_projection = nn.Linear(text_width, embed_dim, bias=False)

    @property
    def pad_id(self) -> int:
        """The token that fills a text, as the text tower's configuration says."""
        return int(self.text.config.pad_token_id)

    def image_features(self, pixel_values: Tensor) -> Tensor:
        """Return (N, F)."""
        return self.image(pixel_values)

    def text_features(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return the mean over each text's own tokens, (N, G); zeros for a text without any."""
        tokens = self.text(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        mask = attention_mask.to(tokens.dtype).unsqueeze(-1)
        return (tokens * mask).sum(1) / mask.sum(1).clamp(min=1.0)

    def project(self, image_features: Tensor, text_features: Tensor) -> tuple[Tensor, Tensor]:
        """Return the embeddings (N, d) of features (N, F) and (N, G), not normalised."""
        return self.image_projection(image_features), self.text_projection(text_features)

    def embed_images(self, pixel_values: Tensor) -> Tensor:
        """Return (N, d), not normalised."""
        return self.image_projection(self.image_features(pixel_values))

    def embed_texts(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return (N, d), not normalised."""
        return self.text_projection(self.text_features(input_ids, attention_mask))

    def train(self, mode: bool = True) -> "TowerPair":
        """Switch the mode of all but frozen towers and BatchNorm."""
        super().train(mode)
        for tower in (self.image, self.text):
            if is_frozen(tower):
                tower.eval()
        hold_batch_norms(self)
        return self


@dataclass(frozen=True)
class HeadTowers:
    """The embedder of a `TowerPair` whose image tower is frozen, on features that were computed once.

    Its batches are {"image_features": (N, F), "text_features": (N, G)}, as `frozen_features` returns them; where
    the text tower trains (LoRA on it), {"image_features": (N, F), "input_ids": (N, L)}. The loss and every gradient are
    those of `Towers(kind="pair")` on the same rows without augmentation.
    """

    def __call__(self, model: nn.Module, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return u of the pictures and v of the texts, (N, d) each, rows of unit norm."""
        pair: Any = model
        texts = batch.get("text_features")
        if texts is None:
            ids = batch["input_ids"]
            texts = pair.text_features(ids, (ids != pair.pad_id).long())
        u, v = pair.project(batch["image_features"], texts)
        return unit_norm(u), unit_norm(v)


def frozen_features(model: TowerPair, pixel_values: Tensor, input_ids: Tensor) -> tuple[Tensor, Tensor]:
    """Return the features of pictures (N, F) and of texts (N, G), without gradient, for `HeadTowers`.

    Rows are independent, so that features of all records can be computed once and in batches of any size. They are as
    private as the records.

    Args:
        pixel_values: (N, C, S, S), normalised, not augmented.
        input_ids: (N, L), filled with the text tower's padding token.

    Raises:
        BadInput: a tower trains, so that its features do not stay.
    """
    for name, tower in (("image", model.image), ("text", model.text)):
        if not is_frozen(tower):
            raise BadInput(f"the {name} tower trains, so its features change with every step: take train='heads'.")
    with evaluating(model):
        mask = (input_ids != model.pad_id).long()
        return model.image_features(pixel_values), model.text_features(input_ids, mask)


def is_frozen(module: nn.Module) -> bool:
    """Whether no parameter of the module trains."""
    return not any(param.requires_grad for param in module.parameters())


def feature_widths(image: Any, text: Any, image_size: int) -> tuple[int, int]:
    """Return F and G, F found on one black picture."""
    weight = next(image.parameters())
    with evaluating(image):
        found = image(weight.new_zeros(1, image.settings.channels, image_size, image_size))
    return found.shape[1], int(text.config.hidden_size)
