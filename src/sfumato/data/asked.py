"""Rows for a visual question answerer: a picture and its question as a model is fed them, the answer as labels."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from sfumato.base.errors import BadInput, UndecodableRow
from sfumato.data.captioned import Captioned

Fed = dict[str, torch.Tensor]
_PROBES = ((48, 64, "what is this?", "yes"), (40, 24, "what is to be seen on the left?", "a small red circle"))


@dataclass(frozen=True, eq=False)
class AskedRows:
    """A map-style dataset of `encode(picture, question, answer)`, the same keys, dtypes and shapes for every row.

    Attributes:
        captioned: visual questions; or captioned pictures, of which one public `question` is asked.
        encode: picture (H, W, 3) uint8 of any size, question, answer -> tensors without a batch dimension, "labels"
            among them; a pure function. It raises UndecodableRow for a row that cannot be fed, never printing it.
        question: public constant, asked of each picture of a set that has no questions of its own.
    """

    captioned: Captioned
    encode: Callable[[np.ndarray, str, str], Fed]
    question: str | None = field(default=None, kw_only=True)
    _form: dict[str, tuple[tuple[int, ...], str]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        own = self.captioned.has_questions
        if own and self.question is not None:
            raise BadInput(f"'{self.captioned.name}' has questions of its own: leave out question.")
        if not own and not (self.question or "").strip():
            raise BadInput(
                f"'{self.captioned.name}' has no questions: name their columns with --question-column and "
                "--answer-column, or give one public question to ask of every picture."
            )
        # with public rows, before the first private one: a shape that follows its row would tell of it
        forms = []
        for height, width, question, answer in _PROBES:
            grey = np.full((height, width, 3), 128, np.uint8)
            forms.append(_form(self.encode(grey, self.question or question, answer)))
        if "labels" not in forms[0]:
            raise BadInput(f"encode must return labels, got {', '.join(forms[0])}.")
        if forms[0] != forms[1]:
            uneven = [name for name in {**forms[0], **forms[1]} if forms[0].get(name) != forms[1].get(name)]
            raise BadInput(
                f"encode must return the same shapes and dtypes for every row; {', '.join(uneven)} follows the picture "
                "or the text: fix the picture size and pad to a public length."
            )
        object.__setattr__(self, "_form", forms[0])

    def __len__(self) -> int:
        return len(self.captioned)

    def draw(self, index: int, rng: np.random.Generator) -> Fed:
        """Return row `index` with one of its answers, drawn from `rng`. Raises UndecodableRow."""
        return self._fed(self.captioned.draw(index, rng))

    def __getitem__(self, index: int) -> Fed:
        """Return row `index` with its commonest answer. Raises UndecodableRow."""
        return self._fed(self.captioned[index])

    @property
    def owners(self) -> list[np.ndarray] | None:
        """Row numbers of each record (the picture, or its owner), or None where a row is a record."""
        return self.captioned.owners

    def manifest(self) -> dict[str, Any]:
        """Return what identifies the rows in a fingerprint; tokenizer and processor are the caller's to add."""
        form = {name: [list(shape), dtype] for name, (shape, dtype) in sorted(self._form.items())}
        return {**self.captioned.manifest(), "asked": self.question, "fed": form}

    def _fed(self, row: dict[str, Any]) -> Fed:
        question = row["question"] if self.question is None else self.question
        fed = self.encode(eight_bit_rgb(row["image"]), question, row["caption"])
        if _form(fed) != self._form:
            raise UndecodableRow("a row is fed in other shapes than the public ones.")
        return fed


def _form(fed: Fed) -> dict[str, tuple[tuple[int, ...], str]]:
    return {name: (tuple(tensor.shape), str(tensor.dtype)) for name, tensor in fed.items()}


def eight_bit_rgb(image: np.ndarray) -> np.ndarray:
    """Return a decoded picture, (H, W, 1 or 3) uint8 or float32 in [0, 255], as (H, W, 3) uint8.

    Raises:
        UndecodableRow: another number of axes.

    >>> eight_bit_rgb(np.full((1, 1, 1), 7.6, np.float32)).tolist()
    [[[8, 8, 8]]]
    """
    if image.ndim != 3:
        raise UndecodableRow("a picture is no (height, width, channels) array.")
    if image.dtype != np.uint8:
        image = np.clip(np.rint(image), 0, 255).astype(np.uint8)
    return np.ascontiguousarray(np.repeat(image, 3, axis=2) if image.shape[2] == 1 else image)
