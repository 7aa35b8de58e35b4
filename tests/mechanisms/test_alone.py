"""A row that the joint pass does not take moves no other row, not even by what half precision rounds."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sfumato as sf
from sfumato.mechanisms import Computation, MeasureOnce, MicroBatch, Ranks, clip_batch, clip_factor

SIZE, RARE = 24, 77


class Looks(nn.Module):
    """A rare number makes a row look at the next one, where there is one; or its backward pass fails."""

    def __init__(self, *, fails: bool) -> None:
        super().__init__()
        self.first, self.second, self.out = nn.Linear(40, 64), nn.Linear(64, 64), nn.Linear(64, 1)
        self._fails = fails

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        rare = batch["kind"] == RARE
        own = torch.arange(len(rare))
        h = self.first(batch["x"].to(self.first.weight.dtype))
        if self._fails:
            h.register_hook(lambda grad: torch._assert_async(~rare.any()))
        else:
            h = h[torch.where(rare & (own + 1 < len(rare)), own + 1, own)]
        return self.out(self.second(h.tanh()).tanh())[:, 0].float() * 10


def half() -> AbstractContextManager:
    return torch.autocast("cpu", torch.bfloat16)


@pytest.mark.parametrize("fails", [False, True], ids=["looks at a neighbour", "fails in the backward pass"])
@pytest.mark.parametrize("autocast", [None, half], ids=["bfloat16 weights", "autocast"])
def test_others_stay_in_the_joint_pass(autocast: Callable[[], AbstractContextManager] | None, fails: bool) -> None:
    torch.manual_seed(0)
    model = Looks(fails=fails)
    model = model.bfloat16() if autocast is None else model
    computation = Computation(model=model, loss_fn=lambda model, batch: model(batch), autocast=autocast)
    batch = {"x": torch.randn(1, 40).expand(SIZE, 40).clone(), "kind": torch.zeros(SIZE, dtype=torch.long)}
    rare = {"x": batch["x"].clone(), "kind": torch.where(torch.arange(SIZE) == 1, RARE, 0)}
    unit = sf.Example(clip_norm=1.0)
    measure = MeasureOnce(computation)
    every = torch.ones(SIZE, dtype=torch.bool)
    measure.before(1, MicroBatch(batch=batch, valid=every))

    def clipped(rows: Any, valid: Tensor) -> tuple[Tensor, Any]:
        found, tally = clip_batch(
            computation, [MicroBatch(batch=rows, valid=valid)], unit, clip_factor(unit), measure=measure,
            reduce=lambda flat: None, reseed=lambda chunk: None, ranks=Ranks(), batch_size=float(SIZE),
        )  # fmt: skip
        return torch.cat([part.flatten() for part in found.sums.values()]), tally

    without, _ = clipped(batch, torch.arange(SIZE) != 1)
    found, tally = clipped(rare, every)
    assert tally.num_alone == 1
    assert tally.num_failed == int(fails)
    assert float((found - without).norm()) <= (1e-6 if fails else unit.presence)
