"""The group unit against a loop over groups: in one micro-batch, in parts, with views, with rows that are not
finite.
"""

from dataclasses import replace

import pytest
import torch
from tests.mechanisms.contrastive import KINDS, batch_of, build, clip_with, cut, literal_groups, of_towers
from tests.mechanisms.contrastive import flat as flattened

from sfumato.base import BadInput, Refused
from sfumato.losses import Contrast
from sfumato.mechanisms import Computation, MeasureOnce, Ranks, clip_examples, clip_groups, flat
from sfumato.mechanisms.group import sizes_of
from sfumato.plan import Example, Group, InfoNCE, Sigmoid, SpreadOut

LOSSES = {
    "infonce": InfoNCE(temperature=0.2),
    "sigmoid": Sigmoid(temperature=0.5, bias=-1.0),
    "spread-out": SpreadOut(),
}
C = 0.3
UNIT = Group(clip_norm=C, num_groups=4)
GROUPS = torch.tensor([0, 0, 0, 1, 2, 2, 3, 3])  # unequal sizes, one of them a single row
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}
EVERY = [(kind, loss, dtype) for kind in KINDS for loss in LOSSES for dtype in TOLERANCE]


@pytest.mark.every(3)
@pytest.mark.parametrize(("kind", "loss", "dtype"), EVERY, ids=lambda value: str(value).split(".")[-1])
def test_groups_of_one_micro_batch_equal_a_loop(kind: str, loss: str, dtype: torch.dtype) -> None:
    model, embed = build(kind, dtype)
    batch, unit = batch_of(8, dtype), Group(clip_norm=0.01 if kind == "vit, two views" else C, num_groups=4)
    want = literal_groups(model, embed, LOSSES[loss], unit.clip_norm, batch, GROUPS)
    for size in (8, 11):
        found = clip_with(model, embed, unit, cut(batch, size, GROUPS), loss=LOSSES[loss])
        assert (found.sums - want).norm() <= TOLERANCE[dtype] * want.norm()
    assert found.tally.num_clipped > 0


@pytest.mark.parametrize("kind", KINDS)
def test_groups_in_parts_equal_a_loop(kind: str) -> None:
    model, embed = build(kind)
    batch = batch_of(8)
    groups = torch.tensor([0, 0, 0, 0, 0, 0, 2, 2])
    want = literal_groups(model, embed, LOSSES["infonce"], C, batch, groups)
    parts = [
        part
        for group in (0, 2)
        for part in cut({n: v[groups == group] for n, v in batch.items()}, 2, groups[groups == group], in_parts=True)
    ]
    found = clip_with(model, embed, UNIT, parts, loss=LOSSES["infonce"])
    assert (found.sums - want).norm() <= 1e-10 * want.norm()


def test_one_group_is_batch_clipping_however_it_is_cut() -> None:
    model, embed = build("conv and words")
    batch, groups = batch_of(9), torch.zeros(9, dtype=torch.int64)
    unit = Group(clip_norm=C, num_groups=1)
    want = literal_groups(model, embed, LOSSES["infonce"], C, batch, groups)
    assert float(want.norm()) == pytest.approx(C, rel=2e-3)
    for size, in_parts in ((9, False), (12, False), (4, True), (1, True)):
        found = clip_with(model, embed, unit, cut(batch, size, groups, in_parts), loss=LOSSES["infonce"])
        assert (found.sums - want).norm() <= 1e-10 * want.norm()


@pytest.mark.parametrize("in_parts", [False, True], ids=["whole", "in parts"])
@pytest.mark.parametrize("place", [0, 1, 3])
def test_a_row_that_is_not_finite_leaves_its_group(place: int, in_parts: bool) -> None:
    model, embed = build("conv and words")
    batch, groups = batch_of(4), torch.zeros(4, dtype=torch.int64)
    spoilt = {name: value.clone() for name, value in batch.items()}
    spoilt["x"][place] = torch.nan
    rest = {name: torch.cat([value[:place], value[place + 1 :]]) for name, value in batch.items()}
    want = literal_groups(model, embed, LOSSES["infonce"], C, rest, groups[:3])
    size = 2 if in_parts else 6
    found = clip_with(model, embed, UNIT, cut(spoilt, size, groups, in_parts), loss=LOSSES["infonce"])
    assert (found.sums - want).norm() <= 1e-10 * want.norm()
    assert (found.tally.num_rows, found.tally.num_nonfinite) == (4, 1)


def test_nothing_finite_gives_zero() -> None:
    model, embed = build("conv and words")
    batch = batch_of(3)
    batch["x"][:] = torch.nan
    groups = torch.zeros(3, dtype=torch.int64)
    for size, in_parts in ((4, False), (2, True)):
        found = clip_with(model, embed, UNIT, cut(batch, size, groups, in_parts), loss=LOSSES["infonce"])
        assert found.sums.abs().max() == 0
    assert clip_with(model, embed, UNIT, []).sums.abs().max() == 0


def test_views_of_one_record_are_no_negatives_of_each_other() -> None:
    """Two records with two views each: every row meets the rows of the other record, and itself."""
    model, embed = build("conv and words")
    batch = batch_of(4)
    one = cut(batch, 4, torch.zeros(4, dtype=torch.int64))[0]
    viewed = replace(one, records=torch.tensor([0, 0, 1, 1]))
    found = clip_with(model, embed, Group(clip_norm=1e6, num_groups=1), [viewed], loss=LOSSES["infonce"])
    u, v = of_towers(model, batch)
    z = u @ v.mT / 0.2
    mask = torch.tensor([[1, 0, 1, 1], [0, 1, 1, 1], [1, 1, 1, 0], [1, 1, 0, 1]]).bool()
    logits = z.masked_fill(~mask, -torch.inf)
    loss = 0.5 * (logits.logsumexp(1) + logits.logsumexp(0) - 2 * z.diagonal()).mean()
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    grads = dict(zip(parameters, torch.autograd.grad(loss, list(parameters.values())), strict=True))
    want = torch.cat([grads[name].flatten() for name in sorted(grads)])
    assert (found.sums - want).norm() <= 1e-10 * want.norm()


def test_a_learned_scale_is_clipped_with_the_rest_and_bounded() -> None:
    model, embed = build("conv and words")
    model.get_parameter("log_scale").requires_grad_(True)
    batch, groups = batch_of(4), torch.zeros(4, dtype=torch.int64)
    loss = InfoNCE(temperature=1.0)
    found = clip_with(
        model, embed, Group(clip_norm=1e6, num_groups=1), cut(batch, 4, groups), loss, log_scale="log_scale"
    )
    u, v = of_towers(model, batch)
    z = u @ v.mT * model.get_parameter("log_scale").exp()
    value = 0.5 * (z.logsumexp(1) + z.logsumexp(0) - 2 * z.diagonal()).mean()
    (want,) = torch.autograd.grad(value, model.get_parameter("log_scale"))
    assert float(found.clipped.sums["log_scale"]) == pytest.approx(float(want), rel=1e-9)
    bounded = clip_with(model, embed, UNIT, cut(batch, 4, groups), loss, log_scale="log_scale", largest_scale=1.0)
    assert float(bounded.clipped.sums["log_scale"]) == 0.0


def test_micro_batches_without_groups_or_out_of_order_are_named() -> None:
    model, embed = build("conv and words")
    with pytest.raises(BadInput, match="name the group of each"):
        clip_with(model, embed, UNIT, cut(batch_of(4), 4))
    with pytest.raises(BadInput, match="side by side"):
        clip_with(model, embed, UNIT, cut(batch_of(4), 4, torch.tensor([0, 1, 0, 1])))


@pytest.mark.parametrize("clip_norm", [C, 1e6], ids=["clipped", "free"])
@pytest.mark.parametrize("in_parts", [False, True], ids=["whole", "in parts"])
def test_a_scale_of_the_loss_is_divided_out_before_clipping(in_parts: bool, clip_norm: float) -> None:
    model, embed = build("conv and words")
    batch, groups = batch_of(4), torch.zeros(4, dtype=torch.int64)
    want = literal_groups(model, embed, LOSSES["infonce"], clip_norm, batch, groups)
    computation = Computation(model=model, loss_fn=Contrast(embed=embed, loss=LOSSES["infonce"]), loss_scale=64.0)
    clipped, _ = clip_groups(
        computation,
        cut(batch, 2 if in_parts else 4, groups, in_parts),
        Group(clip_norm=clip_norm, num_groups=1),
        flat(clip_norm),
        measure=MeasureOnce(computation),
        reduce=lambda flat: None,
        reseed=lambda chunk: None,
        ranks=Ranks(),
    )
    assert (flattened(clipped.sums) - want).norm() <= 1e-10 * want.norm()


def test_coupled_rows_are_refused_under_the_example_unit() -> None:
    model, embed = build("conv and words")
    contrast = Contrast(embed=embed, loss=LOSSES["infonce"])
    with pytest.raises(Refused, match="Group or Pair"):
        clip_examples(
            Computation(model=model, loss_fn=contrast), cut(batch_of(4), 4), Example(clip_norm=1.0), flat(1.0)
        )


@pytest.mark.parametrize(
    ("groups", "size", "want"),
    [
        ([0, 0, 0, 1], 12, [3, 1, 3, 3, 2]),
        ([0, 0, 1, 1], 8, [2, 2, 2, 2]),
        ([5], 4, [1, 1, 1, 1]),
        ([0, 0], 2, [2]),
    ],
)
def test_padding_is_cut_into_groups_no_larger_than_the_others(groups: list[int], size: int, want: list[int]) -> None:
    """As one group it would set the size that all others are filled up to."""
    (micro_batch,) = cut(batch_of(len(groups)), size, torch.tensor(groups))
    sizes, used = sizes_of(micro_batch)
    assert sizes == want
    assert int(used.sum()) == len(set(groups))
    assert used.tolist() == sorted(used.tolist(), reverse=True)
