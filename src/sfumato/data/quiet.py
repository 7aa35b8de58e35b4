"""Silence while private files are decoded: a warning of Pillow or pydicom may quote the file."""

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

_lock = threading.Lock()
_inside = 0
_filters: warnings.catch_warnings | None = None  # held while any thread decodes


@contextmanager
def quiet() -> Iterator[None]:
    """Ignore the warnings of Pillow and pydicom inside the block, in all threads; the last to leave restores them.

    `warnings.catch_warnings` alone is not safe in threads: leaving in another order would keep the filter for good.
    """
    global _inside, _filters
    with _lock:
        _inside += 1
        if _inside == 1:
            _filters = warnings.catch_warnings()
            _filters.__enter__()
            warnings.filterwarnings("ignore", module=r"(PIL|pydicom)(\.|$)")
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if _inside == 0:
                assert _filters is not None
                _filters.__exit__(None, None, None)
                _filters = None
