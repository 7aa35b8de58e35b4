"""The pair unit against the published recipe written out, and what it does with rows that are not finite."""

from dataclasses import replace
from functools import partial
from typing import Any, Literal

import pytest
import torch
from tests.mechanisms.contrastive import KINDS, TwoTowers, batch_of, build, clip_with, cut, literal_pairs, of_towers
from torch import Tensor, nn

from sfumato.base import BadInput, Refused
from sfumato.plan import InfoNCE, Pair, Sigmoid, SpreadOut

LOSSES = {
    "infonce": InfoNCE(temperature=0.2),
    "one way": InfoNCE(temperature=0.5, symmetric=False),
    "sigmoid": Sigmoid(temperature=0.5, bias=-1.0),
    "spread-out": SpreadOut(),
}
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}
EVERY = [(kind, loss, dtype) for kind in KINDS for loss in LOSSES for dtype in TOLERANCE]


def unit_of(loss: str, clip_norm: float = 0.5, **options) -> Pair:
    return Pair(clip_norm=clip_norm, loss=LOSSES[loss], largest_draw=64, **options)


@pytest.mark.every(3)
@pytest.mark.parametrize(("kind", "loss", "dtype"), EVERY, ids=lambda value: str(value).split(".")[-1])
def test_one_backward_pass_equals_the_recipe(kind: str, loss: str, dtype: torch.dtype) -> None:
    model, embed = build(kind, dtype)
    unit, batch = unit_of(loss, 0.02 if kind == "vit, two views" else 0.5), batch_of(7, dtype)
    want = literal_pairs(model, embed, unit, batch)
    for size in (3, 7, 9) if dtype == torch.float64 else (3,):
        found = clip_with(model, embed, unit, cut(batch, size))
        assert (found.sums - want).norm() <= TOLERANCE[dtype] * want.norm()
    loose = literal_pairs(model, embed, replace(unit, clip_norm=1e9), batch)
    assert (loose - want).norm() > 0.01 * want.norm(), "a case in which nothing is clipped tests nothing"


@pytest.mark.parametrize("kind", ["conv and words", "conv, two views"])
def test_one_backward_pass_equals_the_recipe_for_many_rows(kind: str) -> None:
    model, embed = build(kind)
    unit, batch = unit_of("infonce"), batch_of(48)
    want = literal_pairs(model, embed, unit, batch)
    found = clip_with(model, embed, unit, cut(batch, 16))
    assert (found.sums - want).norm() <= 1e-10 * want.norm()


def test_triangle_bound_clips_a_shared_encoder_more_and_never_less() -> None:
    model, embed = build("conv, two views")
    batch = batch_of(6)
    exact = clip_with(model, embed, unit_of("infonce"), cut(batch, 6))
    bound = clip_with(model, embed, unit_of("infonce", norms="bound"), cut(batch, 6))
    assert bound.tally.num_clipped >= exact.tally.num_clipped
    assert not torch.allclose(bound.sums, exact.sums)
    loose = [clip_with(model, embed, unit_of("infonce", 1e6, norms=kind), cut(batch, 6)) for kind in ("exact", "bound")]
    assert torch.allclose(loose[0].sums, loose[1].sums)


def test_separate_towers_need_no_bound() -> None:
    model, embed = build("conv and words")
    batch = batch_of(6)
    both = [clip_with(model, embed, unit_of("infonce", norms=kind), cut(batch, 6)).sums for kind in ("exact", "bound")]
    assert torch.equal(*both)


@pytest.mark.parametrize("kind", ["conv and words", "conv, two views"])
@pytest.mark.parametrize("place", [0, 3, 6])
def test_a_row_that_is_not_finite_is_as_if_it_had_not_been_drawn(kind: str, place: int) -> None:
    model, embed = build(kind)
    batch, unit = batch_of(7), unit_of("infonce")
    spoilt = {name: value.clone() for name, value in batch.items()}
    spoilt["x"][place] = torch.nan
    rest = {name: torch.cat([value[:place], value[place + 1 :]]) for name, value in batch.items()}
    want = clip_with(model, embed, unit, cut(rest, 4)).sums
    found = clip_with(model, embed, unit, cut(spoilt, 4))
    assert (found.sums - want).norm() <= 1e-10 * want.norm()
    assert (found.tally.num_rows, found.tally.num_nonfinite) == (7, 1)


def test_a_whole_micro_batch_that_is_not_finite_contributes_nothing() -> None:
    model, embed = build("conv and words")
    batch, unit = batch_of(6), unit_of("infonce")
    spoilt = {name: value.clone() for name, value in batch.items()}
    spoilt["x"][:3] = torch.inf
    want = clip_with(model, embed, unit, cut({name: value[3:] for name, value in batch.items()}, 3)).sums
    found = clip_with(model, embed, unit, cut(spoilt, 3))
    assert (found.sums - want).norm() <= 1e-10 * want.norm()


def test_empty_draws_and_single_rows_give_zero() -> None:
    model, embed = build("conv and words")
    assert clip_with(model, embed, unit_of("infonce"), []).sums.abs().max() == 0
    assert clip_with(model, embed, unit_of("infonce"), cut(batch_of(1), 4)).sums.abs().max() <= 1e-12
    assert clip_with(model, embed, unit_of("spread-out"), cut(batch_of(1), 4)).sums.abs().max() == 0


def test_dropout_is_the_same_in_both_passes() -> None:
    model, embed = build("conv and words")
    assert isinstance(model, TwoTowers)
    plain = clip_with(model, embed, unit_of("infonce", 1e6), cut(batch_of(6), 6)).sums
    model.image = nn.Sequential(nn.Dropout(0.3), model.image)  # of the pixels
    torch.manual_seed(0)
    once = literal_pairs(model, embed, unit_of("infonce"), batch_of(6))
    found = clip_with(model, embed, unit_of("infonce"), cut(batch_of(6), 6))  # its chunk 0 is seeded with 0
    assert (found.sums - once).norm() <= 1e-10 * once.norm()
    assert not torch.allclose(plain, found.sums)


def test_what_the_plan_does_not_say_is_refused() -> None:
    model, embed = build("conv and words")
    with pytest.raises(BadInput, match=r"temperature 0\.2.*temperature 0\.7"):
        clip_with(model, embed, unit_of("infonce"), cut(batch_of(4), 4), loss=InfoNCE(temperature=0.7))
    with pytest.raises(Refused, match="log_scale"):
        clip_with(model, embed, unit_of("infonce"), cut(batch_of(4), 4), log_scale="log_scale")


def test_embeddings_without_unit_norm_are_refused() -> None:
    model, _ = build("conv and words")

    def raw(model, batch):
        return tuple(3 * x for x in of_towers(model, batch))

    with pytest.raises(Refused, match="unit norm"):
        clip_with(model, raw, unit_of("infonce"), cut(batch_of(4), 4))


def test_embeddings_that_look_at_other_rows_are_refused() -> None:
    model, _ = build("conv and words")

    def centred(model, batch):
        u, v = of_towers(model, batch)
        return nn.functional.normalize(u - u.mean(0), dim=1), v

    with pytest.raises(Refused, match="row"):
        clip_with(model, centred, unit_of("infonce"), cut(batch_of(4), 4))


@pytest.mark.parametrize("kind", ["exact", "bound"])
@pytest.mark.parametrize("length", [1e-3, 1e-7, 1e-9], ids=lambda length: f"length {length:g}")
@pytest.mark.parametrize("soft", [False, True], ids=["normalize", "soft norm"])
def test_what_cannot_be_measured_is_not_released(soft: bool, length: float, kind: Literal["exact", "bound"]) -> None:
    """An embedding that hangs on a tiny vector has a huge Jacobian, and rounding gives it a part along itself."""
    unit = Pair(clip_norm=1.0, loss=InfoNCE(temperature=0.5), norms=kind, largest_draw=8)

    def embed(model: Any, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        z = model(batch["x"])
        u = z / (z.norm(dim=1, keepdim=True) + 1e-6) if soft else nn.functional.normalize(z, dim=1)
        return u, u  # two equal views

    for trial in range(4):
        model, dim = nn.Linear(6, 2 + trial % 2, bias=False), 2 + trial % 2
        with torch.no_grad():
            model.weight.copy_(torch.eye(dim, 6))
        others = torch.tensor([[0.3, 1.0, 0.2, 0, 0, 0], [-1.0, 0.2, 0.4, 0, 0, 0]])
        record = torch.zeros(6)
        direction = torch.randn(dim, generator=torch.Generator().manual_seed(trial)) if trial else torch.eye(dim)[0]
        record[:dim] = length * nn.functional.normalize(direction, dim=0)
        record[4] = 1000.0  # what the Jacobian is multiplied by
        without = clip_with(model, embed, unit, cut({"x": others}, 4)).sums
        joined = clip_with(model, embed, unit, cut({"x": torch.cat([others, record[None]])}, 4)).sums
        assert (joined - without).norm() <= unit.presence


def test_low_precision_is_refused() -> None:
    model, embed = build("conv and words", torch.float32)
    batches = cut(batch_of(4, torch.float32), 4)
    half = partial(torch.autocast, "cpu", dtype=torch.bfloat16)
    for changes, words in (({"autocast": half}, "autocast is on"), ({"loss_scale": 2.0}, "loss_scale is 1")):
        with pytest.raises(Refused, match=words):
            clip_with(model, embed, unit_of("infonce"), batches, computing=changes)
    assert isinstance(model, TwoTowers)
    model.text.requires_grad_(False).bfloat16()
    with pytest.raises(Refused, match=r"text\.\S+ is stored in half precision"):
        clip_with(model, embed, unit_of("infonce"), batches)


@pytest.mark.parametrize("tower", ["image", "text"])
def test_a_tower_may_be_frozen(tower: str) -> None:
    model, embed = build("conv and words")
    getattr(model, tower).requires_grad_(False)
    batch = batch_of(6)
    want = literal_pairs(model, embed, unit_of("infonce"), batch)
    found = clip_with(model, embed, unit_of("infonce"), cut(batch, 4))
    assert (found.sums - want).norm() <= 1e-10 * want.norm()
