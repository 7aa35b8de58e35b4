"""What certification takes of the machine: memory that is not there is named, and decides about no path."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sfumato import norms
from sfumato.base import BadInput


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
