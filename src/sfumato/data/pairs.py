"""Rows for a captioning loss: a picture as the network sees it and its caption as token ids."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from sfumato.base.errors import BadInput
from sfumato.data.captioned import Captioned
from sfumato.data.transforms import Preprocess

_REMEMBERED = 1 << 16  # captions kept encoded: template sets repeat a few dozen, shapes some ten thousand


@dataclass(frozen=True, kw_only=True, eq=False)
class PairRows:
    """A map-style dataset of `{"pixel_values": float32 (C, S, S), "labels": int64 (max_tokens,)}`.

    Every row has the same shapes whatever it holds: padding follows the public `max_tokens`, never the longest caption.

    Attributes:
        captioned: pictures and captions.
        preprocess: augmentation and normalisation.
        encode: list of B captions -> (B, max_tokens) int64 ids, -100 on padding; a pure function.
        max_tokens: L, public.
        vary_captions: draw one of a row's captions where it has several; otherwise its fixed one.
    """

    captioned: Captioned
    preprocess: Preprocess
    encode: Callable[[list[str]], Any]
    max_tokens: int
    vary_captions: bool = True
    _known: dict[str, torch.Tensor] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        # with public text, before the first row: an error inside a row would count as a row that cannot be read
        shape = tuple(np.asarray(self.encode(["a picture"])).shape)
        if shape != (1, self.max_tokens):
            raise BadInput(f"encode must return (captions, max_tokens) = (1, {self.max_tokens}) ids, got {shape}.")

    def __len__(self) -> int:
        return len(self.captioned)

    def draw(self, index: int, rng: np.random.Generator) -> dict[str, torch.Tensor]:
        """Return row `index` augmented, its caption drawn where it has several. Raises UndecodableRow."""
        row = self.captioned.draw(index, rng) if self.vary_captions else self.captioned[index]
        return {"pixel_values": self.preprocess.train(row["image"], rng), "labels": self._ids(row["caption"])}

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        """Return row `index` as in evaluation, with its fixed caption. Raises UndecodableRow."""
        row = self.captioned[index]
        return {"pixel_values": self.preprocess.evaluate(row["image"]), "labels": self._ids(row["caption"])}

    @property
    def owners(self) -> list[np.ndarray] | None:
        """Row numbers of each record, or None where a row is a record."""
        return self.captioned.owners

    def manifest(self) -> dict[str, Any]:
        """Return what identifies the rows in a fingerprint; the tokenizer is the caller's to add."""
        return {
            **self.captioned.manifest(),
            "preprocess": self.preprocess.to_dict(),
            "max_tokens": self.max_tokens,
            "vary_captions": self.vary_captions,
        }

    def _ids(self, caption: str) -> torch.Tensor:
        known = self._known.get(caption)
        if known is None:
            known = torch.from_numpy(np.asarray(self.encode([caption]))[0].astype(np.int64))
            if len(self._known) < _REMEMBERED:
                self._known[caption] = known
        return known.clone()  # the caller may write into its row
