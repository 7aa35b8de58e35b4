"""Losses: one value per example, losses of similarities, and the scores that come from them."""

from sfumato.losses.answers import AnswerLoss
from sfumato.losses.candidates import prefix_tree, score
from sfumato.losses.caption import Likelihood, caption_log_likelihood, caption_loss, encode_images, likelihood
from sfumato.losses.contrast import Contrast, Embedder
from sfumato.losses.precision import full_float32

__all__ = [
    "AnswerLoss",
    "Contrast",
    "Embedder",
    "Likelihood",
    "caption_log_likelihood",
    "caption_loss",
    "encode_images",
    "full_float32",
    "likelihood",
    "prefix_tree",
    "score",
]
