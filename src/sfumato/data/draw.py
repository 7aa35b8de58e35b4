"""Anti-aliased drawing of small plane shapes by signed distance: numpy only, any resolution.

A pixel's coverage is 1/2 minus its signed distance to the outline (in pixels), clipped to [0, 1].
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Blob:
    """One object: centre and radius as fractions of the picture's side, colour of 255 (red, green, blue).

    `wide` and `high` squeeze it: factors in (0, 1] of its width and height.
    """

    shape: str
    x: float
    y: float
    radius: float
    colour: tuple[float, ...]
    wide: float = 1.0
    high: float = 1.0


def _circle(x: np.ndarray, y: np.ndarray, r: float) -> np.ndarray:
    return np.sqrt(x * x + y * y) - r


def _square(x: np.ndarray, y: np.ndarray, r: float) -> np.ndarray:
    return np.maximum(np.abs(x), np.abs(y)) - 0.86 * r


def _diamond(x: np.ndarray, y: np.ndarray, r: float) -> np.ndarray:
    return (np.abs(x) + np.abs(y) - r) * 0.7071


def _triangle(x: np.ndarray, y: np.ndarray, r: float) -> np.ndarray:
    return np.maximum(0.8660 * np.abs(x) - 0.5 * y - 0.5 * r, y - 0.75 * r)


def _cross(x: np.ndarray, y: np.ndarray, r: float) -> np.ndarray:
    x, y, arm = np.abs(x), np.abs(y), 0.3 * r
    return np.minimum(np.maximum(x - r, y - arm), np.maximum(x - arm, y - r))


def _ring(x: np.ndarray, y: np.ndarray, r: float) -> np.ndarray:
    return np.abs(np.sqrt(x * x + y * y) - 0.74 * r) - 0.26 * r


DISTANCES: dict[str, Callable[[np.ndarray, np.ndarray, float], np.ndarray]] = {
    "circle": _circle,
    "square": _square,
    "diamond": _diamond,
    "triangle": _triangle,
    "cross": _cross,
    "ring": _ring,
}


def paint(size: int, background: tuple[int, int, int], blobs: Sequence[Blob]) -> np.ndarray:
    """Return the picture, (size, size, 3) uint8; later blobs lie on earlier ones."""
    canvas = np.empty((size, size, 3), np.float32)
    canvas[:] = background
    for blob in blobs:
        radius, cx, cy = blob.radius * size, blob.x * size - 0.5, blob.y * size - 0.5
        left, right = max(0, int(cx - radius - 1)), min(size, int(cx + radius + 3))
        top, bottom = max(0, int(cy - radius - 1)), min(size, int(cy + radius + 3))
        x = np.arange(left, right, dtype=np.float32)[None, :] - np.float32(cx)
        y = np.arange(top, bottom, dtype=np.float32)[:, None] - np.float32(cy)
        x, y = x / np.float32(blob.wide), y / np.float32(blob.high)  # by 1 exact
        cover = np.clip(0.5 - DISTANCES[blob.shape](x, y, radius), 0.0, 1.0)[:, :, None]
        window = canvas[top:bottom, left:right]
        window += cover * (np.asarray(blob.colour, np.float32) - window)
    return (canvas + 0.5).astype(np.uint8)
