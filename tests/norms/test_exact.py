"""What certification takes of the machine: memory that is not there is named, and decides about no path."""

import threading
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sfumato import norms
from sfumato.base import BadInput, Refused


class Greedy(nn.Module):
    """Runs out of memory as a device does: in one precision, or from some forward pass of several rows on."""

    def __init__(self, dtype: torch.dtype, after: int = 0) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 2)
        self._dtype, self._left = dtype, after

    def forward(self, x: Tensor) -> Tensor:
        if self.linear.weight.dtype == self._dtype and len(x) > 1:
            self._left -= 1
            if self._left < 0:
                raise torch.OutOfMemoryError("tried to allocate 40.00 GiB")
        return self.linear(x)


def loss_fn(model: Any, batch: dict[str, Tensor]) -> Tensor:
    return F.cross_entropy(model(batch["x"]), batch["y"], reduction="none")


@pytest.mark.parametrize(
    ("dtype", "after"),
    [(torch.float64, 0), (torch.float64, 2), *((torch.float32, after) for after in (0, 1, 3, 4, 5, 7, 9))],
)
def test_memory_that_is_not_there_is_named(dtype: torch.dtype, after: int) -> None:
    batch = {"x": torch.randn(8, 4), "y": torch.zeros(8, dtype=torch.long)}
    with pytest.raises(BadInput, match=r"ran out of memory with micro-batches of 8: .* Use a smaller micro-batch"):
        norms.prepare(Greedy(dtype, after), loss_fn, batch)


class Coupled(nn.Module):
    """Rows see a bounded statistic of the batch without a gradient, smaller than half precision shows."""

    def __init__(self, size: float, *, locked: bool = False, casts: bool = False, wide: bool = False) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 2)
        self._size, self._casts = size, casts
        if locked:
            self.lock = threading.Lock()
        if wide:
            self.scale = nn.Parameter(torch.ones(1, dtype=torch.float64), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        h = self.linear(x.to(self.linear.weight.dtype))
        h = h.bfloat16() if self._casts else h
        return (h * (1 + self._size * h.detach().nan_to_num(0.0, 1.0, -1.0).mean().tanh()) if self._size else h).float()


@pytest.mark.parametrize("more", [{}, {"locked": True}, {"casts": True}, {"wide": True}], ids=str)
def test_half_precision_hides_no_coupling(more: dict[str, bool]) -> None:
    batch = {"x": torch.randn(8, 4), "y": torch.zeros(8, dtype=torch.long)}
    model = Coupled(0.045, **more)
    model.linear.bfloat16()
    with pytest.raises(Refused, match=r"rows depend on each other|compared once more in a copy"):
        norms.prepare(model, loss_fn, batch)


@pytest.mark.parametrize("more", [{}, {"wide": True}], ids=str)
def test_half_precision_alone_is_no_reason(more: dict[str, bool]) -> None:
    batch = {"x": torch.randn(8, 4), "y": torch.zeros(8, dtype=torch.long)}
    model = Coupled(0.0, **more)
    model.linear.bfloat16()
    assert norms.prepare(model, loss_fn, batch).names == ("linear.weight", "linear.bias")
