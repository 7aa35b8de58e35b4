"""DICOM pictures through the extra: pixel tags only, so that names, dates and numbers of people are never parsed.

Stored values go through the file's Modality LUT, or slope and intercept; then through its VOI LUT, where it has one, or
else through the declared public window, which takes the place of the window that a file suggests; MONOCHROME1 (small is
white) is inverted last. pydicom decompresses and looks up.
"""

import importlib.util
import io
import logging
import math
import re
from types import ModuleType
from typing import Any

import numpy as np

from sfumato.base.errors import BadInput, UndecodableRow
from sfumato.data.dicom_check import (
    COLOURS,
    FRAMES,
    Pixels,
    Stop,
    check_described,
    check_picture,
    is_grey,
    low_bits,
    num_bytes,
)
from sfumato.data.formats import NoPicture, too_large_message
from sfumato.data.window import Window, check_window, stretch

_MAGIC = slice(128, 132)
_FIRST_TAGS = re.compile(rb"\x02\x00[\x00-\x16]\x00|\x08\x00[\x00-\x70]\x00")  # of a file without its preamble
_VR = re.compile(rb"CS|DA|LO|OB|SH|SQ|TM|UI|UL|UR")
_SHORT = 128  # bytes of the first value, where no VR tells the tag from chance
_SHAPE_TAGS = ["Rows", "Columns", "SamplesPerPixel", "PhotometricInterpretation", "BitsAllocated", "BitsStored"]
_SHAPE_TAGS += ["HighBit", "PixelRepresentation", "PlanarConfiguration", "NumberOfFrames"]
_VALUE_TAGS = ["RescaleSlope", "RescaleIntercept", "ModalityLUTSequence", "VOILUTSequence"]
_VALUE_TAGS += ["SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"]
_PALETTE_TAGS = [
    f"{segmented}{colour}PaletteColorLookupTableData" for segmented in ("", "Segmented") for colour in COLOURS
]
_PALETTE_TAGS += [f"{colour}PaletteColorLookupTableDescriptor" for colour in COLOURS]


class NeedsPackage(BadInput):
    """A picture can be read once a package is installed, which the message names."""


def is_dicom(raw: bytes) -> bool:
    """Say whether a file that begins with `raw` (132 bytes or more) is a DICOM file, with or without its preamble."""
    if raw[_MAGIC] == b"DICM":
        return True
    if not _FIRST_TAGS.match(raw):
        return False
    return bool(_VR.match(raw, 4)) or 0 < int.from_bytes(raw[4:8], "little") <= _SHORT  # 0: a TGA picture


def _pydicom() -> ModuleType:
    if importlib.util.find_spec("pydicom") is None:
        raise NeedsPackage("DICOM pictures need the extra: pip install sfumato[dicom].")
    import pydicom
    import pydicom.filereader
    import pydicom.pixels

    logging.getLogger("pydicom").setLevel(logging.CRITICAL)  # its warnings quote the values of tags
    return pydicom


def header(source: Any) -> tuple[int, int, bool, int, int | None]:
    """Return (width, height, deep, channels, full) of a file (path or bytes), as `decode.Header` describes them.

    Raises:
        BadInput: several frames, a slope of zero, a compression that pydicom does not know, bits that do not fit.
        NoPicture: nothing in the file is a picture.
        NeedsPackage: what decompresses the file is not installed.
    """
    pydicom = _pydicom()
    opened = io.BytesIO(source) if isinstance(source, bytes) else source
    stop = Stop()
    data = _read(pydicom, opened, [*_SHAPE_TAGS, *_VALUE_TAGS, *_PALETTE_TAGS], stop)
    check_described(data, stop.pixels)
    native = _check_decoder(pydicom, data)
    check_picture(data, stop.pixels, native=native)
    found = int(data.Columns), int(data.Rows), _is_deep(data), 1 if is_grey(data) else 3, _full(data)
    _check_decodes(pydicom, data, native=native)
    return found


def _check_decodes(pydicom: ModuleType, data: Any, *, native: bool) -> None:
    """Decode four black pixels of the description, which are written into `data`: what fails on them fails always.

    Those of a compressed picture are taken to be decompressed, and colour, which a JPEG decoder converts, to be RGB.

    Raises:
        NoPicture: they are no picture.
    """
    data.Rows = data.Columns = 2
    syntax = data.file_meta.TransferSyntaxUID
    if not native:
        if data.PhotometricInterpretation.startswith("YBR") and syntax != pydicom.uid.RLELossless:
            data.PhotometricInterpretation = "RGB"
        data.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    data.add_new("PixelData", "OW", bytes(num_bytes(data) + num_bytes(data) % 2))
    full = _full(data)
    try:
        _picture(data, pydicom, (0.0, float(full or 1)))
    except Exception:
        raise NoPicture("DICOM that cannot be decoded as its header describes it") from None


def _read(pydicom: ModuleType, opened: Any, tags: list[str], stop: Stop | None = None) -> Any:
    """Return the chosen tags of a file, its transfer syntax and rescaling filled in. Raises BadInput."""
    chosen = [pydicom.tag.Tag(tag) for tag in tags]
    data = pydicom.filereader.read_partial(opened, stop, specific_tags=chosen, force=True)
    if int(data.get("NumberOfFrames") or 1) > 1:
        raise BadInput(FRAMES)
    if "TransferSyntaxUID" not in data.file_meta:  # without a preamble it is often left out; then it is not compressed
        implicit = data.original_encoding[0]
        data.file_meta.TransferSyntaxUID = (
            pydicom.uid.ImplicitVRLittleEndian if implicit else pydicom.uid.ExplicitVRLittleEndian
        )
    _fill_rescale(data)
    return data


def _fill_rescale(data: Any) -> None:
    """Write slope and intercept as pydicom looks for them: both or none, numbers, at the head of the data."""
    places = [data]
    for name in ("PerFrameFunctionalGroupsSequence", "SharedFunctionalGroupsSequence"):
        for group in (data.get(name) or [])[:1]:  # enhanced files hold them in a group of the (only) frame
            places += (group.get("PixelValueTransformationSequence") or [])[:1]
    slopes = [place.RescaleSlope for place in places if place.get("RescaleSlope") is not None]
    intercepts = [place.RescaleIntercept for place in places if place.get("RescaleIntercept") is not None]
    data.RescaleSlope = slopes[0] if slopes else 1
    data.RescaleIntercept = intercepts[0] if intercepts else 0
    if not (math.isfinite(data.RescaleSlope) and math.isfinite(data.RescaleIntercept)):
        raise NoPicture("DICOM with a slope or an intercept that is no number")
    if float(data.RescaleSlope) == 0:
        raise BadInput("a DICOM file has a RescaleSlope of 0, which makes all its pixels equal: export it again.")


def _check_decoder(pydicom: ModuleType, data: Any) -> bool:
    """Return whether pixels are not compressed. Raises NeedsPackage or BadInput where that cannot be undone here."""
    syntax = data.file_meta.TransferSyntaxUID
    if pydicom.uid.UID_dictionary.get(syntax, ("", ""))[1] != "Transfer Syntax":
        raise NoPicture("DICOM of a transfer syntax that is not known")  # of a file that is cut off, perhaps
    try:
        decoder = pydicom.pixels.get_decoder(syntax)
    except NotImplementedError:
        raise BadInput(
            f"a DICOM file is compressed as {syntax.name}, which pydicom does not read: export it uncompressed."
        ) from None
    if decoder.is_native or set(decoder.available_plugins) - _unable(pydicom, syntax, data):
        return decoder.is_native
    lacking = sorted(decoder.missing_dependencies, key=lambda told: not told.startswith("pylibjpeg"))
    packages = re.findall(r"[\w.-]+>=[\d.]+", lacking[0]) if lacking else []
    wanted = " ".join(f'"{package}"' for package in packages)
    raise NeedsPackage(f"DICOM compressed as {syntax.name}: pip install {wanted}, or export the files uncompressed.")


def _unable(pydicom: ModuleType, syntax: Any, data: Any) -> set[str]:
    """Return plugins that pydicom counts as available and that refuse these pixels."""
    deep = int(data.get("BitsStored") or 0) > 8
    if syntax == pydicom.uid.JPEGExtended12Bit and deep:
        return {"pillow"}
    colour = int(data.get("SamplesPerPixel") or 1) > 1
    return {"pillow"} if syntax in pydicom.uid.JPEG2000TransferSyntaxes and deep and colour else set()


def _is_deep(data: Any) -> bool:
    """Say whether a declared window is needed."""
    if data.PhotometricInterpretation == "PALETTE COLOR" or (is_grey(data) and _table(data, "VOILUTSequence")):
        return False
    if not is_grey(data):
        return int(data.BitsStored) > 8
    table = _table(data, "ModalityLUTSequence")
    if table is not None:
        return table.LUTDescriptor[2] > 8
    rescaled = float(data.RescaleSlope) != 1 or float(data.RescaleIntercept) != 0
    return int(data.BitsStored) > 8 or int(data.PixelRepresentation) == 1 or rescaled


def _full(data: Any) -> int | None:
    """Return the largest stored value of deep colour, of which 8 bits are kept; None of any other picture."""
    return None if is_grey(data) or not _is_deep(data) else (1 << int(data.BitsStored)) - 1


def _table(data: Any, name: str) -> Any:
    """Return the first look-up table of a sequence, or None where there is none with entries."""
    first = next(iter(data.get(name) or []), None)
    whole = first is not None and first.get("LUTDescriptor") is not None and first.get("LUTData") is not None
    return first if whole else None


def pixels(raw: bytes, window: Window | None, max_pixels: int) -> np.ndarray:
    """Return the picture: (H, W, 1) float32 in [0, 255] through window or VOI LUT, or uint8 where 8 bits say it all.

    Raises:
        UndecodableRow: too large, or a colour space that is not read.
        BadInput: no window for a deep picture; several frames.
    """
    pydicom = _pydicom()
    data = _read(pydicom, io.BytesIO(raw), [*_SHAPE_TAGS, *_VALUE_TAGS, *_PALETTE_TAGS, "PixelData"])
    if int(data.Rows) * int(data.Columns) > max_pixels:
        raise UndecodableRow(too_large_message(max_pixels))
    stored = Pixels("whole" if "PixelData" in data else "", len(data.get("PixelData") or b""))
    check_described(data, stored)
    check_picture(data, stored, native=not data.file_meta.TransferSyntaxUID.is_compressed)
    return _picture(data, pydicom, window)


def _picture(data: Any, pydicom: ModuleType, window: Window | None) -> np.ndarray:
    if not is_grey(data):
        return _colour(data, pydicom, window)
    inverted = data.PhotometricInterpretation == "MONOCHROME1"
    deep = _is_deep(data)
    stored = _stored(data)
    if stored.ndim != 2:
        raise BadInput(FRAMES)
    stored = stored.astype(np.int64)[:, :, None]  # pydicom's tables subtract, which unsigned would wrap
    values, bits = _looked_up(pydicom.pixels.apply_modality_lut, stored, data, "ModalityLUTSequence")
    bits = bits or int(data.BitsStored)
    if _table(data, "VOILUTSequence") is not None:
        whole = np.rint(values).astype(np.int64)
        values, bits = _looked_up(pydicom.pixels.apply_voi, whole, data, "VOILUTSequence")
        if bits > 8:
            return stretch(values, (0.0, 2.0**bits - 1), inverted=inverted)
    if deep:
        return stretch(values, window, inverted=inverted)
    eight = np.rint(np.clip(values * (255.0 / (2**bits - 1)), 0, 255)).astype(np.uint8)
    return 255 - eight if inverted else eight


def _stored(data: Any) -> np.ndarray:
    """Return the stored values: bits below the lowest stored one, which pydicom takes for a part of them, shifted out.

    Raises BadInput where that is unclear, because a compressed picture has its own depth.
    """
    low = low_bits(data)
    if not low:
        return data.pixel_array
    syntax, bits = data.file_meta.TransferSyntaxUID, int(data.BitsStored)
    if syntax.is_compressed and syntax not in ("1.2.840.10008.1.2.5", "1.2.840.10008.1.2.1.99"):  # RLE; deflated
        raise BadInput("a DICOM file is compressed and has unused bits below its values: export it uncompressed.")
    data.BitsStored = bits + low
    try:
        return data.pixel_array >> low
    finally:
        data.BitsStored = bits


def _looked_up(apply: Any, values: np.ndarray, data: Any, name: str) -> tuple[np.ndarray, int]:
    """Return what pydicom makes of the values, and the bits of the table's entries (0 without a table)."""
    table = _table(data, name)
    if table is None:
        if name in data:
            del data[name]  # without entries
        return apply(values, data), 0
    entries, first, bits = (int(number) for number in table.LUTDescriptor)
    if not 8 <= bits <= 16:
        raise UndecodableRow("a DICOM picture has a look-up table of a depth that is not read.")
    if isinstance(table.LUTData, bytes):
        most = entries % (1 << 16) or 1 << 16  # 0 stands for 65,536; half of the numbers may look negative
        wide = table.LUTData if len(table.LUTData) >= 2 * most else _widened(table.LUTData, data)
        table.LUTData = wide[: 2 * most]
    # pydicom counts in the type of the entries: where these have 8 bits, numbers above 255 would wrap
    table.LUTDescriptor = [entries % (1 << 16), first, 16]
    return apply(values, data), bits


def _widened(packed: bytes, data: Any) -> bytes:
    """Return bytes, one for each entry, as the two of each that pydicom reads."""
    order = "<" if data.original_encoding[1] else ">"
    return np.frombuffer(packed, np.uint8).astype(f"{order}u2").tobytes()


def _colour(data: Any, pydicom: ModuleType, window: Window | None) -> np.ndarray:
    array = _stored(data)  # YBR is converted to RGB by pydicom
    if data.PhotometricInterpretation == "PALETTE COLOR":
        array = pydicom.pixels.apply_color_lut(array, data)
        array = (array >> 8).astype(np.uint8) if array.dtype == np.uint16 else array
    elif _is_deep(data):
        check_window(window, _full(data))
        array = (array >> (int(data.BitsStored) - 8)).astype(np.uint8)
    elif int(data.BitsStored) < 8 or array.dtype != np.uint8:
        most = (1 << int(data.BitsStored)) - 1
        array = np.rint(np.clip(array * (255.0 / most), 0, 255)).astype(np.uint8)
    if array.ndim != 3 or array.shape[2] != 3 or array.dtype != np.uint8:
        raise UndecodableRow("a DICOM picture has a colour space that is not read.")
    return array
