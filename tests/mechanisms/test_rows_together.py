"""Losses of one value per row whose rows are clipped together: groups, and records of several rows; against a loop."""

import pytest
import torch
from tests.mechanisms.contrastive import batch_of, build, cut, flat
from torch import Tensor, nn

from sfumato.base import BadInput, Refused
from sfumato.mechanisms import Computation, MeasureOnce, MicroBatch, Ranks, Tally, clip_batch, clip_factor
from sfumato.plan import Example, Group, Unit

C = 0.05
OWNERS = torch.tensor([4, 4, 4, 9, 2, 2, 7, 7])  # unequal numbers of rows: some could not be read


def losses(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return model.image(batch["x"]).square().sum(1) + model.text(batch["ids"]).sin().sum(1)


def clipped(
    unit: Unit, micro_batches: list[MicroBatch], model: nn.Module, loss_scale: float = 1.0
) -> tuple[Tensor, Tally]:
    computation = Computation(model=model, loss_fn=losses, loss_scale=loss_scale)
    found, tally = clip_batch(
        computation, micro_batches, unit, clip_factor(unit), measure=MeasureOnce(computation),
        reduce=lambda flat: None, reseed=lambda chunk: None, ranks=Ranks(), batch_size=8.0,
    )  # fmt: skip
    return flat(found.sums), tally


def literal(model: nn.Module, batch: dict[str, Tensor], groups: Tensor, drop: int | None = None) -> Tensor:
    """sum over groups of the clipped gradient of the mean loss of their rows; a dropped row counts as zero."""
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    total: Tensor = torch.zeros(())
    for group in groups.unique().tolist():
        own = [row for row in (groups == group).nonzero().squeeze(1).tolist() if row != drop]
        count = int((groups == group).sum())
        if not own:
            continue
        value = losses(model, {name: part[own] for name, part in batch.items()}).sum() / count
        grads = torch.autograd.grad(value, list(parameters.values()), allow_unused=True)
        found = {
            n: torch.zeros_like(p) if g is None else g for (n, p), g in zip(parameters.items(), grads, strict=True)
        }
        gradient = flat(found)
        total = total + gradient * min(1.0, C * (1 - 1e-3) / float(gradient.norm()))
    return total


@pytest.mark.parametrize("size", [8, 11])
@pytest.mark.parametrize(
    "unit", [Group(clip_norm=C, num_groups=10), Example(clip_norm=C, views=3)], ids=["groups", "records"]
)
def test_rows_of_one_micro_batch_equal_a_loop(unit: Unit, size: int) -> None:
    model, _ = build("conv and words")
    batch = batch_of(8)
    want = literal(model, batch, OWNERS)
    for scale in (1.0, 64.0):
        found, tally = clipped(unit, cut(batch, size, OWNERS), model, scale)
        assert (found - want).norm() <= 1e-10 * want.norm()
    assert tally.num_rows == 8
    assert tally.num_clipped > 0


@pytest.mark.parametrize("size", [9, 12, 4, 1])
def test_batch_clipping_is_one_group_however_it_is_cut(size: int) -> None:
    model, _ = build("conv and words")
    batch, groups = batch_of(9), torch.zeros(9, dtype=torch.int64)
    want = literal(model, batch, groups)
    assert float(want.norm()) == pytest.approx(C, rel=2e-3)
    for scale in (1.0, 64.0):
        unit = Group(clip_norm=C, num_groups=1)
        found, tally = clipped(unit, cut(batch, size, groups, in_parts=size < 9), model, scale)
        assert (found - want).norm() <= 1e-10 * want.norm()
        assert tally.loss_sum == pytest.approx(float(losses(model, batch).mean().detach()))


@pytest.mark.parametrize("in_parts", [False, True], ids=["whole", "in parts"])
@pytest.mark.parametrize("place", [0, 2, 3])
def test_a_row_that_is_not_finite_counts_as_zero(place: int, in_parts: bool) -> None:
    model, _ = build("conv and words")
    batch, groups = batch_of(4), torch.zeros(4, dtype=torch.int64)
    want = literal(model, batch, groups, drop=place)
    batch["x"][place] = torch.nan
    unit = Group(clip_norm=C, num_groups=1)
    found, tally = clipped(unit, cut(batch, 2 if in_parts else 6, groups, in_parts), model)
    assert (found - want).norm() <= 1e-10 * want.norm()
    assert (tally.num_rows, tally.num_nonfinite) == (4, 1)


def test_a_record_without_a_finite_row_gives_nothing() -> None:
    model, _ = build("conv and words")
    batch = batch_of(8)
    want = literal(model, {n: v[3:] for n, v in batch.items()}, OWNERS[3:])
    batch["x"][:3] = torch.nan
    found, tally = clipped(Example(clip_norm=C, views=3), cut(batch, 8, OWNERS), model)
    assert (found - want).norm() <= 1e-10 * want.norm()
    assert tally.num_nonfinite == 3
    batch["x"][:] = torch.nan
    for unit, parts in ((Example(clip_norm=C, views=3), False), (Group(clip_norm=C, num_groups=1), True)):
        none, _ = clipped(unit, cut(batch, 4, torch.zeros(8, dtype=torch.int64), parts), model)
        assert none.abs().max() == 0


def test_micro_batches_must_name_the_records() -> None:
    model, _ = build("conv and words")
    with pytest.raises(BadInput, match="name the group of each"):
        clipped(Example(clip_norm=C, views=2), cut(batch_of(4), 4), model)


def test_the_loss_must_be_one_value_per_row() -> None:
    model, _ = build("conv and words")
    computation = Computation(model=model, loss_fn=lambda model, batch: losses(model, batch).mean())
    unit = Group(clip_norm=C, num_groups=1)
    with pytest.raises(Refused, match="one value per example"):
        clip_batch(
            computation, cut(batch_of(4), 2, torch.zeros(4, dtype=torch.int64), True), unit, clip_factor(unit),
            measure=MeasureOnce(computation), reduce=lambda flat: None, reseed=lambda chunk: None, ranks=Ranks(),
            batch_size=4.0,
        )  # fmt: skip
