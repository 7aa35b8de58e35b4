"""Clip factors: from the norm of one unit's gradient to the weight with which it enters the sum.

A factor is a function of the unit's own norm alone. `MARGIN` keeps norms that were measured in float32 (relative error
below 1e-5 against the oracle, see tests/norms) from passing the declared clip norm C by rounding.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from sfumato.base import BadInput, Refused
from sfumato.plan import Conjectured, Example, Group, Pair, Unit

MARGIN = 1e-3
ClipFactor = Callable[[Tensor], Tensor]
"""From norms (N,) to factors (N,)."""


def flat(clip_norm: float) -> ClipFactor:
    """Return min(1, C (1 - MARGIN) / norm), C = `clip_norm`: longer gradients are cut, shorter ones kept.

    A norm that is not finite gives exactly 0. The factor times the norm is below C. [Abadi et al., CCS 2016]

    >>> flat(1.0)(torch.tensor([0.5, 2.0, float("inf"), float("nan")])).tolist()  # doctest: +ELLIPSIS
    [1.0, 0.4995..., 0.0, 0.0]
    """
    bound = _bound(clip_norm)
    return lambda norms: _finite(norms, torch.clamp(bound / norms, max=1.0))


def automatic(clip_norm: float, gamma: float = 0.01) -> ClipFactor:
    """Return C (1 - MARGIN) / (norm + gamma): every gradient is brought to nearly the same length.

    A norm that is not finite gives exactly 0. The factor times the norm is below C. [Bu et al., NeurIPS 2023]

    >>> automatic(1.0, 0.5)(torch.tensor([0.5, float("nan")])).tolist()  # doctest: +ELLIPSIS
    [0.999..., 0.0]
    """
    bound = _bound(clip_norm)
    if not 0 < gamma < float("inf"):
        raise BadInput(f"gamma must be positive and finite, got {gamma}.")
    return lambda norms: _finite(norms, bound / (norms + gamma))


def clip_factor(unit: Unit, own: ClipFactor | None = None) -> ClipFactor:
    """Return the factor that the unit declares, or a researcher's own for a `Conjectured` unit.

    Raises:
        BadInput: a proved unit is given another rule, or a conjectured one none.
        Refused: there is no mechanism for the unit.
    """
    if isinstance(unit, Conjectured):
        if own is None:
            raise BadInput("a Conjectured unit needs clip_factor: norms (N,) -> factors (N,).")
        return own
    if not isinstance(unit, Example | Group | Pair):
        raise Refused(f"there is no mechanism for the unit {type(unit).__name__}.")
    if own is not None:
        raise BadInput("clip_factor belongs to a Conjectured unit: this plan's unit has its own rule, with its proof.")
    if isinstance(unit, Pair):
        return flat(unit.clip_norm)
    return flat(unit.clip_norm) if unit.clip == "flat" else automatic(unit.clip_norm, unit.gamma)


def check_factors(factors: Tensor, lengths: Tensor, used: Tensor, bound: float | None) -> None:
    """Hold the engine to its word: what is not used weighs exactly 0, what is used reaches at most `bound`."""
    if bool((factors[~used] != 0).any()):
        raise AssertionError("something that is padding or not finite entered the sum.")
    if bound is not None and not bool((factors[used] * lengths[used] <= bound).all()):
        raise AssertionError("something entered the sum above its clip norm.")


def _bound(clip_norm: float) -> float:
    if not 0 < clip_norm < float("inf"):
        raise BadInput(f"clip_norm must be positive and finite, got {clip_norm}.")
    return clip_norm * (1.0 - MARGIN)


def _finite(norms: Tensor, factors: Tensor) -> Tensor:
    return torch.where(torch.isfinite(norms), factors, torch.zeros_like(factors))
