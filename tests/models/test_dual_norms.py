"""Every trainable parameter of every kind of dual encoder is measured exactly, against plain autograd."""

from typing import Any

import pytest
import torch
from tests.mechanisms.contrastive import clip_with, cut, literal_groups
from tests.models.duals import batch_of, started

from sfumato.plan import Group, InfoNCE

LOSS, C = InfoNCE(temperature=0.3), 0.3
GROUPS = torch.tensor([0, 0, 0, 1, 1, 1])
KINDS = ("micro", "tiny", "clip", "siglip", "vit-bert", "open_clip")


def prepared(kind: str, folder: Any, **settings: Any) -> tuple[Any, dict[str, torch.Tensor]]:
    made = started(kind, folder, **settings)
    batch = {"x": torch.zeros(6, 1)} | batch_of(made)  # `cut` counts rows by x
    made.model.double()
    return made, batch | {"pixel_values": batch["pixel_values"].double()}


@pytest.mark.every(3)
@pytest.mark.parametrize("kind", KINDS)
def test_the_clipped_sum_of_groups_is_that_of_plain_autograd(kind: str, tmp_path) -> None:
    made, batch = prepared(kind, tmp_path)
    assert made.training.unreached == ()
    want = literal_groups(made.model, made.embed, LOSS, C, batch, GROUPS)
    found = clip_with(made.model, made.embed, Group(clip_norm=C, num_groups=2), cut(batch, 6, GROUPS), loss=LOSS)
    assert want.numel() == sum(made.model.get_parameter(name).numel() for name in made.training.trainable)
    assert (found.sums - want).norm() <= 1e-10 * want.norm()
    assert found.tally.num_clipped == 2
    assert set(found.clipped.sums) == set(made.training.trainable)


@pytest.mark.every(3)
@pytest.mark.parametrize("kind", ["siglip", "open_clip"])
@pytest.mark.parametrize("train", ["heads", "last-1"])
def test_a_part_of_the_towers_is_measured_as_well(kind: str, train: str, tmp_path) -> None:
    made, batch = prepared(kind, tmp_path, train=train)
    want = literal_groups(made.model, made.embed, LOSS, C, batch, GROUPS)
    found = clip_with(made.model, made.embed, Group(clip_norm=C, num_groups=2), cut(batch, 6, GROUPS), loss=LOSS)
    assert (found.sums - want).norm() <= 1e-10 * want.norm()


def test_a_learned_temperature_is_measured_with_the_rest(tmp_path) -> None:
    made, batch = prepared("clip", tmp_path, train_temperature=True)
    assert made.log_scale == "logit_scale"
    unit = Group(clip_norm=1e6, num_groups=1)
    one = torch.zeros(6, dtype=torch.int64)
    loss = InfoNCE(temperature=1.0)
    found = clip_with(made.model, made.embed, unit, cut(batch, 6, one), loss, log_scale=made.log_scale)
    u, v = made.embed(made.model, batch)
    z = u @ v.mT * made.model.get_parameter("logit_scale").exp()
    own = torch.arange(6)
    value = 0.5 * (torch.nn.functional.cross_entropy(z, own) + torch.nn.functional.cross_entropy(z.mT, own))
    (want,) = torch.autograd.grad(value, made.model.get_parameter("logit_scale"))
    assert float(found.clipped.sums["logit_scale"]) == pytest.approx(float(want), rel=1e-10)
    assert abs(float(want)) > 1e-6
