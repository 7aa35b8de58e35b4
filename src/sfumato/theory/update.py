"""One private step of the linear dual encoder: draw, clip each group's gradient, add up. Many repeats at once.

Shapes: R repeats, m groups, L the largest group of the step, n records; G1 (R, r, d1), G2 (R, r, d2). The rows of a
repeat are its own data set; repeats never meet.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from sfumato.base import seeds
from sfumato.mechanisms import clip_factor
from sfumato.sampling import Poisson
from sfumato.theory.linear import gradients, penalty_gradients
from sfumato.theory.setting import LinearClip

Array = np.ndarray
Layers = tuple[Array, Array]


@dataclass(frozen=True, kw_only=True, eq=False)
class Sums:
    """Clipped sums over the groups, (R, r, d1) and (R, r, d2), and the mean clip factor over all m groups, (R,)."""

    layers: Layers
    factor: Array


SumFn = Callable[[int, Array, Array], Sums]
"""From the step's number and both layers to the clipped sums."""


def from_records(run: LinearClip, records: Array, key: bytes) -> SumFn:
    """Return the clipped sums of Poisson draws of `records` (R, n, d1 + d2), grouped by independent uniform ids.

    The sampler is the plan's own, at its probability, over all repeats in one draw (records join independently, so that
    each repeat has its own Poisson draw). A group of fewer than two records has no loss and contributes zero.
    """
    repeats, size, width = records.shape
    flat = records.reshape(-1, width)
    sampler, factor = Poisson(sampling_prob=run.plan.sampling_prob), clip_factor(run.unit)

    def sums(step: int, g1: Array, g2: Array) -> Sums:
        drawn = sampler.draw(seeds.derive(key, "draw", step), repeats * size)
        # Ids are read off one stream here, and off a key per record in `train`: in law, which is all that a privacy
        # proof and a mean error look at, both are independent and uniform.
        ids = seeds.integers(seeds.derive(key, "group", step), len(drawn), run.unit.num_groups)
        groups = drawn // size * run.unit.num_groups + ids
        places, sizes = _seats(groups, drawn, repeats * run.unit.num_groups)
        rows = flat[places].reshape(repeats, run.unit.num_groups, -1, width)
        counts = sizes.reshape(repeats, run.unit.num_groups)
        return _clipped(group_gradients(g1, g2, rows, counts, run.rho), counts >= 2, factor)

    return sums


def from_population(run: LinearClip, s: Array) -> SumFn:
    """Return the clipped sums that infinitely many records would give: every group has the gradient at S itself.

    What remains is optimisation and privacy: the privacy term can be measured alone.
    """
    factor = clip_factor(run.unit)

    def sums(step: int, g1: Array, g2: Array) -> Sums:
        del step
        one = gradients(g1, g2, s, run.rho)
        found = _clipped((one[0][:, None], one[1][:, None]), np.ones((len(g1), 1), bool), factor)
        on_1, on_2 = (run.unit.num_groups * layer for layer in found.layers)
        return Sums(layers=(on_1, on_2), factor=found.factor)

    return sums


def group_gradients(g1: Array, g2: Array, rows: Array, sizes: Array, rho: float) -> Layers:
    """Return each group's gradient of loss and penalty, (R, m, r, d1) and (R, m, r, d2).

    Args:
        g1, g2: the layers, (R, r, d1) and (R, r, d2).
        rows: both views side by side, (R, m, L, d1 + d2); what pads a group may be anything finite.
        sizes: how many rows of each group are no padding, (R, m).
    """
    on_1, on_2 = (on[:, None] for on in penalty_gradients(g1, g2, rho))
    d1 = g1.shape[-1]
    x, other = rows[..., :d1], rows[..., d1:]
    filled = (np.arange(rows.shape[-2]) < sizes[..., None])[..., None]
    scale = 1.0 / np.maximum(sizes - 1, 1)[..., None, None]
    u = _centred(x @ np.swapaxes(g1, -1, -2)[:, None], filled, sizes)
    v = _centred(other @ np.swapaxes(g2, -1, -2)[:, None], filled, sizes)
    # G2 S^T = sum_i (v_i - mean v) x_i^T / (size - 1): one side centred is enough.
    return on_1 - scale * (np.swapaxes(v, -1, -2) @ x), on_2 - scale * (np.swapaxes(u, -1, -2) @ other)


def _centred(embedded: Array, filled: Array, sizes: Array) -> Array:
    """Return the rows less their group's mean, and zero where padding is: it then drops out of every product."""
    embedded = embedded * filled
    return (embedded - embedded.sum(-2, keepdims=True) / np.maximum(sizes, 1)[..., None, None]) * filled


def _clipped(grads: Layers, used: Array, factor: Callable[[torch.Tensor], torch.Tensor]) -> Sums:
    norms = np.sqrt(sum(np.square(layer).sum((-2, -1)) for layer in grads))
    factors = np.where(used, factor(torch.from_numpy(norms)).numpy(), 0.0)
    on_1, on_2 = (np.einsum("rg,rgij->rij", factors, layer) for layer in grads)
    return Sums(layers=(on_1, on_2), factor=factors.mean(1))


def _seats(groups: Array, records: Array, num_groups: int) -> tuple[Array, Array]:
    """Return the records of each group, (num_groups, L), padded with record 0, and the groups' sizes, (num_groups,)."""
    order = np.argsort(groups, kind="stable")
    sizes = np.bincount(groups, minlength=num_groups)
    starts = np.cumsum(sizes) - sizes
    places = np.zeros((num_groups, max(1, sizes.max())), np.int64)
    places[groups[order], np.arange(len(order)) - starts[groups[order]]] = records[order]
    return places, sizes
