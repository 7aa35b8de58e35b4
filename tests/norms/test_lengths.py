"""Norms of long tensors: torch's own are too small."""

import torch

from sfumato.norms.lengths import length, squared_norms


def test_long_rows_of_equal_entries_have_their_norm() -> None:
    rows = torch.full((2, 3_000_001), 1e-4)
    assert torch.allclose(squared_norms(rows), torch.full((2,), 3_000_001 * 1e-8, dtype=torch.float64), rtol=1e-6)


def test_short_rows_scalars_and_empty_rows() -> None:
    rows = torch.randn(4, 3, 500)
    assert torch.allclose(squared_norms(rows), rows.double().square().sum((1, 2)), rtol=1e-6)
    assert torch.equal(squared_norms(torch.tensor([3.0, -2.0])), torch.tensor([9.0, 4.0], dtype=torch.float64))
    assert torch.equal(squared_norms(torch.zeros(2, 0)), torch.zeros(2, dtype=torch.float64))


def test_several_tensors_are_one_vector() -> None:
    assert float(length([torch.full((4,), 1.5), torch.tensor(4.0)])) == 5.0
