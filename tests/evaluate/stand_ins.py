"""Clouds of points with known classes, and small stand-ins for a data set and for a model."""

from dataclasses import dataclass, field, replace

import numpy as np

from sfumato.base import UndecodableRow
from sfumato.evaluate.subject import Subject


def clouds(num, *, num_classes=4, num_features=6, spread=1.0, seed=0):
    """Return features (N, D) float32 around one centre per class, and labels (N,)."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(num_classes, num_features)) * 2
    labels = rng.integers(num_classes, size=num)
    return (centres[labels] + spread * rng.normal(size=(num, num_features))).astype(np.float32), labels


@dataclass(frozen=True, kw_only=True, eq=False)
class Rows:
    """A labelled, captioned set in memory; rows in `broken` cannot be read."""

    images: np.ndarray  # (N, H, W, C) uint8
    labels: np.ndarray | None
    name: str = "rows"
    public: bool = True
    class_names: tuple[str, ...] | None = ("dark", "light")
    scenes: tuple | None = None
    captions: tuple[str, ...] | None = None
    class_captions: tuple[str, ...] | None = None
    broken: frozenset = field(default_factory=frozenset)

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        if index in self.broken:
            raise UndecodableRow("a row cannot be read")
        return {
            "image": self.images[index],
            "caption": self.captions[index] if self.captions else None,
            "label": None if self.labels is None else int(self.labels[index]),
            "attributes": self.scenes[index] if self.scenes else None,
        }

    def manifest(self):
        return {"name": self.name, "public": self.public, "images": hash(self.images.tobytes())}


class Plain:
    """Normalisation: values in [0, 1], channels first."""

    def evaluate(self, image):
        return image.transpose(2, 0, 1).astype(np.float32) / 255


def shades(num, *, seed=0, **more):
    """Return pictures of two classes, dark and light, 14 x 14."""
    rng = np.random.default_rng(seed)
    labels = np.arange(num) % 2
    images = rng.integers(0, 120, (num, 14, 14, 1)) + 100 * labels[:, None, None, None]
    return Rows(
        images=images.astype(np.uint8),
        labels=labels,
        captions=tuple(f"a {'light' if y else 'dark'} one" for y in labels),
        **more,
    )


def looker():
    """Return a subject that tells dark from light by the mean pixel."""

    def light(pictures):
        return pictures.mean((1, 2, 3)) > 0.43

    def losses(pictures, captions):
        most = max(map(len, captions))
        # the first caption is liked if the picture is light, the last one otherwise
        rows = [
            np.linspace(1, 2, len(group)) if bright else np.linspace(2, 1, len(group))
            for bright, group in zip(light(pictures), captions)
        ]
        return np.stack([np.concatenate([row, np.full(most - len(row), np.inf)]) for row in rows])

    return Subject(
        encode=lambda pictures: np.stack([pictures.mean((1, 2, 3)), pictures.std((1, 2, 3))], 1),
        encode_at_random=lambda pictures: pictures[:, 0, 0, :2] % 0.1,  # the shade is lost
        describe=lambda pictures: ["a light one" if bright else "a dark one" for bright in light(pictures)],
        score_labels=lambda pictures, texts: np.stack([~light(pictures), light(pictures)], 1).astype(float),
        caption_losses=losses,
    )


def watcher():
    """Return a subject that sees light as `looker` does, and does nothing else."""
    return Subject(encode=looker().encode, encode_at_random=looker().encode_at_random)


def matcher():
    """Return a subject that lays pictures and texts on a half circle, from dark to light."""

    def at(light):
        angles = np.pi * np.clip(light, 0, 1)
        return np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)

    return replace(
        watcher(),
        embed_images=lambda pictures: at((pictures.mean((1, 2, 3)) - 0.235) / 0.392),
        embed_texts=lambda texts: at(np.array([brightness(text) for text in texts])),
    )


def brightness(text):
    """Return 0 for a text that says dark, 1 for light, a share for "shade N" of 100."""
    words = text.casefold().split()
    if "shade" in words:
        return int(words[-1]) / 100
    return float("light" in words)
