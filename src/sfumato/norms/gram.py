"""Norms of the gradients of all pairs from the Jacobian of each row's embedding, without forming one of them.

Legend: N rows, d entries of an embedding, k = d - 1, J_i = du_i / dtheta (d, all parameters).

For a similarity Z_ij = <u_i, v_j>, grad Z_ij = J_i^T v_j + J'_j^T u_i. An embedding of unit norm cannot move along
itself, J_i^T u_i = 0: that direction is not measured here, and not released by the unit Pair either, whatever rounding
makes of it. With Q_i (d, k) an orthonormal basis of what is orthogonal to u_i, a_ij = Q_i^T v_j, and
K_i = (Q_i^T J_i) (Q_i^T J_i)^T (k, k),

    ||J_i^T v_j||^2 = a_ij^T K_i a_ij,

so that d - 1 backward passes give what n^2 would (PAPERS section 2, the efficient form). Without the projection the
form cancels in float32: it has given a negative square where the true norm was 2.98. Row k of Q_i^T J_i is the
per-example gradient of <u_i, Q_ik>, which the rules of the tape state as for any loss. With separate towers the two
squares add up; a shared encoder has the cross term 2 <J_i^T v_j, J'_j^T u_i> besides, see `stacks`.

Rounding. Squares and cross terms are exact to a few units of rounding times the sizes of what they are made of. Where
they cancel so far that this could hide more than the clip margin of 1e-3, the bound is added, as in `factors`: a norm
may then be over-estimated (safe), never under-estimated. So may it where the terms of a gradient that is summed up,
here or in the pass that forms the clipped sum, are more than 1024 times as large as it.
"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from sfumato.norms.contract import Autocast, not_ended, refuse_unmeasured
from sfumato.norms.factors import Outer
from sfumato.norms.ghost import through_derivation
from sfumato.norms.measured import Measured
from sfumato.norms.stacks import Product, Stack, Written, alike, cross, stacked
from sfumato.norms.synthetic import batch_size
from sfumato.norms.tape import Factor, Tape

Embed = Callable[[nn.Module, Any], tuple[Tensor, Tensor]]
_BLOCK_ELEMENTS = 1 << 24
_MOST_REACH = 1024.0
_ROWS = 32  # rows of each tower whose pairs are measured at a time


@dataclass(frozen=True, kw_only=True)
class Side:
    """What the norms of all pairs are made of, of one tower's rows of one micro-batch; private.

    Attributes:
        gram: K_i (N, k, k).
        sizes: (N, k), what the square of the gradient of each direction is rounded in proportion to the square of; at
            least its norm.
        summed: (N, k), what the gradient of each direction is rounded in proportion to, here and in an ordinary pass.
        stacks: for exact norms, the gradients by the parameters that both towers share.
    """

    gram: Tensor
    sizes: Tensor
    summed: Tensor
    stacks: dict[str, Stack] = field(default_factory=dict)

    @property
    def num_bytes(self) -> int:
        """Memory that the gradients hold."""
        return sum(stack.num_bytes for stack in self.stacks.values())

    def take(self, rows: slice) -> "Side":
        """Return the rows of a slice."""
        cut = {name: stack.take(rows) for name, stack in self.stacks.items()}
        return Side(gram=self.gram[rows], sizes=self.sizes[rows], summed=self.summed[rows], stacks=cut)


@dataclass(frozen=True, kw_only=True)
class PairJacobians:
    """The embeddings of the rows of one micro-batch, and how they move; private.

    Attributes:
        u, v: embeddings (N, d), detached.
        of_u, of_v: of either tower.
        shared: whether some parameter is in both towers.
        exact: whether the norms of a shared encoder are exact or bounded by the triangle inequality.
    """

    u: Tensor
    v: Tensor
    of_u: Side
    of_v: Side
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
    """Return the Gram matrices of the Jacobians of both embeddings of every row, from 2 (d - 1) backward passes.

    Args:
        model: the module; untouched afterwards.
        embed: (model, batch) -> u, v, (N, d) each, with rows of unit norm.
        batch: pytree of tensors that lead with N.
        measured: from `prepare`, for this model and a loss of these embeddings' rows.
        exact: False keeps Gram matrices of a shared encoder alone: enough for the triangle bound, not for exact norms.
        autocast: makes the context of the forward pass.

    Raises:
        Refused: a parameter is used in a way that is not measured exactly; the message names it.
    """
    parameters = measured.parameters(model)
    count = batch_size(batch)
    tape = _Directions(parameters, measured.certified(count), count)
    with torch.enable_grad(), tape:
        with (autocast or nullcontext)():
            u, v = embed(model, batch)
        tape.finish(whole=False)
        of_u = _passes(tape, parameters, u, last=False)
        half = None if exact else _side(of_u, u)
        of_v = _passes(tape, parameters, v, last=True)
    tape.slots.clear()
    with torch.no_grad():
        shared = [name for name in of_u if name in of_v]
        if exact:
            for name in shared:
                of_u[name], of_v[name] = alike(of_u[name], of_v[name])
        kept = shared if exact else []
        sides = half or _side(of_u, u, kept), _side(of_v, v, kept)
    return PairJacobians(u=u.detach(), v=v.detach(), of_u=sides[0], of_v=sides[1], shared=bool(shared), exact=exact)


class _Directions(Tape):
    """A tape over several backward passes of one forward pass: factors stay factors, inputs are unfolded once."""

    many_passes = True

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._slot = -1
        self._made: dict[int, Tensor] = {}
        self._seen: dict[tuple[int, str], Tensor] = {}

    def receive(self, index: int, out_grad: Tensor, saved: tuple[Tensor, ...]) -> None:
        self._slot = index
        super().receive(index, out_grad, saved)

    def once(self, make: Callable[[], Tensor]) -> Tensor:
        if self._slot not in self._made:
            self._made[self._slot] = make()
        return self._made[self._slot]

    def outer(self, left: Tensor, right: Tensor, shape: torch.Size) -> Factor:
        return Outer(left, right, shape)

    def pop(self, parameters: dict[str, nn.Parameter]) -> dict[str, list[Factor]]:
        """Return the gradients of one pass by parameter, use by use, and forget them."""
        home = {id(parameter): name for name, parameter in parameters.items()}
        found: dict[str, list[Factor]] = {}
        for key in list(self.factors):
            parts = self.factors.pop(key)
            named = [(home[key], part) for part in parts] if key in home else None
            for name, part in named or through_derivation(self, key, parts, parameters):
                found.setdefault(name, []).append(part)
        return found


def _passes(tape: _Directions, parameters: dict[str, nn.Parameter], out: Tensor, *, last: bool) -> dict[str, Stack]:
    """Return by parameter the gradients of <out, Q_k> of every row, for all k."""
    found: dict[str, list[list[Factor]]] = {}
    if not out.requires_grad:  # a tower of which nothing trains
        return {}
    directions = orthogonal(out.detach())
    width = directions.shape[2]
    for k in range(width):
        with not_ended():
            grads = torch.autograd.grad(
                out,
                [tape.anchor, *parameters.values()],
                directions[..., k].contiguous(),
                allow_unused=True,
                retain_graph=not (last and k == width - 1),
            )
        refuse_unmeasured(tape.unruled, dict(zip(parameters, grads[1:], strict=True)))
        with torch.no_grad():
            for name, parts in tape.pop(parameters).items():
                found.setdefault(name, []).append(parts)
    with torch.no_grad():
        return {name: stacked(found.pop(name)) for name in list(found)}


def _side(stacks: dict[str, Stack], out: Tensor, kept: Sequence[str] = ()) -> Side:
    """Sum up over parameters; of those to be kept, what is written out becomes one matrix."""
    with torch.no_grad():
        k = out.shape[1] - 1
        gram = out.new_zeros(len(out), k, k)
        squares, sums = (out.new_zeros(len(out), k) for _ in range(2))
        products: dict[str, Stack] = {}
        whole: list[Written] = []
        for name in sorted(stacks):
            stack = stacks.pop(name)
            sums += stack.summed.square()
            own, reach = stack.gram()
            gram += own
            if name in kept and isinstance(stack, Product):
                products[name] = stack
                reach = stack.sizes().square()
            elif name in kept and isinstance(stack, Written):
                whole.append(stack)
            squares += reach
        if whole:
            summed = torch.stack([one.summed for one in whole]).sum(0)
            products["written"] = Written(torch.cat([one.values for one in whole], 2), summed)
        return Side(gram=gram, sizes=squares.sqrt(), summed=sums.sqrt(), stacks=products)


def orthogonal(rows: Tensor) -> Tensor:
    """Return for each row (N, d) of unit norm an orthonormal basis of what is orthogonal to it, (N, d, d - 1).

    The columns but the first of the reflection that takes the row to the first axis (Householder).
    """
    mirror, scaled = _mirrors(rows)
    identity = torch.eye(rows.shape[1], dtype=rows.dtype, device=rows.device)
    return (identity - scaled[:, :, None] * mirror[:, None])[..., 1:]


def _mirrors(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return m and 2 m / |m|^2 of each row's reflection 1 - 2 m m^T / |m|^2, (N, d) each."""
    mirror = rows.clone()
    mirror[:, 0] += torch.where(rows[:, 0] < 0, -1.0, 1.0)
    return mirror, 2.0 * mirror / mirror.square().sum(1, keepdim=True)


# ---------------------------------------------------------------- norms of all pairs


def _moving(own: Tensor, other: Tensor) -> Tensor:
    """Return a_ij = Q_i^T other_j, (n, m, k); in float64, because nearly all of it may cancel."""
    (mirror, scaled), other = _mirrors(own.double()), other.double()
    return (other[None, :, 1:] - (scaled @ other.mT)[..., None] * mirror[:, None, 1:]).to(own.dtype)


def _squares(moving: Tensor, side: Side) -> tuple[Tensor, Tensor, Tensor]:
    """Return ||sum_k a_ijk G_ik||^2, and what it and what the gradient itself is rounded in proportion to, (n, m) each,
    from a (n, m, k).
    """
    sizes = moving.abs() @ torch.stack([side.sizes, side.summed], 2)
    return ((moving @ side.gram) * moving).sum(2), sizes[..., 0], sizes[..., 1]


def _roots(squares: Tensor, reach: Tensor, summed: Tensor) -> Tensor:
    ill = summed.square() > _MOST_REACH**2 * squares
    slack = 4 * torch.finfo(reach.dtype).eps * (reach.square() + torch.where(ill, summed.square(), 0.0))
    return (squares.clamp(min=0) + (slack - 1e-3 * squares).clamp(min=0)).sqrt()


def side_norms(own: Tensor, other: Tensor, side: Side) -> Tensor:
    """Return ||J_i^T other_j||, (n, m) float64, from embeddings (n, d), (m, d); by blocks of rows i."""
    found = own.new_empty(len(own), len(other), dtype=torch.float64)
    step = max(1, _BLOCK_ELEMENTS // max(other.numel(), 1))
    for start in range(0, len(own), step):
        rows = slice(start, start + step)
        found[rows] = _roots(*_squares(_moving(own[rows], other), side.take(rows)))
    return found


def shared_norms(u: Tensor, v: Tensor, of_u: Sequence[Side], of_v: Sequence[Side]) -> Tensor:
    """Return ||J_i^T v_j + J'_j^T u_i||, (n, n), exact also for shared parameters, from both towers' parts in the order
    of the rows of u and v (n, d).
    """
    found = u.new_empty(len(u), len(v))
    for i, one in _blocks(of_u):
        for j, other in _blocks(of_v):
            found[i, j] = _block(u[i], v[j], one, other)
    return found


def _blocks(sides: Sequence[Side]) -> list[tuple[slice, Side]]:
    found: list[tuple[slice, Side]] = []
    begin = 0
    for side in sides:
        for start in range(0, len(side.gram), _ROWS):
            part = side.take(slice(start, start + _ROWS))
            found.append((slice(begin, begin + len(part.gram)), part))
            begin += len(part.gram)
    return found


def _block(u: Tensor, v: Tensor, one: Side, other: Side) -> Tensor:
    a, b = _moving(u, v), _moving(v, u)  # (I, J, k) and (J, I, k)
    (of_u, reach_u, sums_u), (of_v, reach_v, sums_v) = _squares(a, one), _squares(b, other)
    total = of_u + of_v.mT
    for name, stack in one.stacks.items():
        total += 2.0 * cross(stack, other.stacks[name], a, b)
    return _roots(total, reach_u + reach_v.mT, sums_u + sums_v.mT)
