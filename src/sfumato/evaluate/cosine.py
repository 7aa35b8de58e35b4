"""Rows of unit length and their cosines, in blocks.

Shapes: N rows, D features.
"""

from collections.abc import Iterator

import numpy as np

from sfumato.base import BadInput

# Cosines of float32 rows are known to a few 1e-7, less where equal pictures stood in different batches. What is nearer
# than this counts as equal, so that a collapsed model cannot win by rounding.
ROUNDING = 1e-6


def unit(rows: np.ndarray, what: str) -> np.ndarray:
    """Return each row divided by its length, float32 (N, D); a row of zeros stays, its cosine with anything being 0.

    Raises:
        BadInput: rows that are not (N, D) with N >= 1, or values that are not finite; `what` names them.
    """
    rows = np.asarray(rows, np.float32)
    if rows.ndim != 2 or min(rows.shape) < 1:
        raise BadInput(f"{what}: cosines need (N, D) rows with N >= 1 and D >= 1, got shape {rows.shape}.")
    if not np.isfinite(rows).all():
        raise BadInput(f"{what}: the rows hold NaN or infinity, so the model has diverged.")
    # the largest entry first: squares of large float32 numbers would overflow, of small ones vanish
    largest = np.abs(rows).max(1, keepdims=True)
    rows = rows / np.where(largest > 0, largest, 1)
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(length > 0, length, 1)


def blocks(size: int, length: int) -> Iterator[slice]:
    """Yield slices of `length` that cover 0..size - 1, the last one shorter."""
    for start in range(0, size, length):
        yield slice(start, min(start + length, size))
