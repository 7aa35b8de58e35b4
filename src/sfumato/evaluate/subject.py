"""What is evaluated, as functions from arrays to arrays. The captioner's are made here; nothing else here sees torch.

Shapes: B pictures, C channels, S pixels a side, D features, K labels or captions, d the width of embeddings.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sfumato.base import BadInput
from sfumato.evaluate.embed import Encode
from sfumato.losses import caption_log_likelihood, encode_images, prefix_tree, score
from sfumato.models import SIZES, Tokenizer, assemble, embed, evaluating, generate_captions
from sfumato.models.initialise import as_key, initialise

Model = Any  # transformers.VisionEncoderDecoderModel, which only `models` may name
# From this many labels on, zero-shot searches along a prefix tree; below, every label is scored exactly.
MAX_EXACT_LABELS = 100


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What is evaluated. Pictures are (B, C, S, S) float32, normalised as in training.

    A part that the model does not have is None, and suites that need it are skipped. `captioner` makes one, as do
    `dual_encoder`, `image_encoder` and `answerer`.

    Attributes:
        encode: features (B, D), for probes and neighbours.
        encode_at_random: the same of the same encoder before any training.
        embed_images: (B, d) of unit norm, in the space of the texts; may differ from the features.
        embed_texts: K texts -> (K, d) of unit norm.
        describe: one caption per picture.
        score_labels: pictures and K captions -> (B, K), higher is likelier; -inf where a search did not arrive.
        caption_losses: pictures and for each its own captions -> (B, K) mean loss per token, +inf beyond the list.
        answer: decoded pictures, each (H, W, C) as read, and a question for each -> B answers; None for a row that
            the model cannot be fed.
        score_answers: the same and A candidate answers -> (B, A) mean log-likelihood per token, so that an answer of
            several words is at no disadvantage; -inf for one that cannot be given.
        question: the public question that it was trained to be asked of pictures that have none of their own.
    """

    encode: Encode | None = None
    encode_at_random: Encode | None = None
    embed_images: Encode | None = None
    embed_texts: Callable[[Sequence[str]], np.ndarray] | None = None
    describe: Callable[[np.ndarray], list[str]] | None = None
    score_labels: Callable[[np.ndarray, Sequence[str]], np.ndarray] | None = None
    caption_losses: Callable[[np.ndarray, Sequence[Sequence[str]]], np.ndarray] | None = None
    answer: Callable[[Sequence[np.ndarray], Sequence[str]], Sequence[str | None]] | None = None
    score_answers: Callable[[Sequence[np.ndarray], Sequence[str], Sequence[str]], np.ndarray] | None = None
    question: str | None = None


def captioner(
    model: Model,
    tokenizer: Tokenizer,
    *,
    random_model: Model | None = None,
    seed: int = 0,
) -> Subject:
    """Return the captioner as a subject; the model is left as it was found.

    Args:
        model: on the device where it is to compute.
        tokenizer: of the run.
        random_model: the untrained twin; default `at_random(model, seed)`.
        seed: of that twin.
    """
    twin = at_random(model, seed) if random_model is None else random_model
    twin.to(model.device, model.dtype)
    max_tokens = int(model.generation_config.max_new_tokens)

    @lru_cache(maxsize=4)
    def label_ids(texts: tuple[str, ...]) -> Tensor:
        return _encode(tokenizer, texts, max_tokens)

    def score_labels(pictures: np.ndarray, texts: Sequence[str]) -> np.ndarray:
        rank = score if len(texts) <= MAX_EXACT_LABELS else prefix_tree
        with evaluating(model):
            return _array(rank(model, _tensor(model, pictures), label_ids(tuple(texts)).to(model.device)))

    def caption_losses(pictures: np.ndarray, captions: Sequence[Sequence[str]]) -> np.ndarray:
        labels = _encode(tokenizer, [text for group in captions for text in group], max_tokens)
        owner = torch.repeat_interleave(torch.arange(len(captions)), torch.tensor([len(group) for group in captions]))
        place = torch.cat([torch.arange(len(group)) for group in captions])
        losses = torch.full((len(captions), max(map(len, captions))), torch.inf)
        with evaluating(model):
            tokens = encode_images(model, _tensor(model, pictures))
            for part in torch.arange(len(owner)).split(len(pictures)):  # as much memory as one batch of training
                image = tokens[owner[part].to(model.device)]
                found = caption_log_likelihood(model, labels[part].to(model.device), image_tokens=image)
                losses[owner[part], place[part]] = -found.per_token.float().cpu()
        return losses.numpy()

    return Subject(
        encode=lambda pictures: _array(embed(model, _tensor(model, pictures))),
        encode_at_random=lambda pictures: _array(embed(twin, _tensor(twin, pictures))),
        describe=lambda pictures: generate_captions(model, tokenizer, _tensor(model, pictures)),
        score_labels=score_labels,
        caption_losses=caption_losses,
    )


def at_random(model: Model, seed: int = 0) -> Model:
    """Return an untrained model of the same configuration: as `models.build` starts one, else as transformers does."""
    twin = assemble(model.config, max_tokens=int(model.generation_config.max_new_tokens), seed=seed)
    size = (getattr(model.config, "sfumato", None) or {}).get("size")
    if size in SIZES:
        initialise(twin, as_key(seed), SIZES[size].init_std)
    return twin


def _encode(tokenizer: Tokenizer, texts: Sequence[str], max_tokens: int) -> Tensor:
    num_cut = tokenizer.count_cut(texts, max_tokens)
    if num_cut:  # two captions cut to the same beginning could not be told apart
        raise BadInput(f"{num_cut} of {len(texts)} captions are longer than the model's {max_tokens} tokens.")
    return tokenizer.encode(texts, max_tokens)


def _tensor(model: Model, pictures: np.ndarray) -> Tensor:
    return torch.from_numpy(pictures).to(model.device, model.dtype)


def _array(values: Tensor) -> np.ndarray:
    return values.float().cpu().numpy()
