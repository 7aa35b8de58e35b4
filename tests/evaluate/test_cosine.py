import numpy as np
import pytest

from sfumato.base import BadInput
from sfumato.evaluate.cosine import blocks, unit


def test_rows_get_unit_length_and_zeros_stay():
    rows = np.array([[3.0, 4.0], [0.0, 0.0], [-2.0, 0.0]])
    assert unit(rows, "x") == pytest.approx(np.array([[0.6, 0.8], [0, 0], [-1, 0]]))
    assert unit(rows, "x").dtype == np.float32


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_no_scale_overflows_or_vanishes(scale):
    assert unit(np.array([[3.0, 4.0]]) * scale, "x") == pytest.approx(np.array([[0.6, 0.8]]))


@pytest.mark.parametrize("rows", [np.zeros(3), np.zeros((0, 3)), np.zeros((3, 0))])
def test_wrong_shapes_are_refused(rows):
    with pytest.raises(BadInput, match=r"things: cosines need \(N, D\) rows"):
        unit(rows, "things")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_diverged_model_is_refused(value):
    with pytest.raises(BadInput, match="things: the rows hold NaN or infinity"):
        unit(np.array([[1.0, value]]), "things")


def test_blocks_cover_everything_once():
    for size, length in ((7, 3), (6, 3), (2, 5), (0, 4)):
        assert [i for block in blocks(size, length) for i in range(size)[block]] == list(range(size))
    assert list(blocks(7, 3))[-1] == slice(6, 7)
