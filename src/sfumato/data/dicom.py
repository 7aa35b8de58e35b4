"""DICOM pictures through the extra: pixel tags only, so that names, dates and numbers of people are never parsed."""

import importlib.util
import io
import logging
from types import ModuleType
from typing import Any

import numpy as np

from sfumato.base.errors import BadInput, UndecodableRow
from sfumato.data.window import stretch

_MAGIC = slice(128, 132)
_SHAPE_TAGS = ["Rows", "Columns", "SamplesPerPixel", "PhotometricInterpretation", "BitsAllocated", "BitsStored"]
_SHAPE_TAGS += ["HighBit", "PixelRepresentation", "PlanarConfiguration", "NumberOfFrames"]
_VALUE_TAGS = ["RescaleSlope", "RescaleIntercept", "PixelData"]
_VALUE_TAGS += [
    f"{colour}PaletteColorLookupTable{what}" for colour in ("Red", "Green", "Blue") for what in ("Data", "Descriptor")
]


def is_dicom(raw: bytes) -> bool:
    """Say whether a file that begins with `raw` is a DICOM file."""
    return raw[_MAGIC] == b"DICM"


def _pydicom() -> ModuleType:
    if importlib.util.find_spec("pydicom") is None:
        raise BadInput("DICOM pictures need the extra: pip install sfumato[dicom].")
    import pydicom
    import pydicom.pixels

    logging.getLogger("pydicom").setLevel(logging.CRITICAL)  # its warnings quote the values of tags
    return pydicom


def header(source: Any) -> tuple[int, int, bool, int]:
    """Return (width, height, deep, channels) of a file (path or bytes). Raises BadInput for several frames."""
    opened = io.BytesIO(source) if isinstance(source, bytes) else source
    data = _pydicom().dcmread(opened, stop_before_pixels=True, specific_tags=[*_SHAPE_TAGS, *_VALUE_TAGS[:2]])
    _check_single(data)
    return int(data.Columns), int(data.Rows), _is_deep(data), 1 if _is_grey(data) else 3


def _check_single(data: Any) -> None:
    if int(data.get("NumberOfFrames") or 1) > 1:
        raise BadInput("a DICOM file holds several frames: export the frames that belong to the text as single files.")


def _is_grey(data: Any) -> bool:
    return data.PhotometricInterpretation in ("MONOCHROME1", "MONOCHROME2")


def _is_deep(data: Any) -> bool:
    rescaled = float(data.get("RescaleSlope", 1)) != 1 or float(data.get("RescaleIntercept", 0)) != 0
    return _is_grey(data) and (int(data.BitsStored) > 8 or int(data.PixelRepresentation) == 1 or rescaled)


def pixels(raw: bytes, window: tuple[float, float] | None, max_pixels: int) -> np.ndarray:
    """Return the picture: (H, W, 1) float32 in [0, 255] through the window, or uint8 where 8 bits say it all.

    Slope and intercept are applied before the window; MONOCHROME1 (small is white) is inverted after it.

    Raises:
        UndecodableRow: too large, or a colour space that is not read.
        BadInput: no window for a deep picture; several frames.
    """
    pydicom = _pydicom()
    data = pydicom.dcmread(io.BytesIO(raw), specific_tags=[*_SHAPE_TAGS, *_VALUE_TAGS])
    _check_single(data)
    if int(data.Rows) * int(data.Columns) > max_pixels:
        raise UndecodableRow("a picture is larger than the public limit max_pixels.")
    if not _is_grey(data):
        return _colour(data, pydicom)
    stored = data.pixel_array.astype(np.float64)[:, :, None]
    stored = stored * float(data.get("RescaleSlope", 1)) + float(data.get("RescaleIntercept", 0))
    inverted = data.PhotometricInterpretation == "MONOCHROME1"
    if _is_deep(data):
        return stretch(stored, window, inverted=inverted)
    full = float(2 ** int(data.BitsStored) - 1)
    eight = np.rint(np.clip(stored * (255.0 / full), 0, 255)).astype(np.uint8)
    return 255 - eight if inverted else eight


def _colour(data: Any, pydicom: ModuleType) -> np.ndarray:
    array = data.pixel_array  # YBR is converted to RGB by pydicom
    if data.PhotometricInterpretation == "PALETTE COLOR":
        array = pydicom.pixels.apply_color_lut(array, data)
        array = (array >> 8).astype(np.uint8) if array.dtype == np.uint16 else array
    if array.ndim != 3 or array.shape[2] != 3 or array.dtype != np.uint8:
        raise UndecodableRow("a DICOM picture has a colour space that is not read.")
    return array
