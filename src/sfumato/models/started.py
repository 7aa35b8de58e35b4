"""What starting and loading an encoder give: the model, how it embeds, and what a run must know about it."""

from dataclasses import dataclass
from typing import Any

from torch import nn

from sfumato.models.freeze import Training
from sfumato.models.tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True)
class StartedTowers:
    """Encoders ready to train with a contrastive loss.

    Attributes:
        model: in training mode, `requires_grad` set; a frozen BatchNorm stays in evaluation mode.
        embed: `Towers` or `TwoViewTowers`: (model, batch) to two (N, d) tensors with rows of unit norm.
        tokenizer: of the text tower; None for a single encoder.
        preprocess: `image_size`, `mean`, `std`, `channels`: the public constants that the model expects.
        training: which parameters train and which do not.
        notes: what was taken from where and what was adapted, for the log and the card.
        log_scale: name of the trainable log-scale parameter, or None where the temperature is a constant of the loss.
    """

    model: nn.Module
    embed: Any
    tokenizer: Tokenizer | None
    preprocess: dict[str, Any]
    training: Training
    notes: tuple[str, ...]
    log_scale: str | None


@dataclass(frozen=True, kw_only=True)
class LoadedTowers:
    """An export read back: the encoders in evaluation mode, how they embed, their tokenizer and normalisation."""

    model: nn.Module
    embed: Any
    tokenizer: Tokenizer | None
    preprocess: dict[str, Any]
