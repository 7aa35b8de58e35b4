"""Features that learned nothing: raw pixels and histograms of oriented gradients (HOG). Every probe stands beside them.

Shapes: N pictures, C channels, H rows, W columns.
"""

import numpy as np

from sfumato.base import BadInput

PIXEL_SIDE = 32  # larger pictures are averaged down to this: 224 px would give 150,528 features
HOG_GRID = 7  # cells along the shorter side: 4 pixels at 28, 32 pixels at 224
HOG_ORIENTATIONS = 12  # 12 bins beat the usual 9 by half a point on Fashion-MNIST: a baseline should be strong
HOG_BLOCK = 2  # cells along a block
_HOG_CLIP = 0.2  # L2-Hys: normalise, clip here, normalise again
_HOG_EPSILON = 1e-5  # inside the norm, as in scikit-image: an empty block gives zeros


def raw_pixels(pictures: np.ndarray, side: int = PIXEL_SIDE) -> np.ndarray:
    """Return the pixels as features, float32, averaged over areas down to at most `side` x `side`.

    Channels that are all equal (a grey picture stored as RGB, before normalisation) are not merged here: pass one.

    Args:
        pictures: (N, C, H, W) float.
        side: rows and columns at most.

    Returns:
        (N, C * min(H, side) * min(W, side)).
    """
    pictures = _checked(pictures)
    for axis in (2, 3):
        size = pictures.shape[axis]
        if size > side:
            edges = np.linspace(0, size, side + 1).astype(np.int64)
            widths = np.diff(edges).astype(np.float32)
            shape = [1, 1, 1, 1]
            shape[axis] = side
            pictures = np.add.reduceat(pictures, edges[:-1], axis=axis) / widths.reshape(shape)
    return pictures.reshape(len(pictures), -1)


def hog(
    pictures: np.ndarray,
    *,
    cell: int | None = None,
    orientations: int = HOG_ORIENTATIONS,
    block: int = HOG_BLOCK,
) -> np.ndarray:
    """Return histograms of oriented gradients, float32, equal to `skimage.feature.hog` and a whole batch at a time.

    Central differences (zero at the border), unsigned orientation in `orientations` bins without interpolation,
    votes by magnitude, mean over cells of `cell` x `cell` pixels, blocks of `block` x `block` cells at every cell,
    L2-Hys normalisation. Of several channels each pixel takes the one with the largest gradient.

    Args:
        pictures: (N, C, H, W) float.
        cell: pixels along a cell; default: so that the shorter side has 7 cells, which makes 1728 features of a
            square picture of any size.
        orientations: bins over 180 degrees.
        block: cells along a block.

    Returns:
        (N, blocks down * blocks across * block * block * orientations).

    Raises:
        BadInput: the pictures are smaller than one block.

    Source: Dalal and Triggs, CVPR 2005.
    """
    pictures = _checked(pictures)
    cell = cell or max(1, min(pictures.shape[2:]) // HOG_GRID)
    down, across = pictures.shape[2] // cell, pictures.shape[3] // cell
    if min(down, across) < block:
        raise BadInput(f"HOG needs {block} x {block} cells of {cell} pixels, the pictures are {pictures.shape[2:]}.")
    magnitude, bins = _gradients(pictures, orientations)
    histogram = _cells(magnitude, bins, cell, orientations)
    # (N, blocks down, blocks across, cells of the block, orientations)
    shifts = [(i, j) for i in range(block) for j in range(block)]
    rows, columns = down - block + 1, across - block + 1
    blocks = np.stack([histogram[:, i : i + rows, j : j + columns] for i, j in shifts], axis=3)
    blocks = blocks.reshape(len(pictures), rows, columns, -1)
    return _unit(np.minimum(_unit(blocks), _HOG_CLIP)).reshape(len(pictures), -1).astype(np.float32)


def _checked(pictures: np.ndarray) -> np.ndarray:
    if pictures.ndim != 4 or min(pictures.shape) < 1:
        raise BadInput(f"pictures must be (N, C, H, W) with no side 0, got shape {pictures.shape}.")
    return np.asarray(pictures, np.float32)


def _gradients(pictures: np.ndarray, orientations: int) -> tuple[np.ndarray, np.ndarray]:
    """Return magnitude (N, H, W) and orientation bin (N, H, W) of each pixel's strongest channel."""
    down, across = np.zeros_like(pictures), np.zeros_like(pictures)
    down[:, :, 1:-1] = pictures[:, :, 2:] - pictures[:, :, :-2]
    across[:, :, :, 1:-1] = pictures[:, :, :, 2:] - pictures[:, :, :, :-2]
    magnitude = np.hypot(down, across)
    strongest = magnitude.argmax(1)[:, None]
    down, across, magnitude = (np.take_along_axis(x, strongest, 1)[:, 0] for x in (down, across, magnitude))
    # float64: a float32 arctangent puts the 45 degrees of a hard edge to either side of a bin's border
    angle = np.rad2deg(np.arctan2(down, across, dtype=np.float64)) % 180
    # the remainder of a tiny negative angle is 180, which is the last bin's end
    bins = np.minimum((angle / (180 / orientations)).astype(np.int64), orientations - 1)
    return magnitude, bins


def _cells(magnitude: np.ndarray, bins: np.ndarray, cell: int, orientations: int) -> np.ndarray:
    """Return the mean vote of each cell and orientation, shape (N, down, across, orientations)."""
    n, height, width = magnitude.shape
    down, across = height // cell, width // cell
    rows, columns = np.arange(down * cell) // cell, np.arange(across * cell) // cell
    inner = np.s_[:, : down * cell, : across * cell]
    index = (np.arange(n)[:, None, None] * down + rows[:, None]) * across + columns
    index = index * orientations + bins[inner]
    votes = np.bincount(index.ravel(), magnitude[inner].ravel(), minlength=n * down * across * orientations)
    return votes.reshape(n, down, across, orientations) / cell**2


def _unit(blocks: np.ndarray) -> np.ndarray:
    return blocks / np.sqrt((blocks**2).sum(-1, keepdims=True) + _HOG_EPSILON**2)
