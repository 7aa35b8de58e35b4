"""Whether reading one row of a data set reads other rows too, where that can be seen: in its own sequences.

A data set that mixes records in `__getitem__` or `draw` (mixup, retrieved neighbours) makes one record part of several
rows, and no mechanism behind it can tell. What can be checked: a shallow copy of the data set, whose sequences with one
entry for each row note which entries are read, reads one row.
"""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset

from sfumato.base import BadInput

_SEQUENCES = (list, tuple, np.ndarray, Tensor, Dataset)


class _Noting:
    """Stands for a sequence and notes which entries are read by number."""

    def __init__(self, sequence: Any) -> None:
        self._sequence = sequence
        self.read: set[int] = set()

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, int | np.integer):
            self.read.add(int(index) % len(self._sequence))
        return self._sequence[index]

    def __iter__(self) -> Any:
        return iter(self._sequence)

    def __len__(self) -> int:
        return len(self._sequence)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sequence, name)


def check_reads_alone(dataset: Any, read: Callable[[Any], Any]) -> None:
    """Read one row through a copy of the data set that notes which entries of its sequences are read.

    Args:
        dataset: any; one that cannot be copied or read so is not checked.
        read: gets the copy.

    Raises:
        BadInput: several entries of a sequence with one entry for each row were read.
    """
    try:
        attributes = vars(dataset)
        noted = {
            name: _Noting(value)
            for name, value in attributes.items()
            if isinstance(value, _SEQUENCES) and len(value) == len(dataset)  # pyright: ignore[reportArgumentType]
        }
        seen = copy.copy(dataset)
        vars(seen).update(noted)
        read(seen)
    except Exception:
        return
    for name, sequence in noted.items():
        if len(sequence.read) > 1:
            raise BadInput(
                f"reading one row of the data set reads several entries of its {name}: a row must be made of one "
                "record alone (no mixup, no neighbours), for a record that is part of several rows is not protected."
            )
