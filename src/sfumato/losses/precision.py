"""Float32 that is float32: products in TF32 or bfloat16 round norms and cosines past the margins that proofs allow."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

_BACKENDS: Any = torch.backends  # whose parts have no types
_PRODUCTS = (  # cuDNN's convolutions take TF32 unless they are told otherwise
    _BACKENDS.cuda.matmul,
    _BACKENDS.cudnn.conv,
    _BACKENDS.cudnn.rnn,
    _BACKENDS.mkldnn.matmul,
    _BACKENDS.mkldnn.conv,
    _BACKENDS.mkldnn.rnn,
)


@contextmanager
def full_float32() -> Iterator[None]:
    """Compute products of float32 numbers in full precision for a while, whatever the user's setting; put it back.

    Autocast is not touched: a forward pass in low precision is measured as it is.
    """
    before = [product.fp32_precision for product in _PRODUCTS]
    try:
        for product in _PRODUCTS:
            product.fp32_precision = "ieee"
        yield
    finally:
        for product, precision in zip(_PRODUCTS, before, strict=True):
            product.fp32_precision = precision
