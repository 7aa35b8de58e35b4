"""One object of any size anywhere on a light ground: the scenes that `shapes` does not have, for visual questions.

Scene number i of a split is a function of (seed, split, i). As in `shapes`, combinations of a colour and a shape on a
diagonal are held out: "train" and "test" never show them, "unseen" shows nothing else.
"""

from typing import NamedTuple

import numpy as np

from sfumato.base.seeds import derive, uniforms
from sfumato.data.draw import Blob, paint
from sfumato.data.grammar import Scene

VERSION = 1  # of the scenes and pixels: part of the key and of the fingerprint
COLOURS = {  # red, green, blue of 255, each varied by up to _VARIED
    "red": (242, 14, 14),
    "green": (14, 235, 25),
    "blue": (14, 25, 242),
    "yellow": (245, 240, 14),
    "black": (14, 14, 14),
    "gray": (128, 128, 128),
    "teal": (14, 128, 128),
    "brown": (160, 48, 42),
    "purple": (150, 40, 190),
    "orange": (250, 145, 25),
}
SHAPES = ("circle", "rectangle", "triangle", "diamond", "cross", "ring")
_VARIED = 14.0
_RADII = {"small": (0.08, 0.14), "large": (0.17, 0.28)}  # of the side: nothing lies between, so that size has an answer
_SQUEEZED = 0.35  # of a rectangle: the short side over the long one is at least this
_GROUND = (205.0, 255.0)
_PUBLIC = bytes(32)

UNSEEN = tuple((colour, SHAPES[place % len(SHAPES)]) for place, colour in enumerate(COLOURS))
SEEN = tuple((colour, shape) for colour in COLOURS for shape in SHAPES if (colour, shape) not in UNSEEN)


class Lone(NamedTuple):
    """A scene and what it takes to paint it."""

    scene: Scene
    blob: Blob
    ground: tuple[int, int, int]


def lone(seed: int, split: str, number: int) -> Lone:
    """Return scene `number` of a split. The size of a rectangle is told by its longer side."""
    draw = uniforms(derive(_PUBLIC, "lone", VERSION, seed, split, number), 13).tolist()
    combinations = UNSEEN if split == "unseen" else SEEN
    colour, shape = combinations[int(draw[0] * len(combinations))]
    size = "small" if draw[1] < 0.5 else "large"
    low, high = _RADII[size]
    radius = low + (high - low) * draw[2]
    x, y = (radius + (1.0 - 2.0 * radius) * place for place in draw[3:5])  # the whole object lies inside
    varied = tuple(
        min(255.0, max(0.0, value + _VARIED * (2.0 * noise - 1.0))) for value, noise in zip(COLOURS[colour], draw[5:8])
    )
    short = _SQUEEZED + (1.0 - _SQUEEZED) * draw[8] if shape == "rectangle" else 1.0
    wide, tall = (short, 1.0) if draw[9] < 0.5 else (1.0, short)
    drawn = "square" if shape == "rectangle" else shape
    red, green, blue = (int(_GROUND[0] + (_GROUND[1] - _GROUND[0]) * noise) for noise in draw[10:13])
    group = {"count": 1, "size": size, "colour": colour, "shape": shape}
    return Lone(
        scene={"groups": (group,), "relation": None},
        blob=Blob(shape=drawn, x=x, y=y, radius=radius, colour=varied, wide=wide, high=tall),
        ground=(red, green, blue),
    )


def picture(scene: Lone, image_size: int) -> np.ndarray:
    """Return the picture of a scene, (image_size, image_size, 3) uint8."""
    return paint(image_size, scene.ground, [scene.blob])
