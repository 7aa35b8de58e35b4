"""Every picture against every candidate caption: exact, or along a prefix tree for many candidates.

N pictures, K candidates, L text tokens, T image tokens, D encoder width, V vocabulary.
"""

from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor, nn

from sfumato.base import BadInput
from sfumato.losses.caption import IGNORED, caption_log_likelihood, caption_logits, encode_images

Reduction = Literal["mean", "sum"]
_LOGITS_PER_CALL = 1 << 25  # rows x tokens x vocabulary of one decoder call: 128 MiB in float32


@torch.no_grad()
def score(model: nn.Module, pixel_values: Tensor, candidate_ids: Tensor, *, reduction: Reduction = "mean") -> Tensor:
    """Return the log-likelihood of every candidate caption for every picture; the encoder runs once per picture.

    Args:
        model: in evaluation mode.
        pixel_values: (N, C, H, W).
        candidate_ids: (K, L) int64 labels, -100 on padding.
        reduction: `mean` over the candidate's tokens (the paper's zero-shot and ARO rule), or `sum`.

    Returns:
        (N, K); the argmax over K is the zero-shot prediction.

    Raises:
        BadInput: the model is in training mode, or a candidate has no token.

    Source: evaluation protocol of PAPERS section 1.
    """
    candidates = _checked(model, candidate_ids)
    image = encode_images(model, pixel_values)
    everything = torch.ones(len(image), len(candidates), dtype=torch.bool, device=image.device)
    return _exact(model, image, candidates, everything, reduction)


@torch.no_grad()
def prefix_tree(
    model: nn.Module, pixel_values: Tensor, candidate_ids: Tensor, *, beam: int = 16, reduction: Reduction = "mean"
) -> Tensor:
    """Return log-likelihoods as `score` does, but only of the candidates that a greedy search arrives at.

    The candidates form a tree of token prefixes. Level by level every picture keeps the `beam` prefixes of highest
    summed log-likelihood; the candidates left at the end are scored exactly. This is greedy: the best candidate is lost
    where one of its prefixes is unlikely, and as the sum is kept and not the mean, short ends are at a disadvantage. It
    costs at most `beam` decoder rows per picture and level instead of K rows per picture. With beam >= K nothing is
    cut and the result is that of `score`.

    Args:
        model, pixel_values, candidate_ids, reduction: as in `score`.
        beam: prefixes kept per picture.

    Returns:
        (N, K), -inf where the search did not arrive.
    """
    if beam < 1:
        raise BadInput(f"beam must be >= 1, got {beam}.")
    candidates = _checked(model, candidate_ids)
    image = encode_images(model, pixel_values)
    node = torch.zeros(len(candidates), dtype=torch.int64, device=image.device)  # candidate -> its prefix, this level
    alive = torch.ones(len(image), 1, dtype=torch.bool, device=image.device)  # picture x prefix
    for length in range(candidates.shape[1]):
        child = torch.unique(candidates[:, : length + 1], dim=0, return_inverse=True)[1]
        owner = _representative(child)  # child -> one candidate that has it
        reachable = alive[:, node[owner]]
        if reachable.sum(dim=1).max() > beam:  # otherwise no prefix is cut, and nothing need be computed yet
            sums = _child_sums(model, image, candidates, length, node, alive, owner)
            best = sums.topk(beam, dim=1).indices
            reachable = reachable & torch.zeros_like(reachable).scatter(1, best, True)
        node, alive = child, reachable
    return _exact(model, image, candidates, alive[:, node], reduction)


def _child_sums(
    model: nn.Module, image: Tensor, candidates: Tensor, length: int, node: Tensor, alive: Tensor, owner: Tensor
) -> Tensor:
    """Return (N, children): the log-likelihood of each child prefix, summed; -inf below dead prefixes.

    One decoder row per picture and living prefix of `length` tokens gives all of that prefix's children.
    """
    prefixes = candidates[_representative(node), : length + 1].clone()
    prefixes[:, length] = IGNORED  # the token to come
    tokens, column = torch.unique(candidates[owner, length], return_inverse=True)
    picture, prefix = alive.nonzero(as_tuple=True)
    rows = []
    for part in _parts(len(picture), length + 1, model):
        labels = prefixes[prefix[part]]
        logp = caption_logits(model, labels, encoder_outputs=(image[picture[part]],)).log_softmax(dim=-1)
        known = logp[:, :length].gather(2, labels[:, :length, None].clamp(min=0)).squeeze(2)
        so_far = known.masked_fill(labels[:, :length] == IGNORED, 0.0).sum(dim=1, keepdim=True)
        following = logp[:, length, tokens.clamp(min=0)].masked_fill(tokens == IGNORED, 0.0)  # the caption has ended
        rows.append(so_far + following)
    table = image.new_full((*alive.shape, len(tokens)), -torch.inf, dtype=rows[0].dtype)
    table[picture, prefix] = torch.cat(rows)
    return table[:, node[owner], column]


def _exact(model: nn.Module, image: Tensor, candidates: Tensor, wanted: Tensor, reduction: Reduction) -> Tensor:
    """Return (N, K) scores of the wanted pairs, -inf elsewhere."""
    picture, candidate = wanted.nonzero(as_tuple=True)
    rows = []
    for part in _parts(len(picture), candidates.shape[1], model):
        found = caption_log_likelihood(model, candidates[candidate[part]], image_tokens=image[picture[part]])
        rows.append(found.per_token if reduction == "mean" else found.total)
    scores = torch.full(wanted.shape, -torch.inf, dtype=rows[0].dtype, device=image.device)
    scores[picture, candidate] = torch.cat(rows)
    return scores


def _parts(num_rows: int, num_tokens: int, model: Any) -> Iterator[slice]:
    step = max(1, _LOGITS_PER_CALL // (num_tokens * model.config.decoder.vocab_size))
    for first in range(0, num_rows, step):
        yield slice(first, first + step)


def _representative(group: Tensor) -> Tensor:
    """Return for each group number one member's index: (K,) numbers -> (groups,) indices."""
    members = torch.arange(len(group), device=group.device)
    return torch.zeros(int(group.max()) + 1, dtype=torch.int64, device=group.device).scatter(0, group, members)


def _checked(model: nn.Module, candidate_ids: Tensor) -> Tensor:
    """Return the candidates without the columns that are padding in all of them."""
    if model.training:
        raise BadInput("scores are taken in evaluation mode: call model.eval() first.")
    lengths = (candidate_ids != IGNORED).sum(dim=1)
    if len(lengths) == 0 or int(lengths.min()) == 0:
        raise BadInput("every candidate caption needs at least one token.")
    return candidate_ids[:, : int(lengths.max())]
