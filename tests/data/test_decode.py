import io
import logging
import struct
import threading
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image, ImageSequence, TiffImagePlugin

from sfumato.base.errors import BadInput, UndecodableRow
from sfumato.data.decode import Decoder, header
from sfumato.data.quiet import quiet

RED = (200, 30, 10)
DECODE = Decoder()
DEEP = Decoder(window=(0, 4095))


def encoded(image, format="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def ramp(dtype=np.uint16, top=4095):
    return np.linspace(0, top, 64).astype(dtype).reshape(1, 64).repeat(4, 0)


def test_grayscale_keeps_one_channel():
    pixels = np.arange(48, dtype=np.uint8).reshape(6, 8)
    assert np.array_equal(DECODE(encoded(Image.fromarray(pixels))), pixels[:, :, None])
    assert DECODE(encoded(Image.new("1", (4, 4), 1))).tolist() == np.full((4, 4, 1), 255).tolist()


def test_colour_keeps_three_channels_in_every_format(tmp_path):
    image = Image.new("RGB", (8, 6), RED)
    for format in ("PNG", "JPEG", "TIFF", "BMP", "GIF", "WEBP", "PPM", "JPEG2000"):
        found = DECODE(encoded(image, format))
        assert found.shape == (6, 8, 3)
        assert found.dtype == np.uint8
        assert np.abs(found.astype(int) - RED).max() < 12
    (tmp_path / "picture.PNG").write_bytes(encoded(image))
    assert np.array_equal(DECODE(tmp_path / "picture.PNG"), np.asarray(image))


def test_alpha_is_laid_on_white():
    image = Image.new("RGBA", (2, 1), (*RED, 255))
    image.putpixel((1, 0), (0, 0, 0, 0))
    assert DECODE(encoded(image)).tolist() == [[list(RED), [255, 255, 255]]]
    half = DECODE(encoded(Image.new("RGBA", (1, 1), (0, 0, 0, 128))))
    assert half.tolist() == [[[127, 127, 127]]]
    grey = Image.new("LA", (2, 1), (10, 255))
    grey.putpixel((1, 0), (10, 0))
    assert DECODE(encoded(grey)).tolist() == [[[10], [255]]]


def test_cmyk_becomes_rgb():
    found = DECODE(encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG"))
    assert found.shape == (8, 8, 3)
    assert np.abs(found.astype(int) - (255, 0, 0)).max() < 12


def test_palette_and_its_transparency():
    image = Image.new("P", (2, 1), 0)
    image.putpalette([*RED, 0, 0, 255])
    image.putpixel((1, 0), 1)
    assert DECODE(encoded(image)).tolist() == [[list(RED), [0, 0, 255]]]
    for transparency in (1, b"\xff\x00"):
        assert DECODE(encoded(image, transparency=transparency)).tolist() == [[list(RED), [255, 255, 255]]]
    assert DECODE(encoded(Image.new("RGB", (1, 1), RED), transparency=RED)).tolist() == [[[255, 255, 255]]]


def test_exif_rotation_is_applied():
    image = Image.fromarray(np.repeat(np.array([[0, 250]], np.uint8), 8, 0).repeat(8, 1))
    exif = Image.Exif()
    exif[274] = 6  # the camera lay on its right side: turn clockwise
    for format in ("JPEG", "PNG"):
        found = DECODE(encoded(image, format, exif=exif))[:, :, 0]
        assert found.shape == (16, 8)
        assert found[:6].max() < 30
        assert found[-6:].min() > 220
    deep = DEEP(encoded(Image.fromarray(ramp()), exif=exif))
    assert deep.shape == (64, 4, 1)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "TIFF", "BMP", "GIF", "WEBP"])
def test_truncated_is_an_undecodable_row(format):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8))
    raw = encoded(noise, format)
    for share in (0.05, 0.6):
        with pytest.raises(UndecodableRow):
            DECODE(raw[: int(share * len(raw))])


def test_what_is_no_picture_is_an_undecodable_row_that_quotes_nothing(tmp_path):
    secret = "Jane Doe 1970"
    (tmp_path / f"{secret}.png").write_text(secret)
    for source in (b"", secret.encode(), tmp_path / f"{secret}.png", tmp_path / f"{secret} is absent.png"):
        for read in (DECODE, header):
            with pytest.raises(UndecodableRow) as caught:
                read(source)
            assert "Jane" not in str(caught.value)
            assert caught.value.__cause__ is None
            assert caught.value.__suppress_context__


def test_postscript_is_never_run(monkeypatch):
    from PIL import EpsImagePlugin

    run = []
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *args, **options: run.append(args))
    raw = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n"
    for read in (DECODE, header):
        with pytest.raises(UndecodableRow):
            read(raw)
    assert not run


def test_huge_is_an_undecodable_row_before_it_is_decoded(monkeypatch):
    raw = encoded(Image.new("L", (300, 300)))
    assert Decoder(max_pixels=90_000)(raw).shape == (300, 300, 1)
    monkeypatch.setattr(Image.Image, "load", None)
    with pytest.raises(UndecodableRow, match="max_pixels"):
        Decoder(max_pixels=89_999)(raw)


def test_a_decompression_bomb_is_an_undecodable_row():
    header_only = bytearray(encoded(Image.new("1", (8, 8))))
    header_only[16:24] = (60_000).to_bytes(4, "big") * 2
    with pytest.raises(UndecodableRow):
        DECODE(bytes(header_only))
    with pytest.raises(BadInput, match="max_pixels"):
        Decoder(max_pixels=10**9)


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_sixteen_bits_are_stretched_by_the_declared_window(format):
    """Pillow's convert("L") turns all but 6 % of this 12-bit ramp white."""
    raw = encoded(Image.fromarray(ramp()), format)
    assert header(raw).deep
    found = DEEP(raw)
    assert found.dtype == np.float32
    assert np.allclose(found[:, :, 0], ramp() / 4095 * 255, atol=1e-3)
    assert len(np.unique(found)) == 64
    narrow = Decoder(window=(1000, 2000))(raw)
    assert narrow.min() == 0
    assert narrow.max() == 255
    with pytest.raises(BadInput, match="window"):
        DECODE(raw)


def test_sixteen_bits_keep_precision():
    fine = np.arange(1000, 1064, dtype=np.uint16).reshape(1, 64)
    assert len(np.unique(DEEP(encoded(Image.fromarray(fine))))) == 64


def test_floating_point_and_inverted_tiff():
    values = np.array([[-1.0, 0.0, 0.5, 2.0]], np.float32)
    found = Decoder(window=(0, 1))(encoded(Image.fromarray(values), "TIFF"))
    assert found.ravel().tolist() == [0.0, 0.0, 127.5, 255.0]
    with pytest.raises(UndecodableRow):
        Decoder(window=(0, 1))(encoded(Image.fromarray(np.full((1, 1), np.nan, np.float32)), "TIFF"))
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    raw = bytearray(encoded(Image.fromarray(ramp()), "TIFF", tiffinfo=tags))
    place = raw.index((262).to_bytes(2, "little") + (3).to_bytes(2, "little") + (1).to_bytes(4, "little"))
    raw[place + 8] = 0  # PhotometricInterpretation: white is zero
    assert np.allclose(DEEP(bytes(raw))[:, :, 0], 255 - ramp() / 4095 * 255, atol=1e-3)


def sixteen_bit_colour_png():
    """One pixel, 16 bits per channel: Pillow reads such files and cannot write them."""
    import struct
    import zlib

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0)
    pixel = zlib.compress(b"\0" + struct.pack(">HHH", 65535, 4096, 0))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", pixel) + chunk(b"IEND", b"")


def test_sixteen_bit_colour_is_read_at_full_range_only():
    raw = sixteen_bit_colour_png()
    assert header(raw)[:4] == (1, 1, True, 3)
    assert Decoder(window=(0, 65535))(raw).tolist() == [[[255, 16, 0]]]
    for decode in (DECODE, DEEP):
        with pytest.raises(BadInput, match="window"):
            decode(raw)


@pytest.mark.parametrize("format", ["GIF", "PNG", "TIFF", "WEBP"])
def test_of_an_animation_the_first_frame_is_taken(format):
    frames = [Image.new("RGB", (8, 8), colour) for colour in (RED, (0, 0, 255), (0, 255, 0))]
    raw = encoded(frames[0], format, save_all=True, append_images=frames[1:])
    assert sum(1 for _ in ImageSequence.Iterator(Image.open(io.BytesIO(raw)))) > 1
    assert np.abs(DECODE(raw).astype(int) - RED).max() < 12


@pytest.mark.parametrize("window", [(1, 1), (2, 1), (0, float("nan")), (float("-inf"), 0)])
def test_a_window_is_a_range(window):
    with pytest.raises(BadInput, match="window"):
        Decoder(window=window)


def test_quiet_is_restored_in_threads():
    before = list(warnings.filters)
    inside, leave = threading.Barrier(5), threading.Event()

    def work():
        with quiet():
            inside.wait()
            warnings.warn_explicit("private", UserWarning, "x", 1, module="PIL.Image")
            leave.wait()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    with quiet():
        inside.wait()
    assert warnings.filters != before
    leave.set()
    for thread in threads:
        thread.join()
    assert warnings.filters == before
    with pytest.raises(UserWarning):
        warnings.warn_explicit("private", UserWarning, "x", 1, module="PIL.Image")


def test_nothing_is_logged(caplog):
    with caplog.at_level(logging.INFO), pytest.raises(UndecodableRow):
        DECODE(encoded(Image.new("RGB", (64, 64), RED), "TIFF")[:400])
    assert not caplog.records


def test_a_bomb_is_too_large_and_not_truncated():
    header_only = bytearray(encoded(Image.new("1", (8, 8))))
    header_only[16:24] = (60_000).to_bytes(4, "big") * 2
    header_only[29:33] = zlib.crc32(header_only[12:29]).to_bytes(4, "big")
    for read in (DECODE, header):
        with pytest.raises(UndecodableRow, match="larger than the public limit max_pixels"):
            read(bytes(header_only))
    with pytest.raises(UndecodableRow, match=r"max_pixels \(15\); --max-pixels sets it"):
        Decoder(max_pixels=15)(encoded(Image.new("L", (4, 4))))


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "I;16", "CMYK"])
@pytest.mark.parametrize("format", ["PNG", "JPEG", "TIFF"])
def test_a_large_picture_is_reduced_while_it_is_read(mode, format):
    """Half black, half white, 2400 x 1800: reduced to no less than twice the side, the two halves stay."""
    pixels = np.zeros((1800, 2400), np.uint8)
    pixels[:, 1200:] = 255
    image = Image.fromarray(pixels.astype(np.uint16) * 257) if mode == "I;16" else Image.fromarray(pixels).convert(mode)
    try:
        raw = encoded(image, format)
    except OSError:
        pytest.skip(f"{format} has no {mode}")
    decode = Decoder(window=(0, 65535))
    whole, small = decode(raw), decode(raw, side=100)
    assert whole.shape[:2] == (1800, 2400)
    assert 200 <= small.shape[0] < 300
    assert abs(small.shape[1] * 3 - small.shape[0] * 4) <= 8
    assert (small.dtype, small.shape[2]) == (whole.dtype, whole.shape[2])
    half = small.shape[1] // 2
    assert small[:, : half - 2].max() < 10
    assert small[:, half + 2 :].min() > 245
    assert decode(raw, side=1000).shape == whole.shape  # nothing to gain


def test_strips_give_the_same_as_the_whole(monkeypatch):
    rng = np.random.default_rng(0)
    rgba = Image.fromarray(rng.integers(0, 256, (50, 40, 4), np.uint8))
    raws = [encoded(image) for image in (rgba, rgba.convert("P"), rgba.convert("L"), Image.fromarray(ramp()))]
    whole = [DEEP(raw) for raw in raws]
    monkeypatch.setattr("sfumato.data.decode._STRIP", 123)
    for raw, wanted in zip(raws, whole):
        assert np.array_equal(DEEP(raw), wanted)


def test_small_pictures_are_never_reduced():
    raw = encoded(Image.new("RGB", (2000, 2000), RED), "JPEG")
    assert DECODE(raw, side=8).shape == (2000, 2000, 3)


def test_a_pipe_is_not_waited_for(tmp_path):
    import os

    os.mkfifo(tmp_path / "pipe.png")
    for read in (DECODE, header):
        with pytest.raises(UndecodableRow):
            read(tmp_path / "pipe.png")


def tiff(values, bits, sample_format, photometric=1):
    """A TIFF of one row as other programs write it: Pillow writes neither unsigned 32 bits nor signed 8."""
    data = values.tobytes()
    entries = {256: (4, values.size), 257: (4, 1), 258: (3, bits), 259: (3, 1), 262: (3, photometric), 273: (4, 0)}
    entries |= {277: (3, 1), 278: (4, 1), 279: (4, len(data)), 339: (3, sample_format)}
    offset = 8 + 2 + 12 * len(entries) + 4
    raw = b"II*\0" + struct.pack("<IH", 8, len(entries))
    for tag, (kind, value) in entries.items():
        number = offset if tag == 273 else value
        raw += struct.pack("<HHI", tag, kind, 1) + (
            struct.pack("<HH" if kind == 3 else "<I", *((number, 0)[: 5 - kind]))
        )
    return raw + bytes(4) + data


def codestream(values, bits, *, boxes=False, signed=False):
    """JPEG 2000 of so many bits: Pillow writes 16, of which the header is made to say less; lossless."""
    raised = values.astype(np.int64) + (1 << 15) - (0 if signed else 1 << (bits - 1))
    image = Image.fromarray(raised.astype(np.uint16))
    raw = bytearray(encoded(image, "JPEG2000", no_jp2=not boxes))
    raw[raw.index(b"\xff\x4f\xff\x51") + 42] = bits - 1 + (128 if signed else 0)
    return bytes(raw)


STORED = np.array([[0, 2048, 4095, 100]])


@pytest.mark.parametrize("boxes", [False, True])
def test_twelve_bits_of_jpeg_2000_are_stored_values(boxes):
    raw = codestream(STORED, 12, boxes=boxes)
    assert header(raw) == (4, 1, True, 1, None)
    assert np.allclose(DEEP(raw).ravel(), STORED.ravel() / 4095 * 255, atol=1e-3)
    with pytest.raises(BadInput, match="window"):
        DECODE(raw)
    nine = np.array([[0, 511, 256, 1]])
    assert np.allclose(Decoder(window=(0, 511))(codestream(nine, 9, boxes=boxes)), nine.T[None] / 511 * 255, atol=1e-3)
    low = np.array([[-2048, 0, 2047, 100]])
    found = Decoder(window=(-2048, 2047))(codestream(low, 12, boxes=boxes, signed=True))
    assert np.allclose(found.ravel(), (low.ravel() + 2048) / 4095 * 255, atol=1e-3)


@pytest.mark.parametrize("most", [256, 1023, 4095, 40_000, 65_535])
def test_grey_maps_are_stored_values(most):
    stored = np.array([[0, most // 2, most, 100]])
    binary = b"P5\n4 1\n%d\n" % most + stored.astype(">u2").tobytes()
    plain = b"P2\n4 1\n%d\n" % most + " ".join(map(str, stored.ravel())).encode() + b"\n"
    for raw in (binary, plain):
        assert header(raw) == (4, 1, True, 1, None)
        assert np.allclose(Decoder(window=(0, most))(raw).ravel(), stored.ravel() / most * 255, atol=1e-3)
    every = np.arange(most + 1)[None]
    raw = b"P5\n%d 1\n%d\n" % (most + 1, most) + every.astype(">u2").tobytes()
    assert np.allclose(Decoder(window=(0, 65_535))(raw).ravel(), every.ravel() / 65_535 * 255, atol=1e-3)
    assert DECODE(b"P5\n2 1\n127\n" + bytes([0, 127])).ravel().tolist() == [0, 255]


def test_colour_maps_of_more_than_eight_bits_need_their_full_range():
    stored = np.array([0, 2048, 4095])
    for raw in (b"P6\n1 1\n4095\n" + stored.astype(">u2").tobytes(), b"P3\n1 1\n4095\n0 2048 4095\n"):
        assert header(raw) == (1, 1, True, 3, 4095)
        assert DEEP(raw).ravel().tolist() == [0, 128, 255]
        for window in (None, (0, 65_535), (0, 1000)):
            with pytest.raises(BadInput, match="window"):
                Decoder(window=window)(raw)
    eight = np.zeros((4, 4, 3), np.uint8)
    raw = bytearray(encoded(Image.fromarray(eight), "JPEG2000", no_jp2=True))
    at = raw.index(b"\xff\x4f\xff\x51") + 42
    raw[at : at + 9 : 3] = bytes([11] * 3)
    assert header(bytes(raw)) == (4, 4, True, 3, 4095)
    with pytest.raises(BadInput, match=r"12 bits per colour channel.*window \(0, 4095\)"):
        Decoder(window=(0, 65_535))(bytes(raw))


def test_thirty_two_bits_without_a_sign_do_not_wrap():
    values = np.array([0, 1, 2**31 + 5, 2**32 - 1], np.uint32)
    found = Decoder(window=(0, 2**32 - 1))(tiff(values, 32, 1))
    assert np.allclose(found.ravel(), [0, 0, 127.5, 255], atol=1e-3)
    signed = Decoder(window=(-10, 10))(tiff(np.array([-10, 0, 10], np.int32), 32, 2))
    assert signed.ravel().tolist() == [0.0, 127.5, 255.0]


def test_signed_eight_bits_are_refused_by_name():
    raw = tiff(np.array([-128, -1, 0, 127], np.int8), 8, 2)
    for read in (DECODE, DEEP, header):
        with pytest.raises(BadInput, match="signed values of 8 bits, which are not read: store"):
            read(raw)
    assert DECODE(tiff(np.array([0, 255], np.uint8), 8, 1)).ravel().tolist() == [0, 255]


def test_a_header_refuses_what_the_decoder_would(tmp_path):
    """Grey with transparency in 16 bits is colour to Pillow: found before the first step, not in it."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", 1, 1, 16, 4, 0, 0, 0)
    raw = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" + b"\xff\xff" * 2))
    raw += chunk(b"IEND", b"")
    assert header(raw).full == 65_535
    assert Decoder(window=(0, 65_535))(raw).shape == (1, 1, 3)


def png(kind, bits, samples, clear):
    """One row of samples, of which those that equal `clear` (a number for each channel) are transparent."""

    def chunk(name, body):
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    if bits == 16:
        packed = np.asarray(samples, ">u2").tobytes()
    else:
        places = [np.unpackbits(np.array([one], np.uint8))[-bits:] for one in np.ravel(samples)]
        packed = np.packbits(np.concatenate(places)).tobytes()
    head = struct.pack(">IIBBBBB", len(samples), 1, bits, kind, 0, 0, 0)
    parts = [chunk(b"IHDR", head), chunk(b"tRNS", np.asarray(clear, ">u2").tobytes())]
    parts += [chunk(b"IDAT", zlib.compress(b"\0" + packed)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_a_transparent_grey_is_white_at_every_depth(bits):
    most = (1 << bits) - 1
    for clear in sorted({0, 1, most // 2, most}):
        samples = [0, most, clear, 1]
        want = [255 if one == clear else one * 255 // most for one in samples]
        raw = png(0, bits, samples, [clear])
        assert header(raw) == (4, 1, False, 1, None)
        assert DECODE(raw)[0, :, 0].tolist() == want


def test_a_transparent_grey_of_sixteen_bits_is_white():
    raw = png(0, 16, [0, 1000, 1001, 65_535], [1000])
    assert header(raw) == (4, 1, True, 1, None)
    found = Decoder(window=(0, 65_535))(raw)
    assert found.dtype == np.float32
    assert np.allclose(found.ravel(), [0, 255, 1001 / 257, 255], atol=1e-3)
    assert Decoder(window=(1000, 1001))(raw).ravel().tolist() == [0.0, 255.0, 255.0, 255.0]


def test_a_transparent_colour_of_sixteen_bits_is_refused():
    """Pillow keeps half of the bits: which pixels have that colour is not known any more."""
    raw = png(2, 16, [[1000, 1000, 1000], [1001, 1000, 1000]], [1000, 1000, 1000])
    for read in (DECODE, Decoder(window=(0, 65_535)), header):
        with pytest.raises(BadInput, match="16-bit colour with a transparent colour"):
            read(raw)
