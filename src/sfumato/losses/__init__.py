"""Losses: one value per example, and the scores that come from them."""

from sfumato.losses.candidates import prefix_tree, score
from sfumato.losses.caption import Likelihood, caption_log_likelihood, caption_loss, encode_images

__all__ = ["Likelihood", "caption_log_likelihood", "caption_loss", "encode_images", "prefix_tree", "score"]
