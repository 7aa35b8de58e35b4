"""How a single encoder embeds: unit norm, rows apart, two views by one encoder, features without gradient."""

import pytest
import torch
from tests.models.pairs import small_encoder
from torch import nn

from sfumato.data import TwoViews, shapes
from sfumato.models import TwoViewTowers

KINDS = ("small-conv", "resnet18", "micro")


def pixels(count: int = 5, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("kind", KINDS)
def test_embeddings_are_the_encoders_output_over_its_norm(kind: str) -> None:
    model, embed = small_encoder(kind), TwoViewTowers()
    u, v = embed(model, {"pixel_values": pixels(seed=0), "other_view": pixels(seed=1)})
    for found, view in ((u, pixels(seed=0)), (v, pixels(seed=1))):
        raw = model(view)
        torch.testing.assert_close(found, raw / raw.norm(dim=1, keepdim=True))
        assert not torch.allclose(raw.norm(dim=1), torch.ones(5), atol=1e-2)  # the encoder itself does not normalise
        assert torch.equal(found, embed.images(model, view))
    assert not torch.allclose(u, v)


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_is_a_function_of_its_picture(kind: str) -> None:
    model, embed = small_encoder(kind).double().train(), TwoViewTowers()
    view = pixels().double().requires_grad_()
    (grad,) = torch.autograd.grad(embed.images(model, view)[2] @ torch.arange(4.0).double(), view)
    others = [0, 1, 3, 4]
    assert grad[2].abs().max() > 0
    assert grad[others].abs().max() == 0
    torch.testing.assert_close(embed.images(model, view[2:3])[0], embed.images(model, view)[2])


def test_half_precision_and_zero_rows_stay_finite() -> None:
    model, embed = small_encoder("small-conv").bfloat16(), TwoViewTowers()
    found = embed.images(model, pixels().bfloat16())
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.norm(dim=1), torch.ones(5))
    assert embed.features(model, pixels().bfloat16()).dtype == torch.float32
    nothing = nn.Conv2d(1, 4, 8)
    nn.init.zeros_(nothing.weight)
    nn.init.zeros_(nothing.get_parameter("bias"))
    assert embed.images(nn.Sequential(nothing, nn.Flatten()), pixels()).abs().max() == 0


@pytest.mark.parametrize(("kind", "width"), [("small-conv", 32), ("resnet18", 32), ("micro", 576)])
def test_features_stand_before_the_last_layer(kind: str, width: int) -> None:
    model, embed = small_encoder(kind).train(), TwoViewTowers()
    found = embed.features(model, pixels())
    assert found.shape == (5, width)
    assert not found.requires_grad
    assert model.training
    torch.testing.assert_close(model.head(found), model(pixels()))


def test_features_are_those_of_evaluation() -> None:
    model, embed = small_encoder("micro"), TwoViewTowers()
    model.stem.dropout.p = 0.5
    assert torch.equal(embed.features(model.train(), pixels()), embed.features(model.eval(), pixels()))


def test_batches_are_those_of_two_views() -> None:
    rows = TwoViews.suited(shapes(2, image_size=16), 8, channels=1)
    batch = {name: torch.stack([rows[0][name], rows[1][name]]) for name in rows[0]}
    u, v = TwoViewTowers()(small_encoder("small-conv"), batch)
    assert u.shape == v.shape == (2, 4)
