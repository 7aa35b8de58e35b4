"""The convolutional stem: any picture size, fixed positions, nothing that couples rows."""

import pytest
import torch
from transformers import AutoConfig, AutoModel

from sfumato.models.modeling_sfumato_stem import StemConfig, StemModel, waves

SPEC = {"num_channels": 1, "hidden_sizes": (16, 32), "kernel_sizes": (3, 3), "strides": (2, 2)}


def made(**changes) -> StemModel:
    torch.manual_seed(0)
    return StemModel(StemConfig(**(SPEC | changes))).eval()


@pytest.mark.parametrize(("size", "tokens"), [((28, 28), 49), ((32, 20), 40), ((9, 9), 9)])
def test_tokens_of_any_picture(size, tokens) -> None:
    out = made(position_scale=0.5)(torch.randn(2, 1, *size)).last_hidden_state
    assert out.shape == (2, tokens, 32)


def test_waves_tell_every_place_apart() -> None:
    table = waves(torch.zeros(1, 32, 7, 5))
    assert table.shape == (35, 32)
    distances = torch.cdist(table, table) + 10 * torch.eye(35)
    assert distances.min() > 0.5
    assert table.abs().max() <= 1
    rows = table.reshape(7, 5, 32)
    assert torch.equal(rows[0, 0, 16:], rows[3, 0, 16:])  # the second half knows the column only
    assert torch.equal(rows[2, 0, :16], rows[2, 4, :16])
    assert waves(torch.zeros(1, 8, 2, 2, dtype=torch.float64)).dtype == torch.float64


def test_positions_are_added_behind_the_norm() -> None:
    """So the mean token of every picture moves by one and the same vector."""
    plain, placed = made(), made(position_scale=0.5)
    pixels = torch.randn(3, 1, 28, 28)
    moved = placed(pixels).last_hidden_state - plain(pixels).last_hidden_state
    torch.testing.assert_close(moved, 0.5 * waves(torch.zeros(1, 32, 7, 7)).expand(3, -1, -1), rtol=1e-5, atol=1e-5)


def test_a_width_that_the_waves_do_not_fill() -> None:
    with pytest.raises(ValueError, match="multiple of 4, got 10"):
        made(hidden_sizes=(16, 10), num_groups=2, position_scale=0.5)


def test_it_is_a_class_of_transformers(tmp_path) -> None:
    model = made(position_scale=0.5)
    model.save_pretrained(tmp_path)
    assert AutoConfig.from_pretrained(tmp_path).position_scale == 0.5
    again = AutoModel.from_pretrained(tmp_path).eval()
    pixels = torch.randn(2, 1, 28, 28)
    assert torch.equal(again(pixels).last_hidden_state, model(pixels).last_hidden_state)
    assert AutoModel.from_config(StemConfig(**SPEC)).config.position_scale == 0  # as in files from before it existed


def test_rows_are_independent() -> None:
    model, pixels = made().double(), torch.randn(3, 1, 28, 28, dtype=torch.float64)
    alone = model(pixels[1:2]).last_hidden_state[0]
    torch.testing.assert_close(model(pixels).last_hidden_state[1], alone, rtol=1e-12, atol=1e-12)
