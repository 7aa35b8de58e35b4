"""A data set whose rows read other rows is refused, where it shows in its own sequences."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import Subset, TensorDataset

from sfumato.base import BadInput
from sfumato.train.rows import Rows

ROWS = [torch.full((3,), float(number)) for number in range(8)]


@dataclass(frozen=True)
class Mixed:
    rows: Any
    order: Any
    share: float = 0.5

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Tensor:
        other = self.rows[int(self.order[index])]
        return (1 - self.share) * self.rows[index] + self.share * other if self.share else self.rows[index]


class Drawn(Mixed):
    def draw(self, index: int, rng: np.random.Generator) -> Tensor:
        return self[index] + 0 * float(rng.random())


@pytest.mark.parametrize("kind", [Mixed, Drawn])
@pytest.mark.parametrize("rows", [ROWS, torch.stack(ROWS), Subset(ROWS, range(8))], ids=["list", "tensor", "set"])
def test_mixup_is_refused_by_the_name_of_the_sequence(kind: type, rows: Any) -> None:
    order = np.roll(np.arange(8), 3)
    with pytest.raises(BadInput, match="several entries of its rows"):
        Rows(kind(rows, order)).settle()


@pytest.mark.parametrize(
    "dataset",
    [
        Mixed(ROWS, np.arange(8)),  # each row with itself
        Mixed(ROWS, range(8)),
        TensorDataset(torch.stack(ROWS)),
        Subset(TensorDataset(torch.stack(ROWS)), [7, 6, 5, 4, 3, 2, 1, 0]),
        TensorDataset(torch.stack(ROWS[:2]), torch.stack(ROWS[2:4])),  # as many tensors as rows
    ],
    ids=["itself", "range", "tensors", "permuted", "two of two"],
)
def test_rows_of_one_record_pass(dataset: Any) -> None:
    Rows(dataset).settle()
