"""Every encoder under the group and the pair unit, against plain autograd."""

import pytest
import torch
from tests.mechanisms.contrastive import clip_with, cut, literal_groups, literal_pairs
from tests.models.pairs import small_encoder, small_timm, tiny_pair
from torch import Tensor, nn

from sfumato.models import HeadTowers, Towers, TwoViewTowers, frozen_features
from sfumato.models.pair_start import choose_pair
from sfumato.plan import Group, InfoNCE, Pair

LOSS = InfoNCE(temperature=0.2)
GROUPS = torch.tensor([0, 0, 0, 1, 2, 2])  # unequal sizes, one of them a single row
ENCODERS = ("small-conv", "resnet18", "resnet18-group", "micro")
TIMM = {  # name, BatchNorm, pixels: a vision transformer, a ResNet with GroupNorm, depthwise convolutions
    "vit": ("test_vit", "none", 32),
    "resnet group": ("test_resnet", "group", 32),
    "efficientnet frozen": ("test_efficientnet", "frozen", 32),
}


def views(size: int, count: int = 6) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    names = ("pixel_values", "other_view")
    found = {name: torch.randn(count, 1, size, size, generator=generator, dtype=torch.float64) for name in names}
    return {**found, "x": torch.zeros(count)}  # what `cut` counts rows by


def check_group(model: nn.Module, embed, batch: dict[str, Tensor], clip_norm: float) -> None:
    want = literal_groups(model, embed, LOSS, clip_norm, batch, GROUPS)
    found = clip_with(model, embed, Group(clip_norm=clip_norm, num_groups=4), cut(batch, 8, GROUPS), loss=LOSS)
    assert (found.sums - want).norm() <= 1e-10 * want.norm()
    assert found.tally.num_clipped > 0, "a case in which nothing is clipped tests nothing"


@pytest.mark.parametrize("kind", ENCODERS)
def test_group_unit_equals_a_loop(kind: str) -> None:
    check_group(small_encoder(kind).double().train(), TwoViewTowers(), views(8), 0.1)


@pytest.mark.every(2)
@pytest.mark.parametrize("case", TIMM)
def test_group_unit_of_timm_models_equals_a_loop(case: str) -> None:
    name, batch_norm, size = TIMM[case]
    image_size = size if "vit" in name else None
    model = small_timm(name, batch_norm, image_size=image_size).double().train()
    check_group(model, TwoViewTowers(), views(size), 0.05)


@pytest.mark.parametrize("kind", ENCODERS)
def test_pair_unit_equals_the_recipe(kind: str) -> None:
    model, batch = small_encoder(kind).double().train(), views(8)
    unit = Pair(clip_norm=0.1, loss=LOSS, largest_draw=6)
    want = literal_pairs(model, TwoViewTowers(), unit, batch)
    found = clip_with(model, TwoViewTowers(), unit, cut(batch, 4))
    assert (found.sums - want).norm() <= 1e-10 * want.norm()
    loose = literal_pairs(model, TwoViewTowers(), Pair(clip_norm=1e9, loss=LOSS, largest_draw=6), batch)
    assert (loose - want).norm() > 0.01 * want.norm(), "a case in which nothing is clipped tests nothing"


def pictures_and_texts(words, count: int = 6) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(4, words.vocab_size, (count, 5), generator=generator)
    ids[::2, 3:] = 0  # padding
    pixels = torch.randn(count, 3, 16, 16, generator=generator, dtype=torch.float64)
    return {"pixel_values": pixels, "input_ids": ids, "x": torch.zeros(count)}


@pytest.mark.every(2)
@pytest.mark.parametrize("train", ["heads", "last-1", "all"])
def test_pair_of_towers_equals_a_loop(train: str, words) -> None:
    model = tiny_pair(words, train=train).double()
    batch, embed = pictures_and_texts(words), Towers(kind="pair", pad_id=model.pad_id)
    check_group(model, embed, batch, 0.1)
    unit = Pair(clip_norm=0.2, loss=LOSS, largest_draw=6)
    want = literal_pairs(model, embed, unit, batch)
    assert (clip_with(model, embed, unit, cut(batch, 4)).sums - want).norm() <= 1e-10 * want.norm()


def test_image_blocks_behind_a_frozen_batch_norm_are_exact(words) -> None:
    image = small_timm("test_efficientnet", "frozen", width=0)
    image.backbone.conv_stem.weight = nn.Parameter(image.backbone.conv_stem.weight.repeat(1, 3, 1, 1) / 3)
    image.settings = type(image.settings)(**{**vars(image.settings), "channels": 3})
    model = tiny_pair(words, image).double()
    training = choose_pair(model, "last-1")
    assert any(name.startswith("image.backbone.blocks") for name in training.trainable)
    check_group(model.train(), Towers(kind="pair", pad_id=0), pictures_and_texts(words), 0.1)


def test_heads_on_cached_features_have_the_gradients_of_the_pair(words) -> None:
    model = tiny_pair(words).double()
    batch = pictures_and_texts(words)
    image, text = frozen_features(model, batch["pixel_values"], batch["input_ids"])
    cached = {"image_features": image, "text_features": text, "x": batch["x"]}
    unit = Pair(clip_norm=0.2, loss=LOSS, largest_draw=6)
    want = clip_with(model, Towers(kind="pair", pad_id=0), unit, cut(batch, 4)).sums
    found = clip_with(model, HeadTowers(), unit, cut(cached, 4)).sums
    assert (found - want).norm() <= 1e-10 * want.norm()
    check_group(model, HeadTowers(), cached, 0.1)
