import io
import warnings

import numpy as np
import pydicom
import pytest

from sfumato.base.errors import BadInput, UndecodableRow
from sfumato.data import dicom
from sfumato.data.decode import Decoder, header

NAME = "Doe^Jane"
VALUES = np.array([[0, 1000, 2000], [3000, 4000, 4095]], np.uint16)


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
    assert header(raw) == (3, 2, True, 1)


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
    assert header(file_of(colour, photometric="RGB", bits=8)) == (2, 1, False, 3)


def test_no_window_is_refused():
    with pytest.raises(BadInput, match="window"):
        Decoder()(file_of())


def test_several_frames_are_refused():
    raw = file_of(np.zeros((2, 3), np.uint16), NumberOfFrames=2, PixelData=bytes(24))
    for read in (Decoder(window=(0, 1)), header):
        with pytest.raises(BadInput, match="frames"):
            read(raw)


def test_too_large_is_an_undecodable_row():
    with pytest.raises(UndecodableRow, match="max_pixels"):
        Decoder(window=(0, 1), max_pixels=5)(file_of())


def test_truncated_is_an_undecodable_row():
    raw = file_of()
    for cut in (140, len(raw) - 4):
        with pytest.raises(UndecodableRow):
            Decoder(window=(0, 4095))(raw[:cut])


def test_tags_are_never_read_as_text(monkeypatch):
    """Only pixel tags are parsed: the name is not even in the data set that the decoder sees."""
    read = pydicom.dcmread
    seen = []
    monkeypatch.setattr(pydicom, "dcmread", lambda *args, **options: seen.append(read(*args, **options)) or seen[-1])
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
    read = pydicom.dcmread
    inside = {"__name__": "pydicom.dataelem", "warn": __import__("pydicom.misc").misc.warn_and_log}
    exec(f"def complain(): warn('Invalid value {NAME}')", inside)
    monkeypatch.setattr(pydicom, "dcmread", lambda *args, **options: inside["complain"]() or read(*args, **options))
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
