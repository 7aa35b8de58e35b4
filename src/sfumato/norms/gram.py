"""Gram matrices of the Jacobian of each example's embedding: norms of the gradients of all pairs without forming one.

Legend: N examples, d entries of an embedding, T positions, P x D a weight, J_i = du_i / dtheta (d, all parameters).

For a similarity Z_ij = <u_i, v_j> of two towers, grad Z_ij = J_i^T v_j + J'_j^T u_i, hence with K_i = J_i J_i^T (d, d)

    ||J_i^T v_j||^2 = v_j^T K_i v_j,

so that d backward passes give what n^2 would (PAPERS section 2, the efficient form). Row k of J_i is the per-example
gradient of <u_i, e_k>, which the rules of the tape state as for any loss. In each layer

    (K_i)_kl = <G_k, G_l>,    G_k = sum_t left_kt right_kt^T,

where one factor is the layer's input and the same for all k: with M its Gram matrix over positions, (T, T), and x_k the
other factor, <G_k, G_l> = sum_ts M_ts <x_kt, x_ls>, or the gradients are written out where that costs less.
"""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sfumato.norms.contract import Autocast, refuse_unmeasured
from sfumato.norms.factors import Outer, Rows
from sfumato.norms.ghost import merge
from sfumato.norms.probe import Measured
from sfumato.norms.synthetic import batch_size
from sfumato.norms.tape import Tape

Embed = Callable[[nn.Module, Any], tuple[Tensor, Tensor]]


@dataclass(frozen=True, kw_only=True)
class PairJacobians:
    """What the norms of all pairs are made of, for the rows of one micro-batch; private.

    Attributes:
        u, v: embeddings (N, d), detached.
        of_u, of_v: K_i and K'_i, (N, d, d); or, for the exact norms of a shared encoder, J_i and J'_i, (N, d, P), P the
            parameters in their order.
        shared: whether some parameter is in both towers.
        exact: what was asked for.
    """

    u: Tensor
    v: Tensor
    of_u: Tensor
    of_v: Tensor
    shared: bool
    exact: bool


def pair_jacobians(
    model: nn.Module,
    embed: Embed,
    batch: Any,
    measured: Measured,
    *,
    exact: bool = True,
    autocast: Autocast | None = None,
) -> PairJacobians:
    """Return the Gram matrices of both embeddings of every row; the Jacobians, where the towers share parameters.

    Args:
        model: the module; untouched afterwards.
        embed: (model, batch) -> u, v, (N, d) each.
        batch: pytree of tensors that lead with N.
        measured: from `prepare`, for this model and a loss of these embeddings' rows.
        exact: False keeps Gram matrices of a shared encoder too: enough for the triangle bound, not for exact norms,
            which need 2 N d P numbers.
        autocast: makes the context of the forward pass.

    Raises:
        Refused: a parameter is used in a way that is not measured exactly; the message names it.
    """
    parameters = measured.parameters(model)
    tape = Tape(parameters, measured.layouts, batch_size(batch))
    with torch.enable_grad(), tape:
        with (autocast or nullcontext)():
            u, v = embed(model, batch)
        tape.replaying = True
        of_u = _rows_of_jacobian(tape, parameters, u, last=False)
        of_v = _rows_of_jacobian(tape, parameters, v, last=True)
    tape.slots.clear()
    with torch.no_grad():
        shared = bool(of_u[0].keys() & of_v[0].keys())
        take = _jacobian if shared and exact else _gram_of_rows
        kept = [take(rows, parameters, x.detach()) for rows, x in ((of_u, u), (of_v, v))]
    return PairJacobians(u=u.detach(), v=v.detach(), of_u=kept[0], of_v=kept[1], shared=shared, exact=exact)


Merged = dict[str, Outer | Rows | tuple[Outer, ...]]


def _rows_of_jacobian(tape: Tape, parameters: dict[str, nn.Parameter], out: Tensor, *, last: bool) -> list[Merged]:
    """Return, for each entry k of the embedding, the per-example gradients of <out, e_k>."""
    found = []
    width = out.shape[1]
    for k in range(width):
        cotangent = torch.zeros_like(out)
        cotangent[:, k] = 1.0
        grads = torch.autograd.grad(
            out,
            [tape.anchor, *parameters.values()],
            cotangent,
            allow_unused=True,
            retain_graph=not (last and k == width - 1),
        )
        refuse_unmeasured(tape.unruled, dict(zip(parameters, grads[1:], strict=True)))
        with torch.no_grad():
            found.append(merge(tape, parameters))
    return found


def _gram_of_rows(rows: list[Merged], parameters: dict[str, nn.Parameter], out: Tensor) -> Tensor:
    total = out.new_zeros(len(out), out.shape[1], out.shape[1])
    for name in parameters:
        if name in rows[0]:
            total += gram([row.pop(name) for row in rows])
    return total


def gram(rows: list[Outer | Rows | tuple[Outer, ...]]) -> Tensor:
    """Return <G_k, G_l> per example, (N, d, d), of one parameter's gradients for k = 1 .. d."""
    first = rows[0]
    if isinstance(first, Outer) and all(isinstance(row, Outer) for row in rows):
        outers = [row for row in rows if isinstance(row, Outer)]
        common = first.left if first.is_lookup else first.right
        if all(_same(row.left if first.is_lookup else row.right, common) for row in outers):
            return _gram_of_outers(outers)
    written = torch.stack([_written(row).values.flatten(1) for row in rows], 1)
    return written @ written.mT


def _gram_of_outers(rows: list[Outer]) -> Tensor:
    first = rows[0]
    if first.is_lookup:
        among = (first.left[:, :, None] == first.left[:, None, :]).to(first.right.dtype)
        moving = torch.stack([row.right for row in rows], 1)
    else:
        among = first.gram.of(first.right)
        moving = torch.stack([row.left for row in rows], 1)
    spread = among[:, None] @ moving  # (N, d, T, width)
    return spread.flatten(2) @ moving.flatten(2).mT


def _same(a: Tensor, b: Tensor) -> bool:
    return a is b or (a.shape == b.shape and a.data_ptr() == b.data_ptr()) or torch.equal(a, b)


def _written(row: Outer | Rows | tuple[Outer, ...]) -> Rows:
    if isinstance(row, tuple):
        return Rows(torch.stack([part.explicit().values for part in row]).sum(0))
    return row.explicit() if isinstance(row, Outer) else row


def _jacobian(rows: list[Merged], parameters: dict[str, nn.Parameter], out: Tensor) -> Tensor:
    found = out.new_zeros(len(out), out.shape[1], sum(p.numel() for p in parameters.values()))
    for k, row in enumerate(rows):
        begin = 0
        for name, parameter in parameters.items():
            if name in row:
                found[:, k, begin : begin + parameter.numel()] = _written(row.pop(name)).values.flatten(1)
            begin += parameter.numel()
    return found


# ---------------------------------------------------------------- norms of all pairs


def side_norms(own: Tensor, other: Tensor, grams: Tensor) -> Tensor:
    """Return ||J_i^T other_j||, (n, m) float64, from embeddings (n, d), (m, d) and K_i (n, d, d); by blocks of rows i.

    A unit-norm embedding cannot move along itself, J_i^T own_i = 0, so other_j is first projected off own_i: in float32
    the form without it cancels (it has given a negative square where the true norm was 2.98).
    """
    own, other = own.double(), other.double()
    found = own.new_empty(len(own), len(other))
    step = max(1, (1 << 24) // max(other.numel(), 1))
    for start in range(0, len(own), step):
        part = own[start : start + step]
        off = other[None] - (part @ other.mT)[..., None] * part[:, None]
        found[start : start + step] = ((off @ grams[start : start + step].double()) * off).sum(2).clamp(min=0).sqrt()
    return found


def shared_norms(u: Tensor, v: Tensor, jacobian_u: Tensor, jacobian_v: Tensor) -> Tensor:
    """Return ||J_i^T v_j + J'_j^T u_i||, (n, n), from J_i and J'_j (n, d, P): exact also for shared parameters.

    As in `side_norms`, each embedding is projected off the one that it moves. n^2 d P products, n P numbers at once.
    """
    cosine = u @ v.mT
    found = u.new_empty(len(u), len(v))
    for i in range(len(u)):
        moving_u = (v - cosine[i, :, None] * u[i]) @ jacobian_u[i]
        moving_v = torch.bmm((u[i] - cosine[i, :, None] * v)[:, None], jacobian_v).squeeze(1)
        found[i] = torch.linalg.vector_norm(moving_u.add_(moving_v), dim=1)
    return found
