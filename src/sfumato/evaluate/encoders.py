"""Contrastive models as subjects: a dual encoder, and an image encoder that learned without texts.

The model's own embedder says how it embeds; it is taken as it comes, by its functions' names.

Shapes: B pictures, K texts, L text tokens, D features, d the width of the embeddings.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from sfumato.base import BadInput
from sfumato.evaluate.embed import Encode
from sfumato.evaluate.subject import Subject
from sfumato.models import evaluating


class EmbedsImages(Protocol):
    """Embeds pictures: (B, C, S, S) -> (B, d) of unit norm.

    Where it has `features(model, pictures)` too, (B, D), probes and neighbours are given those (what stands before the
    projection head); otherwise they are given the embeddings.
    """

    def images(self, model: Any, pictures: Tensor, /) -> Tensor: ...


class EmbedsBoth(EmbedsImages, Protocol):
    """Embeds pictures and texts: `texts` maps ids (K, L) to (K, d) of unit norm."""

    def texts(self, model: Any, input_ids: Tensor, /) -> Tensor: ...


def dual_encoder(
    model: nn.Module,
    embed: EmbedsBoth,
    encode_texts: Callable[[list[str]], Tensor],
    *,
    random_model: nn.Module,
) -> Subject:
    """Return a model of two towers as a subject; the model is left as it was found.

    Args:
        model: on the device where it is to compute.
        embed: how it embeds.
        encode_texts: K texts -> (K, L) int64 ids, as in training.
        random_model: the same model before any training: what `random_init` shows.

    Raises:
        BadInput: the untrained model is the model itself.
    """

    def embed_texts(texts: Sequence[str]) -> np.ndarray:
        with evaluating(model):
            return _array(embed.texts(model, encode_texts(list(texts)).to(_like(model).device)))

    seeing = image_encoder(model, embed, random_model=random_model)
    return replace(seeing, embed_images=_reader(model, embed.images), embed_texts=embed_texts)


def image_encoder(model: nn.Module, embed: EmbedsImages, *, random_model: nn.Module) -> Subject:
    """Return an encoder without a text side as a subject; the model is left as it was found.

    Args:
        model, embed, random_model: as `dual_encoder`.

    Raises:
        BadInput: the untrained model is the model itself.
    """
    if random_model is model:
        raise BadInput("random_model is the trained model itself: give the same model before training.")
    like = _like(model)
    random_model.to(like.device, like.dtype)
    features = getattr(embed, "features", embed.images)
    return Subject(encode=_reader(model, features), encode_at_random=_reader(random_model, features))


def _reader(model: nn.Module, read: Callable[[Any, Tensor], Tensor]) -> Encode:
    """Return a function from arrays of pictures to arrays of features, without gradient or dropout."""

    def found(pictures: np.ndarray) -> np.ndarray:
        like = _like(model)
        with evaluating(model):
            return _array(read(model, torch.from_numpy(pictures).to(like.device, like.dtype)))

    return found


def _like(model: nn.Module) -> Tensor:
    """Return a parameter that tells where the model computes, and in which precision."""
    return next(parameter for parameter in model.parameters() if parameter.is_floating_point())


def _array(values: Tensor) -> np.ndarray:
    return values.detach().float().cpu().numpy()
