"""Picture files to arrays: one way in for every source, and what it does with each kind of file.

8 bits: (H, W, 1) or (H, W, 3) uint8. Alpha, transparent palettes and transparent colours are laid on white; CMYK
becomes RGB; the orientation is applied; of an animation the first frame is taken. Deeper than 8 bits (16-bit PNG
and TIFF, 32-bit and floating-point TIFF, JPEG 2000, PGM, DICOM): a *declared public window* (low, high) of stored
values is stretched to [0, 255] and kept as float32, so that nothing is rounded before the picture is resized. Without
a window such files are refused before training: Pillow's own conversion would clip them, and a window fitted to the
data would be a private statistic.

A picture is decoded once, as Pillow keeps it, and converted in strips: next to the result nothing else of its size is
held. Whatever is wrong with one file while training is an `UndecodableRow` with a message that holds nothing of it.
"""

import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from PIL import Image

from sfumato.base.errors import BadInput, UndecodableRow
from sfumato.data import dicom
from sfumato.data.depth import Depth, depth_of, scale_clear
from sfumato.data.formats import HEAD, TOO_LARGE, NoPicture, Source, readable_formats, too_large_message, unread_message
from sfumato.data.metadata import Bare, bare, orientation_of, upright
from sfumato.data.quiet import quiet
from sfumato.data.regular import bytes_of, opened
from sfumato.data.window import Window, check_window, stretch

_MOST_PIXELS = 178_956_970  # Pillow opens nothing larger (twice Image.MAX_IMAGE_PIXELS)
_LARGE = 1 << 22  # pixels from which a picture may be reduced while it is read
_SPARE = 2  # a reduced picture keeps so many times the side that is needed: what is left to do is a proper resize
_STRIP = 1 << 20  # pixels that are converted at once
_WHITE_IS_ZERO = 0  # of TIFF tag 262, PhotometricInterpretation


class Header(NamedTuple):
    """What a file says of its picture before any pixel is read."""

    width: int
    height: int
    deep: bool  # more than 8 bits per channel
    channels: int
    full: int | None = None  # of deep colour the largest stored value: no other window can be read (see `Depth`)


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

    def __call__(self, source: Source, *, side: int | None = None) -> np.ndarray:
        """Return the picture of a file (path or bytes): (H, W, 1 or 3), uint8, or float32 in [0, 255] if deep.

        Args:
            source: path or bytes.
            side: pixels of the shorter side that are needed at most. A picture of more than 4 million pixels is then
                reduced by a whole factor while it is read, never below twice that; others come as they are.

        Raises:
            UndecodableRow: unreadable, truncated or too large.
            BadInput: deeper than 8 bits and no window declared; DICOM without the extra.
        """
        raw = b""
        try:
            with quiet():
                raw = _read(source)
                if dicom.is_dicom(raw):
                    pixels = dicom.pixels(raw, self.window, self.max_pixels)
                    return pixels if side is None else reduced(pixels, side)
                return self._picture(bare(raw), side)
        except (BadInput, UndecodableRow):
            raise
        except Image.DecompressionBombError:
            raise self._too_large() from None
        except Exception:  # a malformed file makes a decoder raise anything; its message may quote the file
            raise UndecodableRow(unread_message(raw[:HEAD])) from None

    def _picture(self, found: Bare, side: int | None) -> np.ndarray:
        with _opened(found.raw) as image:
            if image.width * image.height > self.max_pixels:
                raise self._too_large()
            depth, inverted = depth_of(image), _is_inverted(image)
            factor = _factor(image.size, side)
            if factor > 1 and not depth.deep:
                _draft(image, factor)
            scale_clear(image)
            image.load()
            if image.width * image.height > self.max_pixels:  # an icon that holds another size than it says
                raise self._too_large()
            orientation = found.orientation or orientation_of(image)
            convert: Callable[[Image.Image], np.ndarray] = _eight_bits
            if depth.full is not None:
                check_window(self.window, depth.full)
            elif depth.deep:
                convert = partial(_stretched, depth=depth, window=self.window, inverted=inverted)
            pixels = _converted(image, convert, _factor(image.size, side))
        return upright(pixels, orientation)

    def _too_large(self) -> UndecodableRow:
        return UndecodableRow(too_large_message(self.max_pixels))


def _opened(raw: bytes) -> Image.Image:
    """Open a file. Raises whatever Pillow raises."""
    try:
        return _without_xmp(Image.open(io.BytesIO(raw), formats=readable_formats()))
    except Image.DecompressionBombError:
        raise
    except Exception:
        if raw[4:8] != b"ftyp":
            raise
        # AVIF: its EXIF, of which only the orientation counts, is read when it is opened; unknown parts are skipped
        return _without_xmp(Image.open(io.BytesIO(raw.replace(b"Exif", b"skip")), formats=readable_formats()))


def _without_xmp(image: Image.Image) -> Image.Image:
    if not isinstance(
        image.info.get("xmp", b""), bytes
    ):  # a TIFF may hold anything there, and loads it with its pixels
        del image.info["xmp"]
    return image


def _factor(size: tuple[int, int], side: int | None) -> int:
    """Return the whole factor by which a picture may be reduced."""
    if side is None or size[0] * size[1] <= _LARGE:
        return 1
    return max(1, min(size) // (_SPARE * side))


def _draft(image: Image.Image, factor: int) -> None:
    """Let a JPEG be decoded at a half, a quarter or an eighth of its size; other formats ignore it."""
    image.draft(None, (image.width // factor, image.height // factor))


def _converted(image: Image.Image, convert: Callable[[Image.Image], np.ndarray], factor: int) -> np.ndarray:
    """Return a loaded picture as an array, strip by strip, every `factor` pixels in both directions made one."""
    width, height = image.size
    rows = factor * max(1, _STRIP // (width * factor))
    if rows >= height:
        return _by(convert(image), factor)
    pixels = None
    for top in range(0, height, rows):
        strip = _by(convert(image.crop((0, top, width, min(top + rows, height)))), factor)
        if pixels is None:
            pixels = np.empty((-(-height // factor), *strip.shape[1:]), strip.dtype)
        pixels[top // factor : top // factor + len(strip)] = strip
    assert pixels is not None
    return pixels


def _by(pixels: np.ndarray, factor: int) -> np.ndarray:
    if factor == 1:
        return pixels
    planes = [Image.fromarray(np.ascontiguousarray(plane)).reduce(factor) for plane in np.moveaxis(pixels, 2, 0)]
    return np.stack([np.asarray(plane) for plane in planes], axis=2)


def reduced(pixels: np.ndarray, side: int) -> np.ndarray:
    """Return a decoded picture (H, W, C) as `Decoder` returns it where `side` pixels are needed."""
    return _by(pixels, _factor((pixels.shape[1], pixels.shape[0]), side))


def _read(source: Source) -> bytes:
    if isinstance(source, bytes):
        return source
    return bytes_of(source)


def _stretched(image: Image.Image, depth: Depth, window: Window | None, *, inverted: bool) -> np.ndarray:
    """Return (H, W, 1) float32 of deep grey: through the window, and its transparent value on white."""
    values = np.asarray(image, np.float64)[:, :, None]
    shown = stretch(depth.stored(values), window, inverted=inverted)
    clear = image.info.get("transparency")
    return shown if clear is None else np.where(values == clear, np.float32(255.0), shown)


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
        with quiet(), io.BytesIO(source) if isinstance(source, bytes) else opened(source) as file:
            begins = file.read(HEAD)
            file.seek(0)
            return Header(*dicom.header(file)) if dicom.is_dicom(begins) else _header(file)
    except (BadInput, NoPicture):
        raise
    except Image.DecompressionBombError:
        raise UndecodableRow(f"{TOO_LARGE}.") from None
    except Exception:
        raise UndecodableRow("a picture's header cannot be read.") from None


def _header(file: BinaryIO) -> Header:
    try:
        with Image.open(file, formats=readable_formats()) as image:
            return _header_of(image)
    except Image.DecompressionBombError:
        raise
    except Exception:  # broken metadata, perhaps: then the whole file is read
        file.seek(0)
        with _opened(bare(file.read()).raw) as image:
            return _header_of(image)


def _header_of(image: Image.Image) -> Header:
    grey = image.mode in ("1", "L", "LA") or image.mode.startswith(("I", "F"))
    depth = depth_of(image)
    return Header(image.width, image.height, depth.deep, 1 if grey else 3, depth.full)


def head(source: Source) -> bytes:
    """Return the first bytes of a file. Raises OSError where there is no regular file."""
    if isinstance(source, bytes):
        return source[:HEAD]
    with opened(source) as file:
        return file.read(HEAD)
