"""Float32 that is float32: products in TF32 or bfloat16 round norms and cosines past the margins that proofs allow."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

_PRODUCTS = (  # cuDNN's convolutions take TF32 unless they are told otherwise
    torch.backends.cuda.matmul,
    torch.backends.cudnn.conv,
    torch.backends.cudnn.rnn,
    torch.backends.mkldnn.matmul,
    torch.backends.mkldnn.conv,
    torch.backends.mkldnn.rnn,
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
