"""The benchmark of a step measures what it says, on a model small enough for a test. No time is asserted."""

import importlib
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from sfumato.mechanisms.clip import MARGIN

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def step_time(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("step_time")


@pytest.fixture
def case(step_time: Any) -> Any:
    return step_time.Case(
        about="one layer",
        rows=8,
        build=lambda: nn.Linear(6, 4),
        loss_fn=lambda model, batch: model(batch["x"]).square().sum(1),
        batch=lambda rows: {"x": torch.randn(rows, 6)},
    )


def test_all_sides_of_sfumato_are_timed_and_counted(step_time: Any, case: Any) -> None:
    sides = [*step_time.OURS, *step_time.LOGICAL]
    found = step_time.measure(case, sides, repeats=2)
    assert found["failed"] == {}
    assert set(found["seconds_median"]) == set(sides)
    assert all(seconds > 0 for seconds in found["seconds_median"].values())
    assert found["ratio_median"]["non-private"] == 1.0
    # forward and weight gradient, (8, 6) by (6, 4) each; the input needs no gradient
    assert found["operations"]["non-private"] == 2 * (2 * 8 * 6 * 4)
    found["peak_bytes"] = {}
    assert "arithmetic floor" in step_time.table("one", found)


def test_the_private_side_updates_by_the_clipped_sum(step_time: Any, case: Any) -> None:
    bench = step_time.Bench(case)
    step = step_time.SIDES["private"](bench)
    clipped = {name: torch.zeros_like(value) for name, value in bench.model.named_parameters()}
    for loss in bench.losses():  # the definition: one gradient per row, each scaled below norm 1
        row = dict(zip(clipped, torch.autograd.grad(loss, list(bench.model.parameters()), retain_graph=True)))
        norm = torch.sqrt(sum((gradient.square().sum() for gradient in row.values()), torch.zeros(())))
        for name, gradient in row.items():
            clipped[name] += gradient * min(1.0, (1.0 - MARGIN) / norm.item())
    before = {name: value.detach().clone() for name, value in bench.model.named_parameters()}
    bench.optimizer = torch.optim.SGD(bench.model.parameters(), lr=1.0)
    step()
    for name, value in bench.model.named_parameters():
        torch.testing.assert_close(before[name] - value.detach(), clipped[name], rtol=1e-5, atol=1e-6)


def test_a_grouped_convolution_counts_its_own_products_only(step_time: Any) -> None:
    x = torch.randn(2, 6, 8, 8, requires_grad=True)
    layer = nn.Conv2d(6, 9, 3, padding=1, groups=3, bias=False)
    products = 2 * 9 * 8 * 8 * (6 // 3) * 9
    assert step_time.operations(lambda: layer(x).sum().backward()) == 3 * 2 * products  # forward and two gradients


def test_a_side_of_sfumato_that_fails_is_an_error(step_time: Any, case: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(bench: Any) -> Any:
        raise RuntimeError("broken")

    monkeypatch.setitem(step_time.SIDES, "private", broken)
    with pytest.raises(RuntimeError, match="broken"):
        step_time.sides_of(case, ["private"])
    monkeypatch.setitem(step_time.SIDES, "opacus hooks", broken)
    assert step_time.sides_of(case, ["opacus hooks"]) == ({}, {"opacus hooks": "RuntimeError: broken"})
