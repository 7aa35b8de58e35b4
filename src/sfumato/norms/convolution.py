"""The rule of convolutions: a linear map on patches (Rochette et al. 2019, arXiv 1912.06015).

The per-example weight gradients are ONE ordinary weight gradient: of the convolution whose N * groups groups are the
groups of each example. Only where the weight is large and the positions are few are patches unfolded for a ghost norm.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sfumato.norms.factors import Rows, explicit_is_better, frobenius
from sfumato.norms.tape import Call, Factor, Tape, register_rule, wide

_FEW_POSITIONS = 64  # up to here unfolded patches and a matrix product beat the many-groups convolution (on CPU)


@dataclass(frozen=True)
class Geometry:
    """Stride, padding, dilation and groups of a convolution, one entry for each spatial dimension."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    before: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int

    @classmethod
    def of(cls, kernel: torch.Size, stride: Any, padding: Any, dilation: Any, groups: int) -> "Geometry":
        count = len(kernel)
        dilation = _tuple(dilation, count)
        before: tuple[int, ...] = (0,) * (2 * count)
        if padding == "same":  # as torch does: the odd element goes to the end
            total = [step * (size - 1) for step, size in zip(dilation, kernel, strict=True)]
            before = tuple(side for t in reversed(total) for side in (t // 2, t - t // 2))
        inner = (0,) * count if isinstance(padding, str) else _tuple(padding, count)
        return cls(tuple(kernel), _tuple(stride, count), inner, before, dilation, groups)

    def padded(self, x: Tensor) -> Tensor:
        """Apply what `padding="same"` puts around the input; other padding is left to the functions."""
        return F.pad(x, self.before) if any(self.before) else x

    def patches(self, x: Tensor) -> Tensor:
        """Return the patches that are read, (N, D, T): D = channels * kernel elements, T output positions."""
        if len(self.kernel) == 1:  # a picture of height one
            flat = Geometry((1, *self.kernel), (1, *self.stride), (0, *self.padding), (), (1, *self.dilation), 1)
            return flat.patches(x.unsqueeze(2))
        return F.unfold(x, self.kernel, dilation=self.dilation, padding=self.padding, stride=self.stride)


def _tuple(value: Any, length: int) -> tuple[int, ...]:
    value = tuple(value) if isinstance(value, (tuple, list)) else (value,)
    return value if len(value) == length else value * length


@register_rule("conv1d", "conv2d")
def convolution(tape: Tape, call: Call) -> Tensor:
    """y = convolution of x by W, plus b."""
    names = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
    x, weight, bias, stride, padding, dilation, groups = call.bind(*names, stride=1, padding=0, dilation=1, groups=1)
    if call.layout.dim != 0:
        raise call.refuse("a convolution without a batch dimension has no rule.")
    measures_weight = call.is_tracked(weight)
    geometry = Geometry.of(weight.shape[2:], stride, padding, dilation, groups)

    def gradients(out_grad: Tensor, saved: tuple[Tensor, ...]) -> list[tuple[Tensor, Factor]]:
        grads = call.layout.to_rows(wide(out_grad))  # (N, entries, P, *space)
        found: list[tuple[Tensor, Factor]] = []
        if bias is not None and call.is_tracked(bias):
            found.append((bias, tape.rows(Rows.of_sums(grads.transpose(1, 2).flatten(2).sum(2), grads))))
        if measures_weight:
            inputs = call.layout.to_rows(geometry.padded(tape.widen(saved[0])))
            found.append((weight, _weight_gradients(tape, grads, inputs, weight, geometry)))
        return found

    return tape.tap(call, call.run(), (x,) if measures_weight else (), gradients)


def _weight_gradients(tape: Tape, grads: Tensor, inputs: Tensor, weight: Tensor, geometry: Geometry) -> Factor:
    """Return the per-example gradients from grads (N, entries, P, *space) and inputs (N, entries, C, *space)."""
    count, entries, rows = grads.shape[:3]
    steps = entries * grads[0, 0, 0].numel()
    few = steps <= _FEW_POSITIONS or not explicit_is_better(steps, rows, weight[0].numel())
    if geometry.groups == 1 and (few or tape.many_passes):
        patches = tape.once(lambda: geometry.patches(inputs.flatten(0, 1)).mT.reshape(count, steps, -1))
        left = grads.flatten(3).transpose(2, 3).reshape(count, steps, rows)
        return tape.outer(left, patches, weight.shape)
    as_groups = [tensor.transpose(0, 1).flatten(1, 2) for tensor in (grads, inputs)]  # (entries, N * channels, *space)
    many = grads.new_empty(count * weight.shape[0], *weight.shape[1:])  # read for its shape alone
    options = (geometry.stride, geometry.padding, geometry.dilation, False, (0,) * len(geometry.kernel))
    _, found, _ = torch.ops.aten.convolution_backward(
        *as_groups, many, None, *options, count * geometry.groups, (False, True, False)
    )
    reach = frobenius(grads) * frobenius(inputs) * math.sqrt(weight[0, 0].numel())  # an input is in so many patches
    return tape.rows(Rows(found.view(count, *weight.shape), reach))
