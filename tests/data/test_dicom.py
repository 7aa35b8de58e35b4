import contextlib
import io
import warnings

import numpy as np
import pydicom
import pytest
from PIL import Image

from sfumato.base.errors import BadInput, UndecodableRow
from sfumato.data import dicom
from sfumato.data.decode import Decoder, header
from sfumato.data.formats import NoPicture

NAME = "Doe^Jane"
VALUES = np.array([[0, 1000, 2000], [3000, 4000, 4095]], np.uint16)


def table_of(entries, first=0, bits=16, vr="US"):
    """A look-up table as a sequence of one item; `vr` OW writes its entries as bytes."""
    from pydicom.dataset import Dataset
    from pydicom.sequence import Sequence

    item = Dataset()
    item.add_new(0x00283002, "SS" if first < 0 else "US", [len(entries) % 65536, first, bits])
    wide = np.asarray(entries, "u1" if vr == "packed" else "<u2").tobytes()
    item.add_new(0x00283006, "US" if vr == "US" else "OW", list(entries) if vr == "US" else wide)
    return Sequence([item])


def file_of(pixels=VALUES, *, photometric="MONOCHROME2", bits=12, **tags):
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=["a"])
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data = Dataset()
    data.file_meta = meta
    data.SOPClassUID, data.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    data.PatientName, data.ImageComments = NAME, "seen by Dr Roe"
    data.Rows, data.Columns = pixels.shape[:2]
    data.SamplesPerPixel = 3 if pixels.ndim == 3 else 1
    data.PhotometricInterpretation = photometric
    data.BitsAllocated = 8 * pixels.dtype.itemsize
    data.BitsStored, data.HighBit = bits, bits - 1
    data.PixelRepresentation = int(pixels.dtype.kind == "i")
    if pixels.ndim == 3:
        data.PlanarConfiguration = 0
    data.PixelData = pixels.tobytes()
    for tag, value in tags.items():
        setattr(data, tag, value)
    buffer = io.BytesIO()
    data.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def test_the_window_is_applied_after_slope_and_intercept():
    raw = file_of(RescaleSlope=2, RescaleIntercept=-1000)
    found = Decoder(window=(-1000, 3000))(raw)
    assert found.shape == (2, 3, 1)
    assert found.dtype == np.float32
    assert np.allclose(found[:, :, 0], np.clip(2.0 * VALUES / 4000, 0, 1) * 255, atol=1e-3)
    assert header(raw)[:4] == (3, 2, True, 1)


def test_monochrome1_is_inverted():
    plain = Decoder(window=(0, 4095))(file_of())
    inverted = Decoder(window=(0, 4095))(file_of(photometric="MONOCHROME1"))
    assert np.allclose(plain + inverted, 255)
    eight = np.array([[0, 100, 255]], np.uint8)
    assert Decoder()(file_of(eight, photometric="MONOCHROME1", bits=8))[:, :, 0].tolist() == [[255, 155, 0]]


def test_signed_values():
    pixels = np.array([[-1024, 0, 1024]], np.int16)
    found = Decoder(window=(-1024, 1024))(file_of(pixels, bits=16))
    assert found[0, :, 0].tolist() == [0.0, 127.5, 255.0]


def test_eight_bits_need_no_window():
    eight = np.array([[0, 100, 255]], np.uint8)
    assert Decoder()(file_of(eight, bits=8)).tolist() == eight[:, :, None].tolist()
    colour = np.array([[[200, 30, 10], [0, 0, 255]]], np.uint8)
    assert Decoder()(file_of(colour, photometric="RGB", bits=8)).tolist() == colour.tolist()
    assert header(file_of(colour, photometric="RGB", bits=8))[:4] == (2, 1, False, 3)


def test_no_window_is_refused():
    with pytest.raises(BadInput, match="window"):
        Decoder()(file_of())


def test_several_frames_are_refused():
    raw = file_of(np.zeros((2, 3), np.uint16), NumberOfFrames=2, PixelData=bytes(24))
    for read in (Decoder(window=(0, 1)), header):
        with pytest.raises(BadInput, match="frames"):
            read(raw)


def test_too_large_is_an_undecodable_row():
    with pytest.raises(UndecodableRow, match=r"max_pixels \(5\); --max-pixels sets it"):
        Decoder(window=(0, 1), max_pixels=5)(file_of())


def test_truncated_is_an_undecodable_row():
    raw = file_of()
    for cut in (140, len(raw) - 4):
        with pytest.raises(UndecodableRow):
            Decoder(window=(0, 4095))(raw[:cut])


def test_tags_are_never_read_as_text(monkeypatch):
    """Only pixel tags are parsed: the name is not even in the data set that the decoder sees."""
    read = pydicom.filereader.read_partial
    seen = []
    monkeypatch.setattr(
        pydicom.filereader, "read_partial", lambda *args, **options: seen.append(read(*args, **options)) or seen[-1]
    )
    Decoder(window=(0, 4095))(file_of())
    header(file_of())
    assert len(seen) == 2
    for data in seen:
        assert NAME not in str(data)
        assert "PatientName" not in data
        assert "ImageComments" not in data


def test_what_pydicom_says_of_a_file_is_neither_warned_nor_logged(monkeypatch, caplog):
    raw = file_of()
    Decoder(window=(0, 4095))(raw)
    read = pydicom.filereader.read_partial
    inside = {"__name__": "pydicom.dataelem", "warn": __import__("pydicom.misc").misc.warn_and_log}
    exec(f"def complain(): warn('Invalid value {NAME}')", inside)
    monkeypatch.setattr(
        pydicom.filereader, "read_partial", lambda *args, **options: inside["complain"]() or read(*args, **options)
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        inside["complain"]()
        assert caught  # outside the decoder it is heard
        caught.clear()
        caplog.clear()
        Decoder(window=(0, 4095))(raw)
        assert not caught
    assert not caplog.records


def test_without_the_extra_the_error_says_what_to_install(monkeypatch):
    raw = file_of()
    monkeypatch.setattr(dicom.importlib.util, "find_spec", lambda name: None)
    for read in (Decoder(window=(0, 1)), header):
        with pytest.raises(BadInput, match=r"sfumato\[dicom\]"):
            read(raw)


INVERSE = list(range(4095, -1, -1))


@pytest.mark.parametrize("vr", ["US", "OW"])
def test_the_modality_table_is_looked_up_before_the_window(vr):
    raw = file_of(ModalityLUTSequence=table_of(INVERSE, vr=vr))
    found = Decoder(window=(0, 4095))(raw)
    assert np.allclose(found, 255 - Decoder(window=(0, 4095))(file_of()), atol=1e-3)
    assert np.allclose(found, Decoder(window=(0, 4095))(file_of(photometric="MONOCHROME1")), atol=1e-3)
    assert header(raw)[:4] == (3, 2, True, 1)
    with pytest.raises(BadInput, match="window"):
        Decoder()(raw)


def test_values_beyond_a_table_take_its_ends():
    pixels = np.array([[-9, -2, -1, 0, 1, 99]], np.int16)
    raw = file_of(pixels, bits=16, ModalityLUTSequence=table_of([100, 200, 300], first=-1))
    assert Decoder(window=(0, 255))(raw)[0, :, 0].tolist() == [100, 100, 100, 200, 255, 255]
    eight = np.array([[0, 5, 200]], np.uint8)
    raw = file_of(eight, bits=8, ModalityLUTSequence=table_of([7, 8, 9], first=-1))
    assert Decoder(window=(0, 255))(raw)[0, :, 0].tolist() == [8, 9, 9]  # unsigned values less a negative first


def test_a_table_of_all_values_is_read_whole():
    pixels = np.array([[0, 1, 40000, 65535]], np.uint16)
    raw = file_of(pixels, bits=16, ModalityLUTSequence=table_of(range(65535, -1, -1), vr="OW"))
    found = Decoder(window=(0, 65535))(raw)[0, :, 0]
    assert np.allclose(found, (65535 - pixels[0].astype(float)) / 257, atol=1e-3)
    odd = table_of(range(256), bits=7, vr="OW")
    with pytest.raises(UndecodableRow, match="depth"):
        Decoder(window=(0, 255))(file_of(np.array([[1]], np.uint8), bits=8, ModalityLUTSequence=odd))


def test_a_modality_table_of_eight_bits_needs_no_window():
    eight = np.array([[0, 100, 255]], np.uint8)
    for vr in ("US", "OW", "packed"):
        raw = file_of(eight, bits=8, ModalityLUTSequence=table_of(range(255, -1, -1), bits=8, vr=vr))
        assert header(raw)[:4] == (3, 1, False, 1)
        assert Decoder()(raw)[0, :, 0].tolist() == [255, 155, 0]


def test_a_voi_table_takes_the_place_of_the_window():
    curve = [min(4095, 2 * value) for value in range(4096)]
    raw = file_of(VOILUTSequence=table_of(curve, bits=12))
    expected = np.minimum(2.0 * VALUES, 4095) / 4095 * 255
    for window in (None, (0, 9)):
        assert np.allclose(Decoder(window=window)(raw)[:, :, 0], expected, atol=1e-3)
    assert header(raw)[:4] == (3, 2, False, 1)
    inverted = file_of(VOILUTSequence=table_of(curve, bits=12), photometric="MONOCHROME1")
    assert np.allclose(Decoder()(inverted)[:, :, 0], 255 - expected, atol=1e-3)
    narrow = file_of(VOILUTSequence=table_of([value // 16 for value in range(4096)], bits=8))
    assert Decoder()(narrow)[:, :, 0].tolist() == (VALUES // 16).tolist()  # 4096 entries of 8 bits
    rescaled = file_of(VOILUTSequence=table_of(curve, bits=12), RescaleSlope="0.5", RescaleIntercept="0")
    assert np.allclose(Decoder()(rescaled)[:, :, 0], VALUES / 4095 * 255, atol=0.1)


def test_a_suggested_window_does_not_replace_the_declared_one():
    raw = file_of(WindowCenter="100", WindowWidth="10")
    assert np.array_equal(Decoder(window=(0, 4095))(raw), Decoder(window=(0, 4095))(file_of()))


@pytest.mark.parametrize(
    ("tags", "slope", "intercept"),
    [
        ({"RescaleSlope": None, "RescaleIntercept": None}, 1, 0),
        ({"RescaleSlope": "", "RescaleIntercept": "-1000"}, 1, -1000),
        ({"RescaleSlope": "2", "RescaleIntercept": ""}, 2, 0),
        ({"RescaleSlope": "2"}, 2, 0),
        ({"RescaleIntercept": "-1000"}, 1, -1000),
        ({"ModalityLUTSequence": []}, 1, 0),
        ({"ModalityLUTSequence": [pydicom.Dataset()], "VOILUTSequence": [pydicom.Dataset()]}, 1, 0),
    ],
)
def test_an_empty_or_missing_slope_is_one(tags, slope, intercept):
    raw = file_of(**tags)
    found = Decoder(window=(-1000, 9000))(raw)[:, :, 0]
    assert np.allclose(found, np.clip((1.0 * VALUES * slope + intercept + 1000) / 10000, 0, 1) * 255, atol=1e-3)
    assert header(raw)[:4] == (3, 2, True, 1)
    eight = np.array([[0, 100, 255]], np.uint8)
    assert Decoder()(file_of(eight, bits=8, RescaleSlope=None)).tolist() == eight[:, :, None].tolist()


def test_a_slope_of_zero_is_refused():
    with pytest.raises(BadInput, match="RescaleSlope of 0"):
        header(file_of(RescaleSlope="0", RescaleIntercept="5"))


def test_the_slope_of_an_enhanced_file_is_found():
    from pydicom.dataset import Dataset

    values, group = Dataset(), Dataset()
    values.RescaleSlope, values.RescaleIntercept = "2", "-1000"
    group.PixelValueTransformationSequence = [values]
    plain = Decoder(window=(-1000, 3000))(file_of(RescaleSlope=2, RescaleIntercept=-1000))
    for name in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"):
        assert np.array_equal(Decoder(window=(-1000, 3000))(file_of(**{name: [group]})), plain)


def bare(raw, *, implicit):
    """The data of a file without preamble and file meta information, as old archives hold it."""
    data = pydicom.dcmread(io.BytesIO(raw))
    del data.file_meta, data.preamble
    buffer = io.BytesIO()
    data.save_as(buffer, implicit_vr=implicit, little_endian=True, enforce_file_format=False)
    return buffer.getvalue()


def test_files_without_a_preamble():
    raw = file_of(RescaleSlope=2, RescaleIntercept=-1000)
    expected = Decoder(window=(-1000, 3000))(raw)
    for short in (raw[132:], bare(raw, implicit=True), bare(raw, implicit=False)):
        assert dicom.is_dicom(short)
        assert header(short)[:4] == (3, 2, True, 1)
        assert np.array_equal(Decoder(window=(-1000, 3000))(short), expected)
    looked_up = bare(file_of(ModalityLUTSequence=table_of(INVERSE, vr="OW")), implicit=True)
    assert np.allclose(Decoder(window=(0, 4095))(looked_up), 255 - Decoder(window=(0, 4095))(file_of()), atol=1e-3)
    for other in (b"\x08\x00\x05\x00" + b"\xff" * 200, b"II*\0" + bytes(200), bytes(200), b"\x08", b""):
        assert not dicom.is_dicom(other)


def compressed(syntax, pixels=VALUES, bits=12, **tags):
    from pydicom.encaps import encapsulate

    data = pydicom.dcmread(io.BytesIO(file_of(pixels, bits=bits, **tags)))
    data.file_meta.TransferSyntaxUID = pydicom.uid.UID(syntax)
    data.PixelData = encapsulate([b"\xff\xd8\xff\xd9"])
    data["PixelData"].is_undefined_length = True
    buffer = io.BytesIO()
    data.save_as(buffer, implicit_vr=False, little_endian=True)
    return buffer.getvalue()


LOSSLESS, LS, EXTENDED, MPEG = (f"1.2.840.10008.1.2.4.{number}" for number in (70, 80, 51, 100))


@pytest.fixture
def few_plugins(monkeypatch):
    """pydicom as it comes by itself: what other packages would decompress is not available."""
    base = pydicom.pixels.decoders.base.Decoder
    own = base.available_plugins.fget
    monkeypatch.setattr(base, "available_plugins", property(lambda self: tuple({*own(self)} & {"pydicom", "pillow"})))


@pytest.mark.usefixtures("few_plugins")
@pytest.mark.parametrize("syntax", [LOSSLESS, LS, EXTENDED])
def test_a_missing_decompressor_is_named(syntax):
    with pytest.raises(dicom.NeedsPackage, match=r'pip install "pylibjpeg>=[\d.]+" "pylibjpeg-libjpeg>=[\d.]+"'):
        header(compressed(syntax))
    eight = np.array([[0, 100, 255]], np.uint8)
    assert header(compressed("1.2.840.10008.1.2.4.50", eight, bits=8))[:2] == (3, 1)  # Pillow reads baseline JPEG
    assert header(compressed("1.2.840.10008.1.2.4.90"))[:2] == (3, 2)


def test_a_compression_that_pydicom_does_not_know_is_refused():
    with pytest.raises(BadInput, match="which pydicom does not read: export it uncompressed"):
        header(compressed(MPEG))


@pytest.mark.parametrize("syntax", ["1.2.840.113619.5.2", "1.2.840.10", "1.2.840.10008.1.1", "Doe", ""])
def test_an_unknown_transfer_syntax_is_a_record_that_cannot_be_read(syntax):
    raw = compressed("1.2.840.10008.1.2.4.90")
    wide = len(b"1.2.840.10008.1.2.4.90")
    assert raw.count(b"1.2.840.10008.1.2.4.90") == 1
    raw = raw.replace(b"1.2.840.10008.1.2.4.90", syntax.encode().ljust(wide, b"\0"))
    for read in (header, Decoder(window=(0, 4095))):
        with pytest.raises(UndecodableRow) as caught:
            read(raw)
        assert not syntax or syntax not in str(caught.value)
    with pytest.raises(NoPicture, match="DICOM of a transfer syntax that is not known"):
        header(raw)


def outcome(raw):
    try:
        return str(header(raw))
    except (BadInput, UndecodableRow) as error:
        return str(error)


def test_a_file_cut_off_anywhere_is_a_record_that_cannot_be_read():
    """One that ended in its head was refused with the whole data set, and its bytes were quoted."""
    for raw in (file_of(), file_of()[132:], compressed(LOSSLESS), palette()):
        for cut in range(1, len(raw) - 1):
            with contextlib.suppress(UndecodableRow, dicom.NeedsPackage):
                header(raw[:cut])
            told = outcome(raw[:cut])
            assert "compressed as 1.2" not in told
            assert "pydicom does not read" not in told


def test_what_pydicom_decompresses_itself_is_read():
    data = pydicom.dcmread(io.BytesIO(file_of()))
    data.compress(pydicom.uid.RLELossless, generate_instance_uid=False)
    buffer = io.BytesIO()
    data.save_as(buffer)
    assert np.array_equal(Decoder(window=(0, 4095))(buffer.getvalue()), Decoder(window=(0, 4095))(file_of()))
    assert header(buffer.getvalue())[:4] == (3, 2, True, 1)


def test_deep_colour_is_read_as_that_of_other_files():
    colour = np.array([[[65535, 256, 0], [0, 0, 51200]]], np.uint16)
    raw = file_of(colour, photometric="RGB", bits=16)
    assert header(raw)[:4] == (2, 1, True, 3)
    assert Decoder(window=(0, 65535))(raw).tolist() == (colour >> 8).tolist()
    for window in (None, (0, 4095)):
        with pytest.raises(BadInput, match="window"):
            Decoder(window=window)(raw)


@pytest.mark.usefixtures("few_plugins")
@pytest.mark.parametrize("num_plain", [0, 2])
def test_all_headers_are_read_before_the_first_step(tmp_path, num_plain):
    from sfumato.data import image_folder

    lines = ["file,text"]
    files = [compressed(LOSSLESS)] * 3 + [compressed(LS)] + [file_of()] * num_plain + [b"no picture"]
    for place, raw in enumerate(files):
        (tmp_path / f"IM{place}").write_bytes(raw)
        lines.append(f"IM{place},a finding")
    if num_plain:
        Image.new("L", (4, 4)).save(tmp_path / "x.png")
        lines.append("x.png,a finding")
    (tmp_path / "t.csv").write_text("\n".join(lines))
    total = len(lines) - 1
    with pytest.raises(BadInput, match=rf"3 of {total} pictures: .*pylibjpeg-libjpeg.* 1 of {total} pictures: "):
        image_folder(tmp_path, tmp_path / "t.csv", decoder=Decoder(window=(0, 4095)))


@pytest.mark.parametrize("signed", [False, True])
def test_bits_below_the_stored_ones_are_no_part_of_the_value(signed):
    stored = np.array([[-1000, 0, 1000, 2000]] if signed else [[0, 1000, 2000, 4000]])
    pixels = (stored << 4).astype(np.int16 if signed else np.uint16)
    window = (-1000, 2000) if signed else (0, 4000)
    found = Decoder(window=window)(file_of(pixels, HighBit=15))
    wanted = (stored.ravel() - window[0]) / (window[1] - window[0]) * 255
    assert np.allclose(found.ravel(), wanted, atol=1e-3)
    colour = np.array([[[4095, 256, 0]]], np.uint16)
    raw = file_of(colour << 4, photometric="RGB", HighBit=15)
    assert Decoder(window=(0, 4095))(raw).tolist() == [[[255, 16, 0]]]


def test_bits_that_do_not_fit_are_refused():
    for high in (5, 20):
        with pytest.raises(BadInput, match="HighBit that does not fit"):
            header(file_of(HighBit=high))


def without(raw, *names):
    data = pydicom.dcmread(io.BytesIO(raw))
    for name in names:
        delattr(data, name)
    buffer = io.BytesIO()
    data.save_as(buffer)
    return buffer.getvalue()


def palette(**tags):
    parts = {}
    for colour in ("Red", "Green", "Blue"):
        parts[f"{colour}PaletteColorLookupTableDescriptor"] = [4, 0, 16]
        parts[f"{colour}PaletteColorLookupTableData"] = bytes(8)
    return file_of(np.array([[0, 1, 2, 3]], np.uint8), photometric="PALETTE COLOR", bits=8, **parts | tags)


def no_pictures():
    whole = file_of()
    floating = without(file_of(FloatPixelData=bytes(24)), "PixelData")
    return {
        "DICOM without pixels": without(whole, "PixelData"),
        "DICOM with floating-point pixels": floating,
        "DICOM without rows or columns": file_of(Rows=0),
        "DICOM without a full description of its picture": without(whole, "BitsStored"),
        "DICOM with a number of samples that its colour space does not have": file_of(SamplesPerPixel=3),
        "DICOM with signed colour": file_of(np.zeros((1, 2, 3), np.int8), photometric="RGB", bits=8),
        "DICOM with numbers of bits that are not read": file_of(BitsAllocated=12),
        "DICOM that cannot be decoded as its header describes it": file_of(RescaleSlope="1", PixelRepresentation=2),
        "DICOM without its table of colours": without(palette(), "BluePaletteColorLookupTableData"),
        "DICOM in a colour space that is not read": file_of(np.zeros((1, 1, 3), np.uint8), photometric="HSV", bits=8),
        "DICOM with a look-up table of a depth that is not read": file_of(
            VOILUTSequence=table_of([0, 1, 2, 3], bits=5)
        ),
        "DICOM with fewer pixels than it says": file_of(Rows=3),
    }


def test_what_can_never_be_read_is_named_by_its_header(tmp_path, caplog):
    from sfumato.data import image_folder

    Decoder()(palette())
    lines, kinds = ["file,text"], no_pictures()
    for place, (kind, raw) in enumerate(kinds.items()):
        with pytest.raises(UndecodableRow, match=kind) as caught:
            header(raw)
        assert "Doe" not in str(caught.value)
        (tmp_path / f"{place}.dcm").write_bytes(raw)
        lines.append(f"{place}.dcm,a finding")
    table = tmp_path / "t.csv"
    table.write_text("\n".join(lines))
    with pytest.raises(BadInput, match=r"none of the 12 files .*DICOM without pixels \(1\)"):
        image_folder(tmp_path, table, decoder=Decoder(window=(0, 4095)))
    (tmp_path / "ok.dcm").write_bytes(file_of())
    table.write_text("\n".join([*lines, "ok.dcm,a finding"]))
    assert len(image_folder(tmp_path, table, decoder=Decoder(window=(0, 4095)))) == 13
    assert all(f"{kind} (1)" in caplog.text for kind in kinds)


def test_frames_that_are_not_counted_are_several_frames():
    for raw in (file_of(PixelData=VALUES.tobytes() * 3), file_of(PixelData=VALUES.tobytes() * 2)):
        for read in (header, Decoder(window=(0, 4095))):
            with pytest.raises(BadInput, match="several frames"):
                read(raw)
    assert header(file_of(PixelData=VALUES.tobytes() + b"\0\0"))[:2] == (3, 2)  # padding


def colour(kind=np.uint8, *, space="RGB", bits=None, **tags):
    pixels = np.zeros((2, 4, 3), kind)
    return file_of(pixels, photometric=space, bits=bits or 8 * pixels.dtype.itemsize, **tags)


def described():
    """Descriptions of all kinds, in each of which one thing is usual or odd, over pixels of the right number."""
    grey = np.zeros((2, 4), np.uint16)
    eight = grey.astype(np.uint8)
    lut = "PaletteColorLookupTable"
    tables = {
        "short": {f"Red{lut}Data": bytes(2)},
        "0 entries": {f"Red{lut}Descriptor": [0, 0, 16]},
        "shorter green": {f"Green{lut}Data": bytes(6)},
    }
    two = np.zeros((2, 4, 2), np.uint8)
    found = {
        "12 of 16": file_of(grey),
        "samples 3": file_of(grey, SamplesPerPixel=3, PlanarConfiguration=0, PixelData=bytes(48)),
        "no samples": without(file_of(grey), "SamplesPerPixel"),
        "samples 0": file_of(grey, SamplesPerPixel=0),
        "monochrome 3": file_of(grey, photometric="MONOCHROME3"),
        "two spaces": file_of(grey, photometric=["MONOCHROME2", "MONOCHROME1"]),
        "no space": file_of(grey, photometric=""),
        "allocated 12": file_of(grey, BitsAllocated=12),
        "allocated 24": file_of(grey, BitsAllocated=24, PixelData=bytes(24)),
        "allocated 32": file_of(grey.astype(np.uint32), bits=20),
        "allocated 1": file_of(eight, bits=1, BitsAllocated=1, PixelData=bytes(2)),
        "stored 0": file_of(grey, BitsStored=0, HighBit=0),
        "signed": file_of(grey.astype(np.int16)),
        "sign 2": file_of(grey, PixelRepresentation=2),
        "slope nan": file_of(grey, RescaleSlope="1.23456789").replace(b"1.23456789", b"nan       "),
        "colour": colour(),
        "colour planes": colour(PlanarConfiguration=1),
        "colour planes 2": colour(PlanarConfiguration=2),
        "colour no planes": without(colour(), "PlanarConfiguration"),
        "colour 1 sample": file_of(eight, photometric="RGB", bits=8),
        "colour signed 8": colour(np.int8),
        "colour signed 16": colour(np.int16),
        "colour 7": colour(bits=7),
        "colour 8 of 16": colour(np.uint16, bits=8),
        "colour 12 of 16": colour(np.uint16, bits=12),
        "colour 16": colour(np.uint16),
        "ybr": colour(space="YBR_FULL"),
        "ybr 16": colour(np.uint16, space="YBR_FULL"),
        "ybr 422": file_of(two, photometric="YBR_FULL_422", bits=8, SamplesPerPixel=3),
        "ybr ict": colour(space="YBR_ICT"),
        "ybr partial 420": colour(space="YBR_PARTIAL_420", PixelData=bytes(12)),
        "ybr partial 422": colour(space="YBR_PARTIAL_422", PixelData=bytes(16)),
        "ybr partial whole": colour(space="YBR_PARTIAL_420"),
        "argb": colour(space="ARGB"),
        "palette": palette(),
        "palette 3 samples": palette(SamplesPerPixel=3, PlanarConfiguration=0, PixelData=bytes(12)),
    }
    for name, tags in tables.items():
        found[f"palette {name}"] = palette(**tags)
    return found


WINDOWS = (None, (0, 4095), (0, 65_535), (0, 255))


@pytest.mark.filterwarnings("ignore:Invalid value for VR")
def test_header_and_decoder_agree():
    """What no pixels could make a picture is known from the header, and what the header takes is decoded."""
    for name, raw in described().items():
        try:
            found = header(raw)
        except UndecodableRow:
            for window in WINDOWS:
                with pytest.raises(UndecodableRow):
                    Decoder(window=window)(raw)
            continue
        window = (0, found.full) if found.full else (0, 4095) if found.deep else None
        pixels = Decoder(window=window)(raw)
        assert pixels.shape == (found.height, found.width, found.channels), name
        assert (pixels.dtype == np.float32) == (found.deep and found.channels == 1), name


@pytest.mark.parametrize(("space", "kind"), [("YBR_FULL", np.uint8), ("YBR_FULL", np.uint16), ("RGB", np.uint16)])
def test_header_and_decoder_agree_where_runs_are_counted(space, kind):
    data = pydicom.dcmread(io.BytesIO(colour(kind)))
    data.compress(pydicom.uid.RLELossless, generate_instance_uid=False)
    data.PhotometricInterpretation = space
    buffer = io.BytesIO()
    data.save_as(buffer)
    raw = buffer.getvalue()
    if (space, kind) == ("YBR_FULL", np.uint16):  # which pydicom cannot convert
        with pytest.raises(NoPicture):
            header(raw)
        with pytest.raises(UndecodableRow):
            Decoder(window=(0, 65_535))(raw)
    else:
        assert header(raw).channels == Decoder(window=(0, 65_535))(raw).shape[2] == 3


@pytest.mark.filterwarnings("ignore:Invalid value for VR")
def test_what_is_taken_and_what_is_not():
    taken = set()
    for name, raw in described().items():
        with contextlib.suppress(NoPicture):
            header(raw)
            taken.add(name)
    usual = {"12 of 16", "allocated 32", "allocated 1", "signed", "ybr", "ybr 422", "ybr ict", "palette"}
    whole = {"colour", "colour planes", "colour 7", "colour 8 of 16", "colour 12 of 16", "colour 16"}
    assert taken == usual | whole


def test_colour_of_few_bits_is_stretched_as_grey_is():
    stored = np.array([[[0, 64, 127], [127, 1, 100]]], np.uint8)
    want = np.rint(stored * (255 / 127)).astype(int)
    assert Decoder()(file_of(stored, photometric="RGB", bits=7)).tolist() == want.tolist()
    assert Decoder()(file_of(stored[:, :, 0], bits=7))[:, :, 0].tolist() == want[:, :, 0].tolist()
    eight = np.array([[[0, 200, 255]]], np.uint16)
    assert Decoder()(file_of(eight, photometric="RGB", bits=8)).tolist() == eight.tolist()
