"""Rows for a captioning or a contrastive loss: a picture as the network sees it and its caption as token ids."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from sfumato.base.errors import BadInput
from sfumato.data.captioned import Captioned
from sfumato.data.jitter import Jitter
from sfumato.data.transforms import Preprocess

TEXT_NAMES = ("labels", "input_ids")
_REMEMBERED = 1 << 16  # captions kept encoded: template sets repeat a few dozen, shapes some ten thousand


@dataclass(frozen=True, kw_only=True, eq=False)
class PairRows:
    """A map-style dataset of `{"pixel_values": float32 (C, S, S), text_name: int64 (max_tokens,)}`.

    Every row has the same shapes whatever it holds: padding follows the public `max_tokens`, never the longest caption.

    Attributes:
        captioned: pictures and captions.
        preprocess: augmentation and normalisation.
        encode: list of B captions -> (B, max_tokens) int64 ids; a pure function. Padding is -100 in "labels", and the
            tokenizer's pad id in "input_ids".
        max_tokens: L, public.
        vary_captions: draw one of a row's captions where it has several; otherwise its fixed one.
        jitter: distortion of colour that keeps captions true (`Jitter.suited(captions=True)`); None distorts nothing.
        text_name: "labels", what a captioner is to say; or "input_ids", what the text tower of a dual encoder reads.
    """

    captioned: Captioned
    preprocess: Preprocess
    encode: Callable[[list[str]], Any]
    max_tokens: int
    vary_captions: bool = True
    jitter: Jitter | None = None
    text_name: str = "labels"
    _known: dict[str, torch.Tensor] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.text_name not in TEXT_NAMES:
            raise BadInput(f"text_name must be one of {', '.join(TEXT_NAMES)}, got '{self.text_name}'.")
        # with public text, before the first row: an error inside a row would count as a row that cannot be read
        shape = tuple(np.asarray(self.encode(["a picture"])).shape)
        if shape != (1, self.max_tokens):
            raise BadInput(f"encode must return (captions, max_tokens) = (1, {self.max_tokens}) ids, got {shape}.")
        if self.text_name == "input_ids" and np.asarray(self.encode([""])).min() < 0:
            raise BadInput("encode must pad input_ids with the tokenizer's pad id: -100 is for labels, see `padded`.")

    def __len__(self) -> int:
        return len(self.captioned)

    def draw(self, index: int, rng: np.random.Generator) -> dict[str, torch.Tensor]:
        """Return row `index` augmented, its caption drawn where it has several. Raises UndecodableRow."""
        row = self.captioned.draw(index, rng) if self.vary_captions else self.captioned[index]
        return {
            "pixel_values": self.preprocess.train(row["image"], rng, self.jitter),
            self.text_name: self.ids(row["caption"]),
        }

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        """Return row `index` as in evaluation, with its fixed caption. Raises UndecodableRow."""
        row = self.captioned[index]
        return {"pixel_values": self.preprocess.evaluate(row["image"]), self.text_name: self.ids(row["caption"])}

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
            "jitter": None if self.jitter is None else self.jitter.to_dict(),
            "text_name": self.text_name,
        }

    def ids(self, caption: str) -> torch.Tensor:
        """Return the token ids of a caption, int64 (max_tokens,); each caption is encoded once."""
        known = self._known.get(caption)
        if known is None:
            known = torch.from_numpy(np.asarray(self.encode([caption]))[0].astype(np.int64))
            if len(self._known) < _REMEMBERED:
                self._known[caption] = known
        return known.clone()  # the caller may write into its row


def padded(
    encode: Callable[[list[str]], Any], *, pad_id: int, start_id: int | None = None
) -> Callable[[list[str]], np.ndarray]:
    """Return an encoder of `input_ids` (B, L), made from one of labels (B, L), or (B, L - 1) with a start token.

    Args:
        encode: list of B captions -> int64 ids with -100 on padding.
        pad_id: the tokenizer's padding token, from which the text tower tells what is padding.
        start_id: token that every text begins with ([CLS] of BERT, the start of CLIP); None adds none.

    >>> labels = lambda texts: np.array([[7, 2, -100]] * len(texts))
    >>> padded(labels, pad_id=0, start_id=1)(["word"]).tolist()
    [[1, 7, 2, 0]]
    """

    def input_ids(captions: list[str]) -> np.ndarray:
        ids = np.asarray(encode(captions))
        if start_id is not None:
            ids = np.concatenate([np.full((len(ids), 1), start_id, ids.dtype), ids], axis=1)
        return np.where(ids < 0, pad_id, ids)

    return input_ids
