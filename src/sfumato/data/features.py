"""Rows of features that a frozen model gave, in place of pictures: what a head alone trains on.

A frozen model that draws nothing maps each row by itself, so training on its features is training on the rows: a record
still contributes its own rows and nothing else, and the unit and the sensitivity stay what they are.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from sfumato.base.errors import BadInput, UndecodableRow
from sfumato.data.captioned import Captioned


@dataclass(frozen=True, kw_only=True, eq=False)
class FeatureRows:
    """A map-style dataset of one row of each array.

    Attributes:
        captioned: the set that the features were computed on, row by row.
        columns: name -> (R, ...) array; row i of each belongs to row i of the set.
        readable: (R,) bool; a row that could not be read stays a row, and contributes nothing.
        source: what computed the features (a digest of its weights and settings), for the fingerprint.
    """

    captioned: Captioned
    columns: Mapping[str, np.ndarray] = field(repr=False)
    readable: np.ndarray = field(repr=False)
    source: str

    def __post_init__(self) -> None:
        for name, column in {**self.columns, "readable": self.readable}.items():
            if len(column) != len(self.captioned):
                raise BadInput(f"features '{name}' have {len(column)} rows, the set has {len(self.captioned)}.")

    def __len__(self) -> int:
        return len(self.captioned)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        """Return row `index` of every array. Raises UndecodableRow where the row could not be read."""
        if not self.readable[index]:
            raise UndecodableRow("the picture could not be read when features were computed.")
        return {name: torch.as_tensor(column[index]) for name, column in self.columns.items()}

    def draw(self, index: int, rng: np.random.Generator) -> dict[str, torch.Tensor]:
        """Return row `index`: nothing is drawn."""
        del rng
        return self[index]

    @property
    def owners(self) -> list[np.ndarray] | None:
        """Row numbers of each record, or None where a row is a record."""
        return self.captioned.owners

    def manifest(self) -> dict[str, Any]:
        """Return what identifies the rows in a fingerprint."""
        return {**self.captioned.manifest(), "features": sorted(self.columns), "source": self.source}
