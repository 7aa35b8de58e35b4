"""The metadata of a picture file: the orientation is used, and the rest may be broken.

Text, colour profiles, resolutions and dates are neither needed nor trusted. Pillow reads those of PNG and JPEG while it
opens the file, so they are removed before; the orientation is looked up by itself, and where it cannot be read the
picture is taken to be upright.
"""

import contextlib
import re
import zlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from PIL import Image

_ORIENTATION = 274  # EXIF tag
_IN_XMP = re.compile(rb"tiff:Orientation(?:=\"|>)([1-8])")
_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_KEPT = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
_JPEG = b"\xff\xd8\xff"
_JFIF, _EXIF, _ADOBE, _COMMENT, _SCAN = 0xE0, 0xE1, 0xEE, 0xFE, 0xDA
_APPLICATION = range(0xE0, 0xF0)
_LEAST_JFIF, _LEAST_ADOBE = 14, 12  # bytes; both say which colours are stored
_EXIF_BEGINS, _XMP_BEGINS = b"Exif\0\0", b"http://ns.adobe.com/xap/"
_XMP_IN_PNG, _IN_PNG_TEXT = b"XML:com.adobe.xmp\0", b"Raw profile type exif\0"
_MOST_TEXT = 1 << 20  # bytes of a compressed text that are looked at


class Bare(NamedTuple):
    """A file without its metadata, and the orientation that this gave (None: the file was left as it is)."""

    raw: bytes
    orientation: int | None


def bare(raw: bytes) -> Bare:
    """Return a PNG or JPEG file without metadata and with its orientation, any other file as it is."""
    if raw.startswith(_PNG):
        return _bare_png(raw)
    return _bare_jpeg(raw) if raw.startswith(_JPEG) else Bare(raw, None)


def _bare_png(raw: bytes) -> Bare:
    kept, exif, xmp, at = [_PNG], None, None, len(_PNG)
    while at + 12 <= len(raw):
        size, kind = int.from_bytes(raw[at : at + 4], "big"), raw[at + 4 : at + 8]
        body, end = raw[at + 8 : at + 8 + size], at + 12 + size
        if kind in _PNG_KEPT:
            kept.append(raw[at:end])  # of a truncated file what is there
        elif kind == b"eXIf":
            exif = exif or _of_exif(body)
        elif kind in (b"tEXt", b"zTXt") and body.startswith(_IN_PNG_TEXT):
            exif = exif or _of_png_text(kind, body[len(_IN_PNG_TEXT) :])
        elif kind == b"iTXt" and body.startswith(_XMP_IN_PNG):
            xmp = xmp or _of_xmp(body)
        if kind == b"IEND":
            break
        at = end
    return Bare(b"".join(kept), exif or xmp or 1)


def _bare_jpeg(raw: bytes) -> Bare:
    kept, exif, xmp, at = [raw[:2]], None, None, 2
    for begin, end, marker in _segments(raw):
        body, at = raw[begin + 4 : end], end
        if marker == _EXIF and body.startswith(_EXIF_BEGINS):
            exif = exif or _of_exif(body)
        elif marker == _EXIF and body.startswith(_XMP_BEGINS):
            xmp = xmp or _of_xmp(body)
        if (marker not in _APPLICATION and marker != _COMMENT) or _says_colours(marker, body):
            kept.append(raw[begin:end])
    return Bare(b"".join([*kept, raw[at:]]), exif or xmp or 1)


def _segments(raw: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield (begin, end, marker) of the segments before the first scan, as far as they can be followed."""
    at = 2
    while at + 4 <= len(raw) and raw[at] == 0xFF:
        marker = raw[at + 1]
        if marker == 0xFF:  # a filling byte
            yield at, at + 1, _COMMENT
            at += 1
            continue
        size = int.from_bytes(raw[at + 2 : at + 4], "big")
        if marker == _SCAN or marker in range(0xD0, 0xDA) or size < 2:
            return
        yield at, min(at + 2 + size, len(raw)), marker
        at += 2 + size


def _says_colours(marker: int, body: bytes) -> bool:
    if marker == _ADOBE:
        return body.startswith(b"Adobe") and len(body) >= _LEAST_ADOBE
    return marker == _JFIF and body.startswith(b"JFIF\0") and len(body) >= _LEAST_JFIF


def _of_exif(data: bytes) -> int | None:
    try:
        tags = Image.Exif()
        tags.load(data)
        return _known(tags.get(_ORIENTATION))
    except Exception:  # a malformed block makes Pillow raise anything
        return None


def _of_png_text(kind: bytes, text: bytes) -> int | None:
    """Return the orientation of EXIF as ImageMagick keeps it in a PNG: a name, a length and hexadecimal digits."""
    with contextlib.suppress(ValueError, zlib.error):
        plain = zlib.decompressobj().decompress(text[1:], _MOST_TEXT) if kind == b"zTXt" else text
        return _of_exif(bytes.fromhex(b"".join(plain.split(b"\n")[3:]).decode("ascii")))
    return None


def _of_xmp(data: bytes) -> int | None:
    found = _IN_XMP.search(data)
    return int(found[1]) if found else None


def orientation_of(image: Image.Image) -> int:
    """Return the orientation that a loaded picture declares, 1 (upright) where it declares none that can be read."""
    try:
        return _known(image.getexif().get(_ORIENTATION)) or 1
    except Exception:
        return 1


def _known(value: object) -> int | None:
    return int(value) if isinstance(value, int | float) and value in range(1, 9) else None


def upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Return pixels (H, W, C) turned and mirrored as an EXIF orientation asks, contiguous.

    >>> upright(np.array([[[1], [2]]]), 6)[:, :, 0].tolist()
    [[1], [2]]
    """
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)
