from itertools import pairwise

import numpy as np
import pytest
from skimage.feature import hog as skimage_hog

from sfumato.base import BadInput
from sfumato.evaluate.baselines import hog, raw_pixels


@pytest.mark.parametrize(
    ("shape", "settings"),
    [
        ((3, 1, 28, 28), {}),
        ((2, 3, 28, 28), {}),
        ((2, 3, 33, 47), {"cell": 5, "block": 3, "orientations": 8}),
        ((1, 1, 224, 224), {}),
        ((2, 1, 14, 14), {"block": 1}),
    ],
)
@pytest.mark.parametrize("kind", ["noise", "edges"])
def test_hog_is_scikit_images(shape, settings, kind):
    rng = np.random.default_rng(0)
    pictures = rng.random(shape).astype(np.float32)
    if kind == "edges":
        pictures = (pictures > 0.5).astype(np.float32)  # gradients at exact multiples of 45 degrees, and zero blocks
        pictures[:, :, : shape[2] // 2] = 0
    cell = settings.get("cell", min(shape[2:]) // 7)
    block = settings.get("block", 2)
    reference = [
        skimage_hog(
            picture if len(picture) > 1 else picture[0],
            orientations=settings.get("orientations", 12),
            pixels_per_cell=(cell, cell),
            cells_per_block=(block, block),
            channel_axis=0 if len(picture) > 1 else None,
        )
        for picture in pictures
    ]
    found = hog(pictures, **settings)
    assert found.dtype == np.float32
    assert found.shape == (shape[0], len(reference[0]))
    assert found == pytest.approx(np.stack(reference), abs=2e-6)


def test_hog_sees_shape_and_not_brightness():
    rng = np.random.default_rng(0)
    pictures = rng.random((4, 1, 28, 28)).astype(np.float32)
    assert hog(3 * pictures + 5) == pytest.approx(hog(pictures), abs=1e-3)
    assert np.abs(hog(pictures[:, :, :, ::-1]) - hog(pictures)).max() > 0.05
    assert hog(np.ones((1, 3, 28, 28))).tolist() == [[0.0] * 1728]


def test_hog_of_tiny_pictures_is_refused():
    with pytest.raises(BadInput, match="2 x 2 cells"):
        hog(np.zeros((1, 1, 3, 3)), cell=2)


def test_small_pictures_are_their_own_pixels():
    pictures = np.random.default_rng(0).random((3, 2, 28, 20)).astype(np.float32)
    assert (raw_pixels(pictures) == pictures.reshape(3, -1)).all()


@pytest.mark.parametrize(("height", "width"), [(64, 64), (50, 33), (224, 20)])
def test_large_pictures_are_averaged_over_areas(height, width):
    pictures = np.random.default_rng(0).random((2, 3, height, width)).astype(np.float32)
    rows, columns = min(height, 32), min(width, 32)
    row_edges = [int(i * height / rows) for i in range(rows + 1)]
    column_edges = [int(i * width / columns) for i in range(columns + 1)]
    expected = np.array(
        [
            [
                [
                    [picture[c, top:bottom, left:right].mean() for left, right in pairwise(column_edges)]
                    for top, bottom in pairwise(row_edges)
                ]
                for c in range(3)
            ]
            for picture in pictures
        ]
    )
    assert raw_pixels(pictures) == pytest.approx(expected.reshape(2, -1), abs=1e-5)


@pytest.mark.parametrize("extract", [raw_pixels, hog])
def test_other_shapes_are_refused(extract):
    with pytest.raises(BadInput, match=r"\(N, C, H, W\)"):
        extract(np.zeros((28, 28)))
