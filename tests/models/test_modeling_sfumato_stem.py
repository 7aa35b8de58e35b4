"""The convolutional stem: any picture size, fixed positions, nothing that couples rows."""

import numpy
import pytest
import torch
from scipy.fft import dctn
from transformers import AutoConfig, AutoModel

from sfumato.models.modeling_sfumato_stem import StemConfig, StemModel, waves

SPEC = {"num_channels": 1, "hidden_sizes": (16, 32), "kernel_sizes": (3, 3), "strides": (2, 2)}


def made(**changes) -> StemModel:
    torch.manual_seed(0)
    return StemModel(StemConfig(**(SPEC | changes))).eval()


@pytest.mark.parametrize(("size", "tokens"), [((28, 28), 49), ((32, 20), 40), ((9, 9), 9), ((2, 5), 2)])
def test_tokens_of_any_picture(size, tokens) -> None:
    out = made(num_waves=3)(torch.randn(2, 1, *size)).last_hidden_state
    assert out.shape == (2, tokens, 9 * 32)
    assert out.isfinite().all()


def test_waves_are_orthonormal_and_tell_every_place_apart() -> None:
    table = waves(7, 5, 3)
    torch.testing.assert_close(table.T @ table / 35, torch.eye(9), rtol=0, atol=1e-6)
    assert torch.equal(table[:, 0], torch.ones(35))
    distances = torch.cdist(table, table) + 10 * torch.eye(35)
    assert distances.min() > 0.3


def test_the_mean_token_is_the_cosine_transform_of_the_feature_maps() -> None:
    model, plain = made(num_waves=3), made()
    pixels = torch.randn(2, 1, 28, 20)
    maps = plain(pixels).last_hidden_state.detach().reshape(2, 7, 5, 32).double().numpy()
    expected = dctn(maps, axes=(1, 2), norm="ortho")[:, :3, :3].reshape(2, 9 * 32) / 35**0.5
    found = model(pixels).last_hidden_state.mean(1).detach().double().numpy()
    numpy.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_it_is_a_class_of_transformers(tmp_path) -> None:
    model = made(num_waves=3)
    model.save_pretrained(tmp_path)
    assert AutoConfig.from_pretrained(tmp_path).num_waves == 3
    again = AutoModel.from_pretrained(tmp_path).eval()
    pixels = torch.randn(2, 1, 28, 28)
    assert torch.equal(again(pixels).last_hidden_state, model(pixels).last_hidden_state)
    assert AutoModel.from_config(StemConfig(**SPEC)).config.hidden_size == 32


def test_rows_are_independent() -> None:
    model, pixels = made().double(), torch.randn(3, 1, 28, 28, dtype=torch.float64)
    alone = model(pixels[1:2]).last_hidden_state[0]
    torch.testing.assert_close(model(pixels).last_hidden_state[1], alone, rtol=1e-12, atol=1e-12)
