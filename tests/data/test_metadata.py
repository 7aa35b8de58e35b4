"""Good pixels stay readable whatever stands beside them in the file."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, features

from sfumato.data.decode import Decoder, header

PIXELS = (np.linspace(0, 250, 16 * 12).reshape(12, 16, 1) * np.array([1, 0.5, 0.25])).astype(np.uint8)
PICTURE = Image.fromarray(PIXELS)
DECODE = Decoder()


def encoded(format, **options):
    buffer = io.BytesIO()
    PICTURE.save(buffer, format, **options)
    return buffer.getvalue()


def exif(*entries, tail=b""):
    """TIFF bytes of (tag, type, count, value) entries, the value as four bytes or a number."""
    body = b"".join(
        struct.pack("<HHI", tag, kind, count) + (value if isinstance(value, bytes) else struct.pack("<I", value))
        for tag, kind, count, value in entries
    )
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + body + b"\0\0\0\0" + tail


TURNED = (274, 3, 1, b"\6\0\0\0")
BLOCKS = {
    "text as width": exif((256, 2, 4, b"abc\0"), TURNED),
    "text as offsets": exif((273, 2, 4, b"abc\0"), TURNED),
    "resolution 0/0": exif(TURNED, (282, 5, 1, 38), tail=b"\0" * 8),
    "text outside the block": exif((270, 2, 1000, 100_000), TURNED),
    "cut off": exif(TURNED, (282, 5, 1, 38))[:30],
    "unknown type": exif(TURNED, (300, 99, 1, 5)),
    "pointers that are text": exif(TURNED, (34665, 2, 4, b"abc\0"), (34853, 2, 4, b"xyz\0")),
    "no TIFF header": b"\0\0\0\0garbage",
    "empty": b"",
    "orientation is text": exif((274, 2, 2, b"6\0\0\0")),
    "orientation is huge": exif((274, 4, 1, 4_000_000_000)),
}
UPRIGHT = ("no TIFF header", "empty", "orientation is text", "orientation is huge")


def chunk(kind, body, check=None):
    check = zlib.crc32(kind + body) if check is None else check
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", check)


def png(*chunks):
    raw = encoded("PNG")
    return raw[:33] + b"".join(chunks) + raw[33:]


def jpeg(marker, body):
    raw = encoded("JPEG", quality=95)
    return raw[:2] + bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body + raw[2:]


def read(raw, turned):
    found = DECODE(raw)
    wanted = np.rot90(PIXELS, -1) if turned else PIXELS
    assert found.shape == wanted.shape
    assert np.abs(found.astype(int) - wanted).max() < 12
    assert (header(raw).width, header(raw).height) == (16, 12)


@pytest.mark.parametrize("name", BLOCKS)
def test_broken_exif_leaves_the_pixels_and_where_it_can_the_orientation(name):
    block, turned = BLOCKS[name], name not in UPRIGHT
    read(png(chunk(b"eXIf", block)), turned)
    read(png(chunk(b"eXIf", b"Exif\0\0" + block)), turned)
    read(jpeg(0xE1, b"Exif\0\0" + block), turned)
    read(encoded("WEBP", lossless=True, exif=block), turned)


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow has no AVIF")
def test_broken_exif_of_avif_leaves_the_pixels():
    tags = Image.Exif()
    tags[270] = "hello"
    raw = encoded("AVIF", quality=95, exif=tags)
    read(raw, False)
    broken = raw.replace(b"MM\0*", b"junk").replace(b"II*\0", b"junk")
    assert broken != raw
    read(broken, False)


BIG = zlib.compress(b"\0" * 3_000_000)
CHUNKS = {
    "huge profile": chunk(b"iCCP", b"x\0\0" + BIG),
    "broken profile": chunk(b"iCCP", b"x\0\0" + b"no zlib"),
    "empty profile": chunk(b"iCCP", b""),
    "huge text": chunk(b"zTXt", b"k\0\0" + BIG),
    "many texts": chunk(b"tEXt", b"k\0" + b"a" * 900_000) * 80,
    "broken XMP": chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0junk"),
    "short resolution": chunk(b"pHYs", b"\0"),
    "absurd resolution": chunk(b"pHYs", b"\xff" * 8 + b"\1"),
    "short gamma": chunk(b"gAMA", b"\0"),
    "short chromaticities": chunk(b"cHRM", b"\0"),
    "short intent": chunk(b"sRGB", b""),
    "wrong checksum": chunk(b"tEXt", b"k\0v", check=1),
    "animation of nothing": chunk(b"acTL", b"\0"),
    "frame of nothing": chunk(b"fcTL", b"\0" * 26),
    "broken EXIF as text": chunk(b"tEXt", b"Raw profile type exif\0\nexif\n   8\nzz"),
}


@pytest.mark.parametrize("name", CHUNKS)
def test_what_stands_beside_the_pixels_of_a_png_is_not_read(name):
    read(png(CHUNKS[name]), False)


SEGMENTS = {
    "profile without numbers": (0xE2, b"ICC_PROFILE\0"),
    "pictures of nothing": (0xE2, b"MPF\0junk"),
    "broken Photoshop block": (0xED, b"Photoshop 3.0\x008BIM\x03\xed\xff\0\0\0\xff\xff"),
    "broken XMP": (0xE1, b"http://ns.adobe.com/xap/1.0/\0\xff\xfe"),
    "short Adobe": (0xEE, b"Adobe"),
    "short JFIF": (0xE0, b"JFIF\0"),
    "empty": (0xE5, b""),
}


@pytest.mark.parametrize("name", SEGMENTS)
def test_what_stands_beside_the_pixels_of_a_jpeg_is_not_read(name):
    read(jpeg(*SEGMENTS[name]), False)


def test_orientation_is_read_where_writers_put_it():
    tags = Image.Exif()
    tags[274] = 6
    xmp = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    digits = b"\nexif\n" + b"%8d" % len(tags.tobytes()) + b"\n" + tags.tobytes().hex().encode()
    read(png(chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp)), True)
    read(png(chunk(b"tEXt", b"Raw profile type exif\0" + digits)), True)
    read(png(chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(digits))), True)
    read(jpeg(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + xmp), True)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_all_orientations_are_those_of_pillow(orientation):
    from PIL import ImageOps

    tags = Image.Exif()
    tags[274] = orientation
    wanted = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(encoded("PNG", exif=tags)))))
    for format, options in (("PNG", {}), ("WEBP", {"lossless": True}), ("TIFF", {})):
        assert np.array_equal(DECODE(encoded(format, exif=tags, **options)), wanted)


def tiff(tag, kind, count, value):
    """A TIFF with one more tag."""
    raw = encoded("TIFF")
    (start,) = struct.unpack("<I", raw[4:8])
    (number,) = struct.unpack("<H", raw[start : start + 2])
    entries = {
        raw[at : at + 2]: raw[at : at + 12] for at in range(start + 2, start + 2 + 12 * number, 12)
    }  # by tag, little-endian
    entries[struct.pack("<H", tag)] = struct.pack("<HHI", tag, kind, count) + value
    body = b"".join(entries[name] for name in sorted(entries, key=lambda name: name[::-1]))
    return raw[:4] + struct.pack("<I", len(raw)) + raw[8:] + struct.pack("<H", len(entries)) + body + b"\0" * 4


@pytest.mark.parametrize("tag", [270, 282, 296, 700, 34377, 34665, 34675, 34853])
@pytest.mark.parametrize(
    ("kind", "count", "value"), [(2, 4, b"abc\0"), (7, 4000, b"\xff\xff\xff\0"), (4, 1, b"\xff" * 4)]
)
def test_broken_tags_of_a_tiff_leave_the_pixels(tag, kind, count, value):
    read(tiff(tag, kind, count, value), False)
