"""Whatever Pillow can decode is read; what it cannot is named by kind."""

import io
import sys
import types
import warnings

import numpy as np
import pytest
from PIL import Image

from sfumato.base.errors import UndecodableRow
from sfumato.data import formats
from sfumato.data.decode import Decoder, header

PIXELS = (np.linspace(0, 250, 64 * 64).reshape(64, 64, 1) * np.array([1, 0.5, 0.25])).astype(np.uint8)
HEIC = b"\0\0\0\x1cftypheic\0\0\0\0mif1heic" + b"\0" * 200
Image.init()
NOT_READ = {"EPS", "PDF", "PALM", "MPO"}  # it starts a program; are written only; is read as JPEG


@pytest.fixture
def afresh():
    """Let the formats be looked up again, in the test and behind it."""
    formats.readable_formats.cache_clear()
    formats.readable_endings.cache_clear()
    yield
    formats.readable_formats.cache_clear()
    formats.readable_endings.cache_clear()


@pytest.mark.parametrize("name", sorted(set(Image.SAVE) - NOT_READ))
def test_every_format_that_pillow_writes_is_read(name):
    written = 0
    for mode in ("RGB", "L", "1", "P", "RGBA"):
        buffer = io.BytesIO()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # some formats will go in a later Pillow
                Image.fromarray(PIXELS).convert(mode).save(buffer, name)
        except (OSError, KeyError, ValueError):
            continue
        if name not in Image.OPEN:
            continue
        written += 1
        found = Decoder(window=(0, 255))(buffer.getvalue())
        assert found.shape[2] in (1, 3)
        assert header(buffer.getvalue()).width == found.shape[1]
        if mode == "RGB" and found.shape == PIXELS.shape:
            assert np.abs(found.astype(int) - PIXELS).max() < 40
    assert written or name not in Image.OPEN or name in ("GRIB", "BUFR", "HDF5", "WMF")


def test_pictures_are_found_by_every_ending_of_a_readable_format():
    for ending in ("JPG", "jfif", "mpo", "tif", "webp", "jp2", "tga", "dcm", "pbm", "ico", "qoi"):
        assert formats.is_readable_ending(f"x.{ending}")
    for name in ("x.eps", "x.ps", "x.pdf", "x.svg", "x.txt", "x.h5", "x.mpg", "x"):
        assert not formats.is_readable_ending(name)


def test_noise_and_text_are_no_picture():
    rng = np.random.default_rng(0)
    raws = [rng.integers(0, 256, int(size), np.uint8).tobytes() for size in rng.integers(1, 3000, 200)]
    for raw in [*raws, b"\0" * 5000, b"\xff" * 5000, b"a,b\n1,2\n" * 500]:
        with pytest.raises(UndecodableRow):
            Decoder(window=(0, 1))(raw)


def test_no_ending_is_no_ending_of_a_picture(afresh, monkeypatch):
    """Some plugin may have registered the empty one."""
    monkeypatch.setitem(Image.EXTENSION, "", "PNG")
    assert not formats.is_readable_ending("report")
    assert formats.is_readable_ending("report.png")


def test_a_picture_of_a_kind_that_is_not_installed_says_what_to_install(afresh, monkeypatch):
    monkeypatch.setattr(formats.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UndecodableRow, match=r"HEIC.*pip install pillow-heif"):
        Decoder()(HEIC)
    assert not formats.is_readable_ending("x.heic")


def test_an_installed_plugin_is_used(afresh, monkeypatch):
    """The plugin's own format comes last here: a toy that reads one byte as a grey picture."""

    class Toy(Image.Image):
        pass

    def factory(fp, filename=None):
        if fp.read(4) != b"TOY!":
            raise SyntaxError("no toy")
        return Image.new("L", (2, 2), fp.read(1)[0])

    def register():
        Image.register_open("HEIF", factory)
        Image.register_extension("HEIF", ".heic")

    plugin = types.ModuleType("pillow_heif")
    plugin.register_heif_opener = register
    monkeypatch.setitem(sys.modules, "pillow_heif", plugin)
    monkeypatch.setattr(formats, "_PLUGINS", {"pillow_heif": "register_heif_opener"})
    monkeypatch.setattr(formats.importlib.util, "find_spec", lambda name: object())
    for table in (Image.OPEN, Image.EXTENSION):
        monkeypatch.setattr(Image, "OPEN" if table is Image.OPEN else "EXTENSION", dict(table))
    monkeypatch.setattr(Image, "ID", list(Image.ID))
    assert Decoder()(b"TOY!\x07").tolist() == [[[7], [7]], [[7], [7]]]
    assert formats.is_readable_ending("x.HEIC")


@pytest.mark.parametrize("size", [0, 1, 2, 8, 255])
@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA"])
def test_a_tga_with_a_name_is_not_taken_for_dicom(size, mode):
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).convert(mode).save(buffer, "TGA", id_section=b"x" * size)
    assert header(buffer.getvalue())[:3] == (64, 64, False)
    assert Decoder()(buffer.getvalue()).shape[:2] == (64, 64)


def test_a_kind_that_is_not_installed_is_still_a_picture_by_its_name(monkeypatch):
    monkeypatch.setattr(formats, "readable_endings", lambda: frozenset((".png",)))
    assert all(formats.is_picture_ending(f"x.{ending}") for ending in ("png", "HEIC", "avif", "jxl"))
    assert not any(formats.is_picture_ending(name) for name in ("x.txt", "x.parquet", "x.pdf", "x", ".png"))
