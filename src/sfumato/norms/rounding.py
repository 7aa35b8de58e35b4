"""What rounding can do to the norms and the sum of a joint pass, and what is done about it.

The sum over the examples of a micro-batch is one matrix product. A row whose terms are huge and cancel would have a
small norm, hence a large factor, and its terms would push those of other rows out of the product's digits; its own
norm, read from Gram matrices, would be rounded by more than the clip margin. With u the unit of rounding, reach the sum
of the sizes of a row's terms over positions, and rho = reach / norm (1 where nothing cancels):

- the error of a squared norm is at most about 4 u reach^2, so a norm is exact to 2 u rho^2. Rows where that could pass
  the clip margin of 1e-3 (rho > 46 in float32) are measured and summed in float64, apart from the others;
- of a gradient that was written out, sum by sum, only these sums are rounded, and its norm is exact to 4 u rho;
- rows with rho > 1024, or with entries so large that the squares of their partners may leave the range of float32,
  leave the joint sum: they are computed by the definition of their contribution, an ordinary backward pass of their
  own, whose norm is that of what is added.

Both are decided by numbers of the row alone. What is left in the common product has terms of at most 46 times its
clipped norm.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from sfumato.norms import factors as fac
from sfumato.norms.factors import Outer, Rows, Sizes

Merged = dict[str, Outer | Rows | tuple[Outer, ...]]

_MARGIN = 1e-3  # of the clip factors
_MOST_REACH = 1024.0  # in units of the norm
_LARGEST = 2.0**20


@dataclass(frozen=True)
class Norms:
    """What was measured of the examples of a joint pass.

    Attributes:
        norms: (N,), not divided by the loss scale.
        wide: examples that are summed in float64, indices in order.
        apart: examples that the joint pass does not compute well, bool (N,).
    """

    norms: Tensor
    wide: Tensor
    apart: Tensor


def measure(merged: Merged, count: int, dtype: torch.dtype, loss_scale: float, device: torch.device) -> Norms:
    """Return the norms of `count` examples over all parameters, in `dtype`.

    Args:
        loss_scale: by which output gradients are too large.
    """
    squared, reach, large, summed = _over_all(
        [fac.sizes(part) for part in merged.values()], count, dtype, loss_scale, device
    )
    eps = torch.finfo(dtype).eps
    wide = (4 * eps * reach > _MARGIN * squared) & reach.isfinite() & ~large
    index = wide.nonzero().squeeze(1)
    if len(index) and dtype != torch.float64:
        again = [fac.sizes(fac.double(fac.take(part, index))) for part in merged.values()]
        exact, reached, *_ = _over_all(again, len(index), torch.float64, loss_scale, device)
        squared = squared.double().index_copy(0, index, exact)
        reach = reach.double().index_copy(0, index, reached)
    apart = (torch.maximum(reach, summed) > _MOST_REACH**2 * squared) | large
    if dtype == torch.float64:
        apart, index = apart | wide, index[:0]
    return Norms(squared.sqrt().to(dtype), index, apart)


def _over_all(
    found: list[Sizes], count: int, dtype: torch.dtype, loss_scale: float, device: torch.device
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return squared norms and squared reaches over all parameters, which examples have too large entries, and the
    squares of what was summed when gradients were written out.
    """
    squared, reach, summed = (torch.zeros(count, dtype=dtype, device=device) for _ in range(3))
    large = torch.zeros(count, dtype=torch.bool, device=device)
    for one in found:
        squared += one.squared
        reach += one.reach.square()
        summed += one.summed.square().nan_to_num(nan=torch.inf)  # 0 * inf of a bound, where entries leave float32
        large |= (one.largest[0] > _LARGEST * max(loss_scale, 1.0)) | (one.largest[1] > _LARGEST)
    return squared, reach, large, summed


def sums(
    merged: Merged, parameters: Mapping[str, Tensor], weights: Tensor, usable: Tensor, wide: Tensor, dtype: torch.dtype
) -> dict[str, Tensor]:
    """Return the weighted sums over the usable examples, those of `wide` in float64. Frees `merged` as it goes."""
    in_double = torch.zeros_like(usable).index_fill(0, wide, True) & usable
    plain = usable & ~in_double
    found = {}
    for name, parameter in parameters.items():
        found[name] = torch.zeros_like(parameter, dtype=dtype)
        if name not in merged:
            continue
        part = merged.pop(name)
        if bool(plain.all()):
            found[name] = fac.weighted_sum(part, weights).to(dtype)
            continue
        for chosen, wider in ((plain, False), (in_double, True)):
            index = chosen.nonzero().squeeze(1)
            if len(index):  # zero times NaN is NaN: rows that do not count are taken out
                own = fac.take(part, index)
                own = fac.double(own) if wider else own
                found[name] = (found[name] + fac.weighted_sum(own, weights[index])).to(dtype)
    return found
