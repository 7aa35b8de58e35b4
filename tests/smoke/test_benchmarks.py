"""The benchmarks measure what they say, on models small enough for a test. No time is asserted."""

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
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


class Towers(nn.Module):
    """Two linear towers and the learned scale that the coupled sides have."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(6, 4), nn.Linear(6, 4)
        self.logit_scale = nn.Parameter(torch.tensor(1.0))


def of_towers(model: Any, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    return F.normalize(model.one(batch["x"]), dim=1), F.normalize(model.two(batch["y"]), dim=1)


@pytest.fixture
def coupled(step_time: Any) -> Any:
    return step_time.Case(
        about="two layers",
        rows=8,
        build=Towers,
        loss_fn=lambda model, batch: batch["x"].sum(1),
        batch=lambda rows: {"x": torch.randn(rows, 6), "y": torch.randn(rows, 6)},
        embed=of_towers,
        group_rows=2,
    )


def test_groups_and_batches_are_compared_with_the_same_negatives(step_time: Any, coupled: Any) -> None:
    sides = [*step_time.COUPLED]
    found = step_time.measure(coupled, sides, repeats=2)
    assert found["failed"] == {}
    assert set(found["seconds_median"]) == set(sides)
    assert found["base"]["group"] == "non-private groups"
    assert found["base"]["batch"] == "non-private batch"
    found["peak_bytes"] = {}
    assert "non-private batch, parts" in step_time.table("two", found)


@pytest.mark.parametrize("side", ["group", "batch", "batch, parts"])
def test_a_coupled_side_without_clipping_is_its_base(
    step_time: Any, coupled: Any, side: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("_step_coupled.CLIP_NORM", 1e6)

    def moved(name: str) -> torch.Tensor:
        bench = step_time.Bench(coupled)
        bench.optimizer = torch.optim.SGD(bench.model.parameters(), lr=1.0)
        before = nn.utils.parameters_to_vector(bench.model.parameters()).detach().clone()
        step_time.SIDES[name](bench)()
        return nn.utils.parameters_to_vector(bench.model.parameters()).detach() - before

    torch.testing.assert_close(moved(side), moved(step_time.base_of(side)), rtol=1e-4, atol=1e-6)


@pytest.fixture
def pairs(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("pairs")


def test_the_recipe_is_the_exact_pair_unit_and_clips(pairs: Any) -> None:
    cell = pairs.Cell(model="conv", num_rows=6, dim=4)
    found = pairs.measure(cell, [*pairs.SIDES], repeats=1, limit=60.0)
    assert found["agreement"]["recipe, torch"] < pairs.AGREEMENT["conv"]
    assert set(found["seconds_median"]) == set(pairs.SIDES)
    plain, exact = (pairs.SIDES[name](pairs.Bench(cell))() for name in ("non-private", "exact"))
    assert pairs.distance(exact, plain) > 0.01, "a benchmark in which nothing is clipped compares nothing"


def test_another_gradient_than_the_recipes_is_an_error(pairs: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(pairs.SIDES, "exact", pairs.SIDES["non-private"])
    with pytest.raises(SystemExit, match="not the same gradient"):
        pairs.measure(pairs.Cell(model="conv", num_rows=4, dim=4), ["exact", "recipe, torch"], 1, 60.0)


def test_a_recipe_that_takes_too_long_is_not_run(pairs: Any) -> None:
    sides = ["non-private", "bound", "recipe, torch"]
    found = pairs.measure(pairs.Cell(model="conv", num_rows=4, dim=4), sides, repeats=1, limit=0.0)
    assert set(found["seconds_median"]) == {"non-private", "bound"}
    assert found["left_out"]["recipe, torch"].startswith("not run")
    found["peak_bytes"] = {}
    assert "not run" in pairs.table(pairs.Cell(model="conv", num_rows=4, dim=4), found)


def test_pairs_quick_runs_from_the_command_line(
    pairs: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["pairs.py", "--quick", "--no-jax"])
    monkeypatch.setattr(pairs, "child", in_this_process)
    pairs.main()
    assert "exact and recipe, torch differ" in capsys.readouterr().out


def in_this_process(job: str, cell: Any, options: Any, *sides: str) -> Any:
    """A fresh process takes seconds to begin; what it prints is JSON."""
    pairs = importlib.import_module("pairs")
    found = pairs.measure(cell, [*sides], options.repeats, 60.0) if job == "time" else pairs.peak(cell, sides[0])
    return json.loads(json.dumps(found))
