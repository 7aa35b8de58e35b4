"""A record whose loss is finite and whose gradient is not, among records with rows that are not finite: it must not
take their contributions with it.
"""

import pytest
import torch
from torch import Tensor, nn

import sfumato as sf
from sfumato.mechanisms import Computation, MeasureOnce, MicroBatch, Ranks, clip_batch, clip_factor
from sfumato.plan import Unit

GOOD, OTHER, BAD = torch.tensor([1.0, 2, 3, 4]), torch.tensor([-1.0, 2, 0, 1]), torch.full((4,), torch.nan)
SPOILER = torch.zeros(4)  # the square root of 0 is finite, its derivative is not


class Towers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.image, self.text = nn.Linear(4, 3, bias=False), nn.Linear(4, 3, bias=False)


def unit_rows(rows: Tensor) -> Tensor:
    return rows / rows.square().sum(1, keepdim=True).sqrt().clamp(min=1e-6)


def norms(model: nn.Module, batch: Tensor) -> Tensor:
    return 5 * (model.image(batch) + model.text(batch)).square().sum(1).sqrt()


PAIRS = sf.Contrast(
    embed=lambda model, batch: (unit_rows(model.image(batch)), unit_rows(model.text(batch))),
    loss=sf.InfoNCE(temperature=0.1),
)


def clipped_sum(unit: Unit, loss_fn: object, rows: list[Tensor], ids: list[int], size: int) -> Tensor:
    torch.manual_seed(0)
    computation = Computation(model=Towers(), loss_fn=loss_fn)  # pyright: ignore[reportArgumentType]
    filling = size - len(rows)
    groups = torch.tensor([*ids, *[-1] * filling])
    records = groups if isinstance(unit, sf.Example) else torch.where(groups < 0, groups, torch.arange(size))
    micro_batch = MicroBatch(
        batch=torch.stack([*rows, *[rows[0]] * filling]), valid=torch.arange(size) < len(rows), groups=groups,
        records=records,
    )  # fmt: skip
    found, _ = clip_batch(
        computation, [micro_batch], unit, clip_factor(unit), measure=MeasureOnce(computation),
        reduce=lambda flat: None, reseed=lambda chunk: None, ranks=Ranks(), batch_size=8.0,
    )  # fmt: skip
    return torch.cat([part.flatten() for part in found.sums.values()])


@pytest.mark.parametrize("honest", [8, 16])
@pytest.mark.parametrize(
    ("unit", "loss_fn", "rows", "joining"),
    [
        (sf.Example(clip_norm=1.0, views=2), norms, [GOOD, BAD], [SPOILER, SPOILER]),
        (sf.Group(clip_norm=0.1, num_groups=20), norms, [GOOD, BAD], [SPOILER]),
        (sf.Group(clip_norm=0.1, num_groups=20), PAIRS, [GOOD, OTHER, BAD], [SPOILER]),
    ],
    ids=["records of two views", "groups of rows", "groups of pairs"],
)
def test_one_record_takes_no_other_with_it(
    unit: Unit, loss_fn: object, rows: list[Tensor], joining: list[Tensor], honest: int
) -> None:
    ids = [group for group in range(1, honest + 1) for _ in rows]
    size = len(ids) + 4
    without = clipped_sum(unit, loss_fn, rows * honest, ids, size)
    joined = clipped_sum(unit, loss_fn, [*joining, *rows * honest], [*[0] * len(joining), *ids], size)
    assert without.norm() > 3 * unit.presence, "or there would be nothing to lose"
    assert (joined - without).norm() <= unit.presence


@pytest.mark.parametrize("loss_fn", [norms, PAIRS], ids=["rows", "pairs"])
def test_a_group_without_a_fit_row_is_left_out_alone(loss_fn: object) -> None:
    unit = sf.Group(clip_norm=0.1, num_groups=20)
    rows, ids = [GOOD, OTHER] * 3, [0, 0, 1, 1, 2, 2]
    want = clipped_sum(unit, loss_fn, rows[2:], ids[2:], 8)
    found = clipped_sum(unit, loss_fn, [BAD, BAD, *rows[2:]], ids, 8)
    assert torch.equal(found, want)
