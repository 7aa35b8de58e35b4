"""Which kinds of picture files are read here, by content and by ending, and what a kind that is not would need."""

import importlib
import importlib.util
import os
from collections import Counter
from collections.abc import Iterable
from functools import cache

from PIL import Image

from sfumato.base.errors import UndecodableRow

Source = str | os.PathLike[str] | bytes

# EPS would start Ghostscript; of the others Pillow knows the name and has no decoder
_NOT_READ = frozenset(("EPS", "WMF", "BUFR", "GRIB", "HDF5", "MPEG"))
_DICOM = (".dcm", ".dicom")
_PLUGINS = {"pillow_heif": "register_heif_opener", "pillow_jxl": None, "pillow_avif": None}
_NEEDED = {
    "HEIC": "pip install pillow-heif",
    "JPEG XL": "pip install pillow-jxl-plugin",
    "AVIF": "pip install -U pillow",
}
_KINDS = {
    **dict.fromkeys((".heic", ".heif", ".heics", ".heifs", ".hif"), "HEIC"),
    **dict.fromkeys((".avif", ".avifs"), "AVIF"),
    ".jxl": "JPEG XL",
}
_BRANDS = {
    **dict.fromkeys((b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1"), "HEIC"),
    **dict.fromkeys((b"avif", b"avis"), "AVIF"),
}
_JPEG_XL = (b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n")
TOO_LARGE = "a picture is larger than the public limit max_pixels"
HEAD = 132  # bytes that tell the kind; DICOM says its name in the last four


class NoPicture(UndecodableRow):
    """No picture can come from a file, whatever its pixels are; `kind` names such files where they are counted."""

    def __init__(self, kind: str) -> None:
        super().__init__(f"a picture cannot be read: {kind}.")
        self.kind = kind


@cache
def readable_formats() -> tuple[str, ...]:
    """Return the names of Pillow's formats that are read: all it can decode, with its plugins that are installed."""
    for name, register in _PLUGINS.items():
        if importlib.util.find_spec(name) is not None:
            plugin = importlib.import_module(name)  # some register themselves
            if register is not None:
                getattr(plugin, register)()
    Image.init()
    return tuple(name for name in Image.ID if name not in _NOT_READ)


@cache
def readable_endings() -> frozenset[str]:
    """Return the endings, in lower case, by which pictures are found in a folder."""
    known = {*readable_formats(), "MPO"}  # a JPEG with several pictures, which Pillow opens as JPEG
    return frozenset([*_DICOM, *(end for end, name in Image.registered_extensions().items() if end and name in known)])


def is_readable_ending(name: str) -> bool:
    """Whether a file is taken for a picture by its name."""
    return os.path.splitext(name)[1].lower() in readable_endings()


def is_picture_ending(name: str) -> bool:
    """Whether a file is a picture by its name, also of a kind that only a package that is not installed reads."""
    return is_readable_ending(name) or kind_of(name) in _NEEDED


def kind_of(name: str, head: bytes = b"") -> str:
    """Return the kind of a file that is not read, for messages: by its first bytes, else by its ending.

    >>> kind_of("x.HEIC"), kind_of("x.jpg", b"\\0\\0\\0\\x18ftypheic"), kind_of("x.Cr2"), kind_of("x")
    ('HEIC', 'HEIC', '.cr2', 'no ending')
    """
    if head[4:8] == b"ftyp" and head[8:12] in _BRANDS:
        return _BRANDS[head[8:12]]
    if head.startswith(_JPEG_XL):
        return "JPEG XL"
    ending = os.path.splitext(name)[1].lower()
    return _KINDS.get(ending, ending) or ("no ending" if name else "of no known kind")


def needs_more(kind: str) -> bool:
    """Whether no file of this kind is read here, as it stands: a decoder is not installed, or there is none."""
    return kind in _NEEDED or (kind.startswith(".") and kind not in readable_endings())


def counted_kinds(kinds: Iterable[str]) -> str:
    """Return how many there are of each kind, the commonest first, and what would read them where that is known.

    >>> counted_kinds([".cr2", "HEIC", "HEIC"])
    'HEIC (2; pip install pillow-heif), .cr2 (1)'
    """
    times = sorted(Counter(kinds).items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{kind} ({count}{'; ' + _NEEDED[kind] if kind in _NEEDED else ''})" for kind, count in times)


def unread_message(head: bytes) -> str:
    """Return why a file cannot be read, as far as its first bytes tell."""
    kind = kind_of("", head)
    if kind in _NEEDED:
        return f"a picture is {kind}, which is not read here: {_NEEDED[kind]}, or convert it."
    return "a picture cannot be read: missing, truncated or not a known format."


def too_large_message(max_pixels: int) -> str:
    """Return why a picture beyond the limit cannot be read."""
    return f"{TOO_LARGE} ({max_pixels:,}); --max-pixels sets it."
