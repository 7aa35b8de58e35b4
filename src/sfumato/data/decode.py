"""Picture files to arrays: one way in for every source, and what it does with each kind of file.

8 bits: (H, W, 1) or (H, W, 3) uint8. Alpha, transparent palettes and transparent colours are laid on white; CMYK
becomes RGB; the EXIF orientation is applied; of an animation the first frame is taken. Deeper than 8 bits (16-bit PNG
and TIFF, 32-bit and floating-point TIFF, DICOM): a *declared public window* (low, high) of stored values is stretched
to [0, 255] and kept as float32, so that nothing is rounded before the picture is resized. Without a window such files
are refused before training: Pillow's own conversion would clip them, and a window fitted to the data would be a
private statistic.

Whatever is wrong with one file while training is an `UndecodableRow` with a message that holds nothing of the file.
"""

import io
import os
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageOps

from sfumato.base.errors import BadInput, UndecodableRow
from sfumato.data import dicom
from sfumato.data.quiet import quiet
from sfumato.data.regular import bytes_of, opened
from sfumato.data.window import Window, check_window, stretch

FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "GIF", "WEBP", "PPM", "JPEG2000")  # no EPS: it would start Ghostscript
_ENDINGS = "png apng jpg jpeg jpe tif tiff bmp gif webp ppm pgm pnm jp2 j2k dcm dicom"
EXTENSIONS = frozenset("." + ending for ending in _ENDINGS.split())
_MOST_PIXELS = 178_956_970  # Pillow opens nothing larger (twice Image.MAX_IMAGE_PIXELS)
_WHITE_IS_ZERO = 0  # of TIFF tag 262, PhotometricInterpretation

Source = str | os.PathLike[str] | bytes


class Header(NamedTuple):
    """What a file says of its picture before any pixel is read."""

    width: int
    height: int
    deep: bool  # more than 8 bits per channel
    channels: int


@dataclass(frozen=True, kw_only=True)
class Decoder:
    """How picture files become arrays.

    Attributes:
        window: public (low, high): the stored values (of DICOM: after slope and intercept) that become black and
            white in files deeper than 8 bits. None refuses such files.
        max_pixels: public limit on width times height; larger pictures are undecodable rows.
    """

    window: Window | None = None
    max_pixels: int = 1 << 26

    def __post_init__(self) -> None:
        if self.window is not None and not (
            np.isfinite(self.window[0]) and np.isfinite(self.window[1]) and self.window[0] < self.window[1]
        ):
            raise BadInput(f"window must be (low, high) with low < high, got {self.window}.")
        if not 0 < self.max_pixels <= _MOST_PIXELS:
            raise BadInput(f"max_pixels must lie in 1..{_MOST_PIXELS}, got {self.max_pixels}.")

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as JSON values."""
        return {"window": None if self.window is None else list(self.window), "max_pixels": self.max_pixels}

    def __call__(self, source: Source) -> np.ndarray:
        """Return the picture of a file (path or bytes): (H, W, 1 or 3), uint8, or float32 in [0, 255] if deep.

        Raises:
            UndecodableRow: unreadable, truncated or too large.
            BadInput: deeper than 8 bits and no window declared; DICOM without the extra.
        """
        try:
            with quiet():
                raw = _read(source)
                if dicom.is_dicom(raw):
                    return dicom.pixels(raw, self.window, self.max_pixels)
                return self._picture(raw)
        except (BadInput, UndecodableRow):
            raise
        except Exception:  # a malformed file makes a decoder raise anything; its message may quote the file
            raise UndecodableRow("a picture cannot be read: missing, truncated or not a known format.") from None

    def _picture(self, raw: bytes) -> np.ndarray:
        with Image.open(io.BytesIO(raw), formats=FORMATS) as image:
            if image.width * image.height > self.max_pixels:
                raise UndecodableRow("a picture is larger than the public limit max_pixels.")
            deep, inverted = _is_deep(image), _is_inverted(image)
            image.load()
            upright = ImageOps.exif_transpose(image)
            if not deep:
                return _eight_bits(upright)
            if not upright.mode.startswith(("I", "F")):
                check_window(self.window, 3)
                return _eight_bits(upright)
            stored = np.asarray(upright, np.float64)[:, :, None]
        return stretch(stored, self.window, inverted=inverted)


def _read(source: Source) -> bytes:
    if isinstance(source, bytes):
        return source
    return bytes_of(source)


def _raw_mode(image: Image.Image) -> str:
    """Return how the file stores its pixels ("RGB;16B", ...), from the first tile's decoder arguments."""
    for tile in getattr(image, "tile", ())[:1]:
        args = tile[3]
        mode = args[0] if isinstance(args, tuple) and args else args
        return mode if isinstance(mode, str) else ""
    return ""


def _is_deep(image: Image.Image) -> bool:
    return image.mode.startswith(("I", "F")) or ";16" in _raw_mode(image)


def _is_inverted(image: Image.Image) -> bool:
    tags = getattr(image, "tag_v2", None)  # TIFF only
    return tags is not None and tags.get(262) == _WHITE_IS_ZERO


def _eight_bits(image: Image.Image) -> np.ndarray:
    """Return (H, W, 1) or (H, W, 3) uint8: transparency on white, everything else through Pillow's RGB."""
    transparent = "transparency" in image.info or image.mode in ("RGBA", "LA", "PA", "RGBa", "La")
    if transparent:
        grey = image.mode in ("1", "L", "LA", "La")
        rgba = np.asarray(image.convert("RGBA"), np.float32)
        alpha = rgba[:, :, 3:] / 255.0
        return (rgba[:, :, : 1 if grey else 3] * alpha + 255.0 * (1.0 - alpha) + 0.5).astype(np.uint8)
    if image.mode in ("1", "L"):
        return np.array(image.convert("L"))[:, :, None]
    return np.array(image.convert("RGB"))


def header(source: Source) -> Header:
    """Return size, depth and channels of a picture from its header alone. Raises UndecodableRow."""
    try:
        with quiet():
            if dicom.is_dicom(_head(source)):
                return Header(*dicom.header(_read(source) if isinstance(source, bytes) else source))
            file = io.BytesIO(source) if isinstance(source, bytes) else source
            with Image.open(file, formats=FORMATS) as image:
                grey = image.mode in ("1", "L", "LA") or image.mode.startswith(("I", "F"))
                return Header(image.width, image.height, _is_deep(image), 1 if grey else 3)
    except BadInput:
        raise
    except Exception:
        raise UndecodableRow("a picture's header cannot be read.") from None


def _head(source: Source) -> bytes:
    if isinstance(source, bytes):
        return source[:132]
    with opened(source) as file:
        return file.read(132)
