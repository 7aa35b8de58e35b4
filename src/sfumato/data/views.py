"""Two views of one record, for an encoder that learns without captions.

Both come from the row's one generator, one after the other, so that they are independent, and so that a row is a
function of data set, index and key alone.

Legend: C channels, S pixels of a side.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from sfumato.base.errors import BadInput
from sfumato.base.seeds import derive, generator
from sfumato.data.captioned import Captioned
from sfumato.data.jitter import Jitter
from sfumato.data.transforms import Preprocess

_PUBLIC = bytes(32)  # the views of evaluation are no secret: the same on every machine


@dataclass(frozen=True, kw_only=True, eq=False)
class TwoViews:
    """A map-style dataset of `{"pixel_values": float32 (C, S, S), "other_view": float32 (C, S, S)}` (SimCLR).

    Attributes:
        captioned: pictures; their captions are not read.
        preprocess: crop, shift, flip and normalisation.
        jitter: colour distortion and blur.
    """

    captioned: Captioned
    preprocess: Preprocess
    jitter: Jitter

    def __post_init__(self) -> None:
        if not _varies(self.preprocess, self.jitter):
            raise BadInput("two views without augmentation are one picture twice: choose augment 'crop' or a Jitter.")

    @classmethod
    def suited(
        cls, captioned: Captioned, image_size: int, *, jitter: Jitter | None = None, **settings: Any
    ) -> "TwoViews":
        """Return two views as SimCLR takes them: random crops, flips where the set declares them safe, `Jitter.suited`.

        The crop does not follow the set's `augment`, which is about captions: no caption goes with a view.

        Args:
            captioned: pictures.
            image_size: S.
            jitter: another distortion than the usual one.
            settings: of `Preprocess`, in place of its defaults.
        """
        preprocess = Preprocess(image_size=image_size, **{"augment": "crop", "flip": captioned.flip, **settings})
        usual = Jitter.suited(image_size, channels=preprocess.channels)
        return cls(captioned=captioned, preprocess=preprocess, jitter=jitter or usual)

    def __len__(self) -> int:
        return len(self.captioned)

    def draw(self, index: int, rng: np.random.Generator) -> dict[str, torch.Tensor]:
        """Return two views of row `index`, every number drawn from `rng`. Raises UndecodableRow."""
        image = self.captioned[index]["image"]
        views = [self.preprocess.train(image, rng, self.jitter) for _ in range(2)]
        return {"pixel_values": views[0], "other_view": views[1]}

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        """Return the same two views of row `index` every time, drawn by a public key. Raises UndecodableRow."""
        return self.draw(index, _fixed(index))

    @property
    def owners(self) -> list[np.ndarray] | None:
        """Row numbers of each record, or None where a row is a record."""
        return self.captioned.owners

    def manifest(self) -> dict[str, Any]:
        """Return what identifies the rows in a fingerprint."""
        return {
            **self.captioned.manifest(),
            "preprocess": self.preprocess.to_dict(),
            "jitter": self.jitter.to_dict(),
            "views": 2,
        }


def _varies(preprocess: Preprocess, jitter: Jitter | None) -> bool:
    return preprocess.augment != "none" or preprocess.flip or not (jitter is None or jitter.is_nothing)


def _fixed(index: int) -> np.random.Generator:
    return generator(derive(_PUBLIC, "views", index))
