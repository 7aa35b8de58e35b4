"""`shapes`: procedural scenes with captions, any number of them, in constant memory.

Scene number i of a split is a function of (seed, split, i) through the key derivation of `base.seeds`. The pair of a
colour and a shape is a *combination*; with as many colours as shapes, those on a diagonal are held out: each colour
and each shape loses one combination of six and keeps five. `train` and `test` never show a held-out combination,
`unseen` shows nothing else.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from sfumato.base.errors import BadInput
from sfumato.base.seeds import derive, words
from sfumato.data import grammar
from sfumato.data.captioned import Captioned, Selection
from sfumato.data.draw import Blob, paint

VERSION = 2  # of the scenes and pixels: part of the key and of the fingerprint
SPLITS = ("train", "test", "unseen")
SCENES = ("mixed", "single", "pair")
_COLOURS = tuple(grammar.COLOURS)
_RADIUS = {"small": 0.09, "large": 0.145}  # of the side; three large ones in a row fit, apart
_PUBLIC = bytes(32)

UNSEEN = tuple((colour, grammar.SHAPES[place]) for place, colour in enumerate(_COLOURS))
SEEN = tuple((c, s) for c in _COLOURS for s in grammar.SHAPES if (c, s) not in UNSEEN)


@dataclass(frozen=True, kw_only=True)
class ShapesRows:
    """The rows of one split: scenes and pictures made on demand.

    Attributes:
        seed: public number; another seed gives other scenes.
        split: "train", "test" (same combinations, other scenes) or "unseen" (held-out combinations only).
        image_size: side of the square picture, pixels.
        scenes: "single" group, "pair" of groups with a relation, or "mixed" (one third single).
    """

    seed: int
    split: str
    image_size: int
    scenes: str

    def _words(self, row: int) -> list[int]:
        key = derive(_PUBLIC, "shapes", VERSION, self.seed, self.split, row)
        return words(key, 28).tolist()

    def scene(self, row: int) -> grammar.Scene:
        """Return the attributes of scene `row`."""
        return self._scene(self._words(row))

    def _scene(self, draw: list[int]) -> grammar.Scene:
        combinations = UNSEEN if self.split == "unseen" else SEEN
        first = combinations[draw[0] % len(combinations)]
        pair = self.scenes == "pair" or (self.scenes == "mixed" and draw[1] % 3 > 0)
        chosen = [first]
        if pair:
            others = [(c, s) for c, s in combinations if c != first[0] and s != first[1]]
            chosen.append(others[draw[2] % len(others)])
        groups = tuple(
            {"count": draw[3 + i] % 3 + 1, "size": grammar.SIZES[draw[5 + i] % 2], "colour": colour, "shape": shape}
            for i, (colour, shape) in enumerate(chosen)
        )
        return {"groups": groups, "relation": grammar.RELATIONS[draw[7] % 4] if pair else None}

    def read(self, row: int, rng: np.random.Generator | None) -> dict[str, Any]:
        """Return image (S, S, 3) uint8, caption, label and attributes; nothing is drawn from `rng`."""
        draw = self._words(row)
        scene = self._scene(draw)
        noise = [(word >> 11) * 2.0**-53 for word in draw[8:]]  # uniform on [0, 1)
        grey = int(15 + 60 * noise[0])
        image = paint(self.image_size, (grey, grey, grey), _layout(scene, noise[1:]))
        return {"image": image, "caption": grammar.caption(scene), "label": _label(scene), "attributes": scene}

    def captions_of(self, row: int) -> tuple[str, ...]:
        """Return the one caption of the row."""
        return (grammar.caption(self.scene(row)),)

    def texts(self, rows: Selection) -> Iterator[str]:
        """Yield the caption of each row."""
        return (grammar.caption(self.scene(int(row))) for row in rows)

    def labels(self, rows: Selection) -> np.ndarray | None:
        """Return the class of each row: colour and shape of the upper, left or only group."""
        return np.fromiter((_label(self.scene(int(row))) for row in rows), np.int64, len(rows))

    def file(self, row: int) -> str | None:
        """Scenes are no files."""
        return None


def _label(scene: grammar.Scene) -> int:
    group = grammar.canonical(scene)["groups"][0]
    return _COLOURS.index(group["colour"]) * len(grammar.SHAPES) + grammar.SHAPES.index(group["shape"])


def _layout(scene: grammar.Scene, noise: list[float]) -> list[Blob]:
    """Place each group in a row across the axis of the relation: no two objects overlap, all lie inside."""
    told = grammar.canonical(scene)
    relation = told["relation"]
    blobs = []
    for place, group in enumerate(told["groups"]):
        jitter = noise[9 * place : 9 * place + 9]
        radius = _RADIUS[group["size"]] * (0.92 + 0.08 * jitter[0])
        room = (0.5 if relation else 1.0) - 2 * radius  # how far the group may move along the axis
        along = 0.5 * place + radius + room * (0.1 + 0.8 * jitter[1])
        slot = 1.0 / group["count"]
        shade = 0.9 + 0.1 * jitter[2]
        colour = tuple(shade * value for value in grammar.COLOURS[group["colour"]])
        for number in range(group["count"]):
            across = slot * number + radius + (slot - 2 * radius) * (0.2 + 0.6 * jitter[3 + number])
            # a lone group lies in a row from left to right, at any height
            x, y = (along, across) if relation == "left of" else (across, along)
            blobs.append(Blob(shape=group["shape"], x=x, y=y, radius=radius, colour=colour))
    return blobs


def shapes(num: int, seed: int = 0, *, split: str = "train", image_size: int = 64, scenes: str = "mixed") -> Captioned:
    """Return `num` procedural scenes with captions, labels and attributes: public, any number, constant memory.

    Args:
        num: number of rows.
        seed: public number.
        split: "train", "test", or "unseen": held-out combinations of colour and shape only.
        image_size: pixels per side, at least 16. Below 32 the shapes are hard to tell apart.
        scenes: "mixed", "single" or "pair".

    Raises:
        BadInput: a setting outside these.
    """
    if num < 1:
        raise BadInput(f"shapes needs at least one row, got {num}.")
    if split not in SPLITS:
        raise BadInput(f"shapes has the splits {', '.join(SPLITS)}, not '{split}'.")
    if scenes not in SCENES:
        raise BadInput(f"shapes has the scenes {', '.join(SCENES)}, not '{scenes}'.")
    if image_size < 16:
        raise BadInput(f"shapes needs image_size >= 16, got {image_size}.")
    names = tuple(f"{colour} {shape}" for colour in _COLOURS for shape in grammar.SHAPES)
    rows = ShapesRows(seed=seed, split=split, image_size=image_size, scenes=scenes)
    facts = {"kind": "shapes", "version": VERSION, "seed": seed, "split": split, "image_size": image_size}
    return Captioned(
        name=f"shapes ({split})",
        rows=rows,
        selection=range(num),
        facts={**facts, "scenes": scenes},
        public=True,
        augment="none",  # a crop could cut an object off, or make a small one large
        class_names=names,
        class_captions=tuple(f"a large {name}" for name in names),
    )
