"""DICOM files from which no picture can ever come, found in their headers: before the first step and by name."""

from typing import Any, NamedTuple

from sfumato.base.errors import BadInput
from sfumato.data.formats import NoPicture

FRAMES = "a DICOM file holds several frames: export the frames that belong to the text as single files."
COLOURS = ("Red", "Green", "Blue")
_PIXELS = {0x7FE00008: "float", 0x7FE00009: "double", 0x7FE00010: "whole"}  # Float, Double Float and Pixel Data
_DESCRIBED = ("Rows", "Columns", "SamplesPerPixel", "PhotometricInterpretation")
_DESCRIBED += ("BitsAllocated", "BitsStored", "PixelRepresentation")
_PALETTE = "PALETTE COLOR"
_COLOUR_SPACES = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT", _PALETTE)
_ALLOCATED = (1, 8, 16, 24, 32, 40, 48, 56, 64)
_TABLES = ("ModalityLUTSequence", "VOILUTSequence")
_DEPTHS = range(8, 17)  # bits of the entries of a table that are read
_UNDEFINED = 0xFFFFFFFF  # length of what is compressed


class Pixels(NamedTuple):
    """What stands where the pixels begin: their kind ("" for nothing) and their number of bytes."""

    kind: str = ""
    length: int = 0


class Stop:
    """Tells pydicom to stop before the pixels, and keeps what stands there."""

    def __init__(self) -> None:
        self.pixels = Pixels()

    def __call__(self, tag: int, _: str | None, length: int) -> bool:
        if int(tag) not in _PIXELS:
            return False
        self.pixels = Pixels(_PIXELS[int(tag)], length)
        return True


def check_described(data: Any, pixels: Pixels) -> None:
    """Check that pixels are there and that the header describes them in full. Raises NoPicture."""
    lacking = any(data.get(name) is None for name in _DESCRIBED)
    if lacking or not isinstance(data.PhotometricInterpretation, str):
        raise NoPicture("DICOM without a full description of its picture")
    if int(data.Rows) < 1 or int(data.Columns) < 1:
        raise NoPicture("DICOM without rows or columns")
    if pixels.kind in ("float", "double"):
        raise NoPicture("DICOM with floating-point pixels")
    if not pixels.kind:
        raise NoPicture("DICOM without pixels")


def check_picture(data: Any, pixels: Pixels, *, native: bool) -> None:
    """Check that what a header describes (see `check_described`) is a picture of a kind that is read.

    Args:
        data: tags of a file.
        pixels: what stands where they begin.
        native: they are not compressed.

    Raises:
        NoPicture: of which kind nothing is read.
        BadInput: the pixels of several frames; a bit order that contradicts itself.
    """
    if not is_grey(data):
        _check_colour(data)
    if int(data.BitsAllocated) not in _ALLOCATED or int(data.BitsStored) < 1:
        raise NoPicture("DICOM with numbers of bits that are not read")
    if int(data.SamplesPerPixel) != (1 if is_grey(data) or data.PhotometricInterpretation == _PALETTE else 3):
        raise NoPicture("DICOM with a number of samples that its colour space does not have")
    for name in _TABLES:
        for table in (data.get(name) or [])[:1]:
            if table.get("LUTDescriptor") is not None and int(table.LUTDescriptor[2]) not in _DEPTHS:
                raise NoPicture("DICOM with a look-up table of a depth that is not read")
    low_bits(data)
    if native and pixels.length != _UNDEFINED:
        _check_length(data, pixels.length)


def is_grey(data: Any) -> bool:
    """Say whether values are brightness."""
    return data.PhotometricInterpretation in ("MONOCHROME1", "MONOCHROME2")


def _check_colour(data: Any) -> None:
    if data.PhotometricInterpretation not in _COLOUR_SPACES:
        raise NoPicture("DICOM in a colour space that is not read")
    if data.PhotometricInterpretation != _PALETTE:
        if int(data.PixelRepresentation) == 1:
            raise NoPicture("DICOM with signed colour")
        return
    for colour in COLOURS:
        name = f"{colour}PaletteColorLookupTable"
        entries = [data.get(f"{segmented}{name}Data") for segmented in ("", "Segmented")]
        if data.get(f"{name}Descriptor") is None or not any(entries):
            raise NoPicture("DICOM without its table of colours")


def _check_length(data: Any, length: int) -> None:
    needed = num_bytes(data)
    if length < needed:
        raise NoPicture("DICOM with fewer pixels than it says")
    if length >= 2 * needed and length > needed + 1:
        raise BadInput(FRAMES)


def num_bytes(data: Any) -> int:
    """Return how many bytes the pixels of a frame take that are not compressed, even or not."""
    samples = int(data.Rows) * int(data.Columns) * int(data.SamplesPerPixel)
    if data.PhotometricInterpretation == "YBR_FULL_422":
        samples = samples * 2 // 3
    return -(-samples * int(data.BitsAllocated) // 8)


def low_bits(data: Any) -> int:
    """Return how many bits below the stored ones are not part of the value (HighBit 15 of 12 stored bits: 4).

    Raises:
        BadInput: the numbers of bits contradict one another.
    """
    stored, high = int(data.BitsStored), data.get("HighBit")
    low = 0 if high is None else int(high) + 1 - stored
    if low < 0 or low + stored > int(data.BitsAllocated):
        raise BadInput(
            "a DICOM file has a HighBit that does not fit its BitsStored and BitsAllocated: export it again."
        )
    return low
