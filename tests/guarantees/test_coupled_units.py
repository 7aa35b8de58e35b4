"""The promises of groups and pairs, through the real loader and step; and each check seen to fail on a broken copy."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from tests.guarantees import bugs, coupled
from tests.guarantees.coupled import CLIP_NORM, contrast, embed, hostile_rows, make_towers
from tests.guarantees.harness import make_row
from torch import Tensor

import sfumato as sf
from sfumato.mechanisms import Computation, MeasureOnce, MicroBatch, Ranks, clip_batch, clip_factor
from sfumato.plan import Group, InfoNCE, Pair
from sfumato.train import World
from sfumato.train.keys import Keys
from sfumato.train.shares import Shares

# ---------------------------------------------------------------- deliberate bugs


def groups_noised_for_one_clip_norm(patch: Any) -> None:
    """Naive-DP: a clipped batch or group is taken to move by C."""
    patch.setattr(Group, "presence", property(lambda unit: unit.clip_norm))
    patch.setattr(Group, "swap", property(lambda unit: unit.clip_norm))


def temperature_forgotten(patch: Any) -> None:
    """The public code of Logit-DP: gradients are divided by tau after clipping, the bound is not."""
    for name in ("joining", "exchanging"):
        real = getattr(InfoNCE, name)
        patch.setattr(InfoNCE, name, lambda loss, n, real=real: real(loss, n) * loss.temperature * 0.05)


def pairs_not_clipped(patch: Any) -> None:
    real = sf.Contrast.weights

    def weights(*args: Any) -> tuple[Tensor, Tensor]:
        derivative, losses = real(*args)
        return derivative * 1e4, losses

    patch.setattr(sf.Contrast, "weights", weights)


TABLE = [
    (groups_noised_for_one_clip_norm, coupled.batch_clipping),
    (groups_noised_for_one_clip_norm, coupled.small_groups),
    (groups_noised_for_one_clip_norm, coupled.groups_of_views),
    (groups_noised_for_one_clip_norm, coupled.rows_in_groups),
    (bugs.clip_skipped, coupled.rows_in_groups),
    (bugs.clip_skipped, coupled.batch_clipping),
    (bugs.clip_skipped, coupled.small_groups),
    (temperature_forgotten, coupled.pairs),
    (pairs_not_clipped, coupled.pairs),
    (pairs_not_clipped, coupled.pairs_at_fixed_size),
]


@pytest.mark.parametrize("check", coupled.CHECKS, ids=lambda check: check.__name__)
def test_neighbours_stay_within_the_declared_distances(check, tmp_path):
    check(tmp_path)


@pytest.mark.every(2)
@pytest.mark.parametrize(("bug", "check"), TABLE, ids=lambda part: part.__name__)
def test_the_check_sees_the_bug(bug, check, tmp_path, monkeypatch):
    bug(monkeypatch)
    with pytest.raises(AssertionError, match="moved by"):
        check(tmp_path)


def test_every_check_has_been_seen_to_fail():
    assert set(coupled.CHECKS) == {check for _, check in TABLE}


# ---------------------------------------------------------------- ids of groups


class Given:
    """A sampler that draws what it is told to."""

    def __init__(self, sampler: Any, drawn: list[int]) -> None:
        self.sampler, self.drawn = sampler, drawn

    def __getattr__(self, name: str) -> Any:
        return getattr(self.sampler, name)

    def draw(self, key: bytes, num_records: int) -> np.ndarray:
        return np.array(self.drawn)


def ids(drawn: list[int], step: int = 0, micro_batch_size: int = 4) -> dict[int, int]:
    """The group of each drawn record, as the loader's shares say."""
    plan = sf.Plan(
        unit=Group(clip_norm=1.0, num_groups=5),
        sampler=sf.Poisson(num_records=100, expected_batch_size=10),
        steps=9,
        noise_multiplier=1.0,
    )
    object.__setattr__(plan, "sampler", Given(plan.sampler, drawn))
    shares = Shares(
        plan=plan, world=World(), owners=None, num_records=100, micro_batch_size=micro_batch_size,
        keys=Keys(seed=bytes(32), fingerprint="f", attempt=0), first_step=step,
    )  # fmt: skip
    return {request.row: request.group for requests in first_step(shares) for request in requests}


def first_step(shares: Shares) -> Iterator[list[Any]]:
    for requests in shares:
        if not requests:
            return
        yield requests


def others_keep_their_groups(assign: Any) -> None:
    everyone = list(range(0, 60, 3))
    before = assign(everyone)
    for place in (0, 7, len(everyone) - 1):
        without = assign(everyone[:place] + everyone[place + 1 :])
        moved = [record for record in without if without[record] != before[record]]
        assert not moved, f"{len(moved)} others change their group when a record leaves"


def test_a_record_that_joins_moves_no_other_record():
    others_keep_their_groups(ids)
    assert ids([1, 2, 3]) != ids([1, 2, 3], step=1), "fresh in every step"
    counts = np.bincount(list(ids(list(range(100))).values()), minlength=5)
    assert counts.min() > 5, "all groups are used"


def test_groups_by_position_are_seen_to_break_it():
    def chunks(drawn: list[int]) -> dict[int, int]:
        order = np.random.default_rng(len(drawn)).permutation(drawn)
        return {int(record): place // 4 for place, record in enumerate(order)}

    with pytest.raises(AssertionError, match="others change their group"):
        others_keep_their_groups(chunks)


def test_groups_by_content_break_the_swap():
    """Replace-one: a record whose group follows its content leaves one group and enters another: up to 4C."""
    unit = Group(clip_norm=CLIP_NORM, num_groups=2)
    rest = [make_row(seed) for seed in (1, 2, 3, 4)]
    own, by_content = 0.0, 0.0
    hostile = [row for row in hostile_rows() if all(torch.isfinite(part).all() for part in row)]
    sums = {
        (place, group): clipped(
            [*rest[:2], row, *rest[2:]] if group == 0 else [*rest, row], unit, 3 if group == 0 else 2
        )
        for place, row in enumerate(hostile)
        for group in (0, 1)
    }
    for (one, group_one), a in sums.items():
        for (two, group_two), b in sums.items():
            moved = float((a - b).norm())
            if group_one == group_two:
                own = max(own, moved)
            elif one != two:
                by_content = max(by_content, moved)
    assert own <= unit.swap + 1e-5
    assert by_content > 1.05 * unit.swap


def clipped(rows: list[tuple[Tensor, Tensor]], unit: Group, first: int) -> Tensor:
    """The clipped sum of two groups, of which the first has so many rows."""
    model = make_towers()
    computation = Computation(model=model, loss_fn=contrast())
    groups = torch.tensor([0] * first + [1] * (len(rows) - first))
    batch = [torch.stack(side) for side in zip(*rows, strict=True)]
    found, _ = clip_batch(
        computation,
        [MicroBatch(batch=batch, valid=torch.ones(len(rows), dtype=torch.bool), groups=groups)],
        unit,
        clip_factor(unit),
        measure=MeasureOnce(computation),
        reduce=lambda flat: None,
        reseed=lambda chunk: None,
        ranks=Ranks(),
        batch_size=8.0,
    )
    return torch.cat([total.flatten() for total in found.sums.values()])


# ---------------------------------------------------------------- relations and samplers


@pytest.mark.parametrize("temperature", [1.0, 0.5, 0.2])
def test_the_bound_follows_sampler_and_relation(temperature: float) -> None:
    loss = InfoNCE(temperature=temperature)
    unit = Pair(clip_norm=2.0, loss=loss)
    given = {"unit": unit, "steps": 5, "noise_multiplier": 1.0, "delta": 1e-6}
    fixed = sf.Plan(sampler=sf.FixedSize(num_records=1000, batch_size=50), **given)
    assert (fixed.presence, fixed.swap) == (2 * loss.joining(50), 2 * loss.exchanging(50))
    capped = sf.Plan(sampler=sf.Poisson(num_records=1000, expected_batch_size=50, cap=90), **given)
    assert (capped.presence, capped.swap) == (2 * loss.joining(90), 2 * loss.exchanging(90))
    hidden = sf.Plan(sampler=sf.Poisson(sampling_prob=0.05, expected_batch_size=50), **given)
    assert (hidden.presence, hidden.swap) == (2 * loss.joining(None), 2 * loss.exchanging(None))
    assert fixed.with_batch_size(100).presence == 2 * loss.joining(100)
    assert sf.Plan.from_json(capped.to_json()) == capped
    with pytest.raises(sf.BadInput, match="cap"):
        sf.Plan(sampler=hidden.sampler, **{**given, "unit": replace(unit, loss=sf.Sigmoid(temperature=0.5))})
    with pytest.raises(sf.Refused, match="TAN"):
        fixed.twin(2)


def test_the_contrast_is_part_of_the_fingerprint() -> None:
    from sfumato.train.fingerprint import function_fields

    fields = [
        function_fields("loss", sf.Contrast(embed=embed, loss=InfoNCE(temperature=tau), log_scale=name))
        for tau, name in ((0.5, None), (0.4, None), (0.5, "scale"))
    ]
    assert (
        len(
            {
                tuple(sorted(f.items(), key=lambda kv: kv[0]))
                for f in ({k: str(v) for k, v in one.items()} for one in fields)
            }
        )
        == 3
    )
    assert "loss.embed.source" in fields[0]
