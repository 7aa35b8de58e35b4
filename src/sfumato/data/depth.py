"""How deep a picture file stores its pixels, and what Pillow makes of them, so that a window means stored values.

Pillow scales some formats to 16 bits, or to 8, by the depth that their header names. Grey values are scaled back, which
is exact; colour that it brought to 8 bits can be read only where the window is the full range.

Sources: Pillow 13, PpmImagePlugin, Jpeg2KDecode.c (j2ku_gray_i), TiffImagePlugin.OPEN_INFO; ITU-T T.800, A.5.1 (SIZ).
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from sfumato.base.errors import BadInput

_SIXTEEN = (1 << 16) - 1
_SIZ = b"\xff\x4f\xff\x51"  # begin of a JPEG 2000 codestream and of the segment that describes it
_MOST_BOXES = 1 << 20  # bytes in which it must begin: colour profiles may stand before it
_NUM_COMPONENTS, _COMPONENTS = 40, 42  # places behind that begin: how many components, three bytes of each
_FACTORS = {"L;2": 85, "L;4": 17}  # by how Pillow stores grey of few bits
_SAMPLE_FORMAT, _SIGNED = 339, 2  # tag of TIFF, and one of its values


class Depth(NamedTuple):
    """What a window must know of a picture.

    Attributes:
        deep: more than 8 bits per channel.
        full: of deep colour the largest stored value, which Pillow makes 255; None where any window can be applied.
        stored: what Pillow returns of deep grey pictures, as float64, to stored values.
    """

    deep: bool
    full: int | None = None
    stored: Callable[[np.ndarray], np.ndarray] = lambda values: values


def depth_of(image: Image.Image) -> Depth:
    """Return the depth of a picture that is open and not loaded.

    Raises:
        BadInput: a depth that Pillow does not keep, of JPEG 2000, TIFF, and PNG with a transparent colour.
    """
    if image.format == "JPEG2000":
        return _of_jpeg_2000(image)
    if image.format == "PPM":
        return _of_ppm(image)
    raw = raw_mode(image)
    tags = getattr(image, "tag_v2", None)  # TIFF only
    is_grey = image.mode.startswith(("I", "F"))
    if tags is not None and not is_grey and _SIGNED in _several(tags.get(_SAMPLE_FORMAT)):
        raise BadInput(
            "a TIFF stores signed values of 8 bits, which are not read: store them as unsigned or in 16 bits."
        )
    if is_grey:
        return Depth(True, stored=_unsigned) if raw == "I;32N" else Depth(True)
    if ";16" in raw and "transparency" in image.info:
        raise BadInput(
            "a PNG has 16-bit colour with a transparent colour, of which only 8 bits are read: store it with an alpha "
            "channel, or in 8 bits."
        )
    return Depth(True, _SIXTEEN) if ";16" in raw else Depth(False)


def scale_clear(image: Image.Image) -> None:
    """Write the transparent value of a grey PNG of 2 or 4 bits as its pixels are read: stretched to 8."""
    factor, clear = _FACTORS.get(raw_mode(image)), image.info.get("transparency")
    if factor is not None and isinstance(clear, int):
        image.info["transparency"] = factor * clear


def raw_mode(image: Image.Image) -> str:
    """Return how the file stores its pixels ("RGB;16B", ...), from the first tile's decoder arguments."""
    for tile in getattr(image, "tile", ())[:1]:
        args = tile[3]
        mode = args[0] if isinstance(args, tuple) and args else args
        return mode if isinstance(mode, str) else ""
    return ""


def _several(value: object) -> tuple[object, ...]:
    return value if isinstance(value, tuple) else (value,)


def _of_ppm(image: Any) -> Depth:
    """PBM, PGM, PPM: values up to `maxval` are scaled to 65535 (grey) or 255 (colour); PFM is kept."""
    args = image.tile[0][3]
    most = args[1] if image.tile[0][0].startswith("ppm") and isinstance(args, tuple) else None
    if image.mode == "I":
        return Depth(True) if most is None else Depth(True, stored=partial(_of_most, most=most))
    if image.mode == "F":
        return Depth(True)
    return Depth(True, most) if isinstance(most, int) and most > 255 else Depth(False)


def _of_jpeg_2000(image: Image.Image) -> Depth:
    """9 to 15 bits of grey are shifted to 16, and signed values raised to begin at 0; colour is shifted to 8."""
    bits, signed = _precision(image)
    if image.mode == "I;16":
        if bits > 16:
            raise BadInput("a JPEG 2000 picture has more than 16 bits, of which 16 are read: store it as 32-bit TIFF.")
        return Depth(True, stored=partial(_shifted, bits=bits, lowest=-(1 << (bits - 1)) if signed else 0))
    return Depth(True, (1 << bits) - 1) if bits > 8 else Depth(False)


def _precision(image: Any) -> tuple[int, bool]:
    """Return the largest number of bits of a component of JPEG 2000, and whether one of them is signed."""
    place = image.fp.tell()
    image.fp.seek(0)
    begins = image.fp.read(_MOST_BOXES)
    image.fp.seek(place)
    at = begins.index(_SIZ)
    number = int.from_bytes(begins[at + _NUM_COMPONENTS : at + _COMPONENTS], "big")
    sizes = begins[at + _COMPONENTS : at + _COMPONENTS + 3 * number : 3]
    return max((size & 0x7F) + 1 for size in sizes), any(size & 0x80 for size in sizes)


def _of_most(values: np.ndarray, most: int) -> np.ndarray:
    return np.rint(values * (most / _SIXTEEN))


def _shifted(values: np.ndarray, bits: int, lowest: int) -> np.ndarray:
    return np.floor(values / (1 << (16 - bits))) + lowest


def _unsigned(values: np.ndarray) -> np.ndarray:
    """Of TIFF in 32 bits without a sign, of which Pillow keeps the bits with one."""
    return np.where(values < 0, values + 2.0**32, values)
