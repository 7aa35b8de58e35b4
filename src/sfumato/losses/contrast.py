"""Losses of pairwise similarities on tensors: InfoNCE, sigmoid, spread-out. Their bounds are in
`sfumato.plan.contrast`.

n rows with embeddings u_i, v_i; similarities Z_ij = <u_i, v_j>, (n, n). Which rows meet as negatives is the mechanism's
affair: a group unit lets rows meet inside a group only, a pair unit all of a logical batch.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import singledispatch
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sfumato.base import BadInput
from sfumato.losses.precision import full_float32
from sfumato.plan.contrast import ConjecturedLoss, InfoNCE, PairLoss, Sigmoid, SpreadOut

Embedder = Callable[[nn.Module, Any], tuple[Tensor, Tensor]]
"""(model, batch) -> u, v, both (N, d) with rows of unit norm; row i a function of row i of the batch alone."""


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """A contrastive loss of a model: how rows are embedded, and the loss of their similarities.

    Attributes:
        embed: model and batch to unit-norm embeddings u and v, (N, d) each.
        loss: InfoNCE, Sigmoid or SpreadOut with their constants; or a `ConjecturedLoss`, with `value`.
        value: of a conjectured loss: similarities (n, n) and which pairs exist, bool (n, n), to one value per row,
            (n,), differentiable.
        log_scale: name of a parameter s of the model, as CLIP's `logit_scale`: similarities are multiplied by
            exp(s) <= `largest_scale` on top of the loss's temperature. It is clipped like any other parameter.
        largest_scale: public bound of exp(s).
    """

    embed: Embedder
    loss: PairLoss
    value: Callable[[Tensor, Tensor], Tensor] | None = None
    log_scale: str | None = None
    largest_scale: float = 100.0

    def __post_init__(self) -> None:
        if (self.value is not None) != isinstance(self.loss, ConjecturedLoss):
            raise BadInput("a Contrast has a value function with a ConjecturedLoss, and with no other loss.")

    def rows(self, similarity: Tensor, meets: Tensor) -> Tensor:
        """Return the loss of every row, (n,); see the function `rows`."""
        return rows(self.loss, similarity, meets) if self.value is None else self.value(similarity, meets)

    def weights(self, similarity: Tensor, meets: Tensor) -> tuple[Tensor, Tensor]:
        """Return D = dL / dZ (n, n), L the sum over rows, and the rows' losses (n,), both without a graph."""
        with torch.enable_grad():
            leaf = similarity.detach().requires_grad_()
            found = self.rows(leaf, meets)
            (derivative,) = torch.autograd.grad(found.sum(), leaf)
        return derivative, found.detach()

    def embeddings(self, model: nn.Module, batch: Any) -> tuple[Tensor, Tensor]:
        """Return u and v (N, d), in at least float32; a learned scale is a factor of u, so it belongs to single
        rows.
        """
        u, v = self.embed(model, batch)
        if u.dim() != 2 or u.shape != v.shape:
            raise BadInput(
                f"embed must return two (N, d) tensors of one shape, got {tuple(u.shape)}, {tuple(v.shape)}."
            )
        u, v = (x.to(torch.promote_types(x.dtype, torch.float32)) for x in (u, v))
        if self.log_scale is not None:
            scale = model.get_parameter(self.log_scale)
            u = u * scale.exp().clamp(max=self.largest_scale)
        return u, v

    def of_rows(self, model: nn.Module, batch: Any) -> Tensor:
        """Return one value per row, (N,), that moves with every entry of both embeddings: what checks run on."""
        return self.of_embeddings(*self.embeddings(model, batch))

    def of_embeddings(self, u: Tensor, v: Tensor) -> Tensor:
        """Return the same from the embeddings (N, d)."""
        places = torch.arange(u.shape[1], dtype=u.dtype, device=u.device)
        return u @ torch.cos(places) + v @ torch.cos(places + 0.5)


@singledispatch
def rows(loss: Any, similarity: Tensor, meets: Tensor) -> Tensor:
    """Return the loss of every row, (n,); rows whose `meets` is empty but for themselves give what one record gives.

    Args:
        loss: a loss's constants.
        similarity: Z (n, n).
        meets: bool (n, n), symmetric: which pairs exist; the diagonal marks the rows that count.
    """
    raise BadInput(f"there is no loss of similarities for {type(loss).__name__}: give its value function to Contrast.")


@rows.register
def _(loss: InfoNCE, similarity: Tensor, meets: Tensor) -> Tensor:
    logits = (similarity / loss.temperature).masked_fill(~meets, -torch.inf)
    counts = meets.diagonal()
    logits = torch.where(counts[:, None] | counts[None], logits, 0.0)  # a row that meets nobody: finite, and left out
    own = logits.diagonal()
    found = torch.logsumexp(logits, 1) - own
    if loss.symmetric:
        found = 0.5 * (found + torch.logsumexp(logits, 0) - own)
    return torch.where(counts, found, 0.0)


@rows.register
def _(loss: Sigmoid, similarity: Tensor, meets: Tensor) -> Tensor:
    sign = 2.0 * torch.eye(len(similarity), dtype=similarity.dtype, device=similarity.device) - 1.0
    similarity = similarity.masked_fill(~meets, 0.0)  # what does not meet may be anything
    terms = F.softplus(-sign * (similarity / loss.temperature + loss.bias))
    return torch.where(meets, terms, 0.0).sum(1)


@rows.register
def _(loss: SpreadOut, similarity: Tensor, meets: Tensor) -> Tensor:
    others = meets & ~torch.eye(len(similarity), dtype=torch.bool, device=similarity.device)
    return similarity.masked_fill(~others, 0.0).square().sum(1) / others.sum(1).clamp(min=1)


def cosines(u: Tensor, v: Tensor) -> Tensor:
    """Return <u_i, v_j> (n, n) of unit-norm rows in full float32 or float64, clamped to [-1, 1].

    TF32 would round a cosine by up to 1e-3, past what the bounds allow.
    """
    with full_float32(), torch.autocast(u.device.type, enabled=False):
        return (u @ v.mT).clamp(-1.0, 1.0)
