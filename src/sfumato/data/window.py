"""The declared public window: which stored values of a deep picture become black and white."""

import numpy as np

from sfumato.base.errors import BadInput, UndecodableRow

Window = tuple[float, float]


def check_window(window: Window | None, full: int | None = None) -> Window:
    """Return the window, or raise BadInput where a deep picture cannot be read with it.

    Args:
        window: what is declared.
        full: largest stored value of a picture whose colour is read in 8 bits of it only; None where all are kept.
    """
    if window is None:
        raise BadInput(
            "pictures with more than 8 bits per channel need a declared public window (low, high) of stored values, "
            "for example --window 0 4095 for 12-bit data; it must not be fitted to the private pictures."
        )
    # Pillow keeps the high byte of deep colour: right to 8 bits for the full range, wrong for any other window
    if full is not None and tuple(window) != (0, full):
        raise BadInput(
            f"a picture has {full.bit_length()} bits per colour channel, which can only be read with window (0, {full})"
            ": store it as 16-bit grey or as 8-bit colour."
        )
    return window


def stretch(stored: np.ndarray, window: Window | None, *, inverted: bool = False) -> np.ndarray:
    """Return stored values with the window stretched to [0, 255], float32, clipped outside it.

    >>> stretch(np.array([0.0, 2048.0, 9000.0]), (0, 4096)).tolist()
    [0.0, 127.5, 255.0]
    """
    low, high = check_window(window)
    if np.isnan(stored).any():
        raise UndecodableRow("a picture holds values that are not numbers.")
    scaled = np.clip((stored - low) * (255.0 / (high - low)), 0.0, 255.0)
    return (255.0 - scaled if inverted else scaled).astype(np.float32)
