"""Several views of one record: two for an encoder that learns without captions, V with captions for a group.

All views of a row come from the row's one generator, one after the other, so that they are independent, and so that a
row is a function of data set, index and key alone.

Legend: C channels, S pixels of a side, V views, L text tokens.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from sfumato.base.errors import BadInput, UndecodableRow
from sfumato.base.seeds import derive, generator
from sfumato.data.captioned import Captioned
from sfumato.data.jitter import Jitter
from sfumato.data.pairs import PairRows
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


@dataclass(frozen=True, kw_only=True, eq=False)
class ViewRows:
    """A map-style dataset of V views of a record: `{"pixel_values": (V, C, S, S), text_name: (V, L)}`.

    View v is a picture with a caption that is true of it. Where a row has several captions the views take different
    ones as far as they go round (with `vary_captions` of `pairs`), in a drawn order.

    Attributes:
        pairs: pictures, preprocessing and encoder.
        num_views: V, public.
        jitter: distortion of each view; None distorts nothing.
        across_rows: take the views from different rows of the record's owner, where it has several: the drawn row
            first, then others in a drawn order. A row that cannot be read is replaced by the drawn one.
    """

    pairs: PairRows
    num_views: int
    jitter: Jitter | None = None
    across_rows: bool = False

    def __post_init__(self) -> None:
        if self.num_views < 1:
            raise BadInput(f"num_views must be >= 1, got {self.num_views}.")
        if self.across_rows and self.owners is None:
            raise BadInput("across_rows needs records with several rows, but this data set names no owners.")
        varied = _varies(self.pairs.preprocess, self.jitter) or self.pairs.vary_captions or self.across_rows
        if self.num_views > 1 and not varied:
            raise BadInput(
                f"num_views {self.num_views} without augmentation is one row {self.num_views} times: choose augment "
                "'crop' or 'shift', a Jitter, vary_captions or across_rows."
            )

    def __len__(self) -> int:
        return len(self.pairs)

    def draw(self, index: int, rng: np.random.Generator) -> dict[str, torch.Tensor]:
        """Return V views of the record of row `index`, every number drawn from `rng`. Raises UndecodableRow."""
        shown = {index: self._shown(index, rng)}
        pictures, texts = [], []
        for row in self._rows(index, rng):
            if row not in shown:
                try:
                    shown[row] = self._shown(row, rng)
                except UndecodableRow:
                    shown[row] = shown[index]
            image, captions = shown[row]
            pictures.append(self.pairs.preprocess.train(image, rng, self.jitter))
            texts.append(self.pairs.ids(next(captions)))
        return {"pixel_values": torch.stack(pictures), self.pairs.text_name: torch.stack(texts)}

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        """Return the same V views of row `index` every time, drawn by a public key. Raises UndecodableRow."""
        return self.draw(index, _fixed(index))

    @property
    def owners(self) -> list[np.ndarray] | None:
        """Row numbers of each record, or None where a row is a record."""
        return self.pairs.owners

    def manifest(self) -> dict[str, Any]:
        """Return what identifies the rows in a fingerprint; the tokenizer is the caller's to add."""
        return {
            **self.pairs.manifest(),
            "jitter": None if self.jitter is None else self.jitter.to_dict(),
            "views": self.num_views,
            "across_rows": self.across_rows,
        }

    def _shown(self, row: int, rng: np.random.Generator) -> tuple[np.ndarray, Iterator[str]]:
        """Return the picture of a row and its captions, round and round."""
        image = self.pairs.captioned[row]["image"]
        captions = self.pairs.captioned.captions_of(row)
        order = rng.permutation(len(captions)) if self.pairs.vary_captions else [0]
        return image, itertools.cycle([captions[place] for place in order])

    def _rows(self, index: int, rng: np.random.Generator) -> list[int]:
        """Return the V rows that the views are taken from, the drawn one first."""
        rows = [index]
        if self.across_rows:
            assert self.owners is not None
            siblings = self.owners[self._record_of[index]]
            rows += rng.permutation(siblings[siblings != index]).tolist()
        return list(itertools.islice(itertools.cycle(rows), self.num_views))

    @cached_property
    def _record_of(self) -> np.ndarray:
        """The record of each row, int64."""
        assert self.owners is not None
        found = np.empty(len(self), np.int64)
        for record, rows in enumerate(self.owners):
            found[rows] = record
        return found


def _varies(preprocess: Preprocess, jitter: Jitter | None) -> bool:
    return preprocess.augment != "none" or preprocess.flip or not (jitter is None or jitter.is_nothing)


def _fixed(index: int) -> np.random.Generator:
    return generator(derive(_PUBLIC, "views", index))
