import base64
import io

import numpy as np
import pytest
from PIL import Image

from sfumato.base.errors import BadInput
from sfumato.data import light_up, picture_files, png_base64


def test_pictures_become_png_text():
    for image in (np.full((28, 28, 1), 7, np.uint8), np.full((28, 28, 1), 7.4, np.float32)):
        found = Image.open(io.BytesIO(base64.b64decode(png_base64(image))))
        assert found.format == "PNG"
        assert found.size == (112, 112)
        assert np.asarray(found).tolist() == np.full((112, 112), 7).tolist()
    colour = np.zeros((300, 200, 3), np.uint8)
    colour[:, :, 0] = 200
    found = Image.open(io.BytesIO(base64.b64decode(png_base64(colour))))
    assert np.array_equal(np.asarray(found), colour)


def test_heat_is_warm_where_it_is_high():
    heat = np.zeros((4, 4), np.float32)
    heat[0, 0] = 1
    lit = light_up(np.full((32, 32, 1), 100, np.uint8), heat).astype(int)
    assert lit.shape == (224, 224, 3)
    assert lit[10, 10].sum() > lit[200, 200].sum()
    assert lit[10, 10, 0] > lit[10, 10, 2]
    assert light_up(np.full((32, 32, 3), 100, np.uint8), np.zeros((4, 4))).std() < 1


def test_picture_files_are_found_by_ending(tmp_path):
    (tmp_path / "sub").mkdir()
    for name in ("b.PNG", "sub/a.dcm", "x.txt", ".hidden.png"):
        (tmp_path / name).touch()
    assert picture_files(tmp_path) == [tmp_path / "b.PNG", tmp_path / "sub/a.dcm"]
    with pytest.raises(BadInput, match="holds no picture"):
        picture_files(tmp_path / "none")
