"""What lies in a folder of pictures is a record, or is named."""

import logging
import os

import pytest
from PIL import Image

from sfumato.base.errors import BadInput, UndecodableRow
from sfumato.data import image_folder, picture_files

HEIC = b"\0\0\0\x1cftypheic\0\0\0\0mif1heic" + b"\0" * 200


@pytest.fixture
def root(tmp_path, monkeypatch):
    from sfumato.data import formats

    monkeypatch.setattr(formats, "readable_endings", lambda: frozenset((".png", ".jpg")))
    for name in ("a", "b"):
        Image.new("RGB", (6, 4)).save(tmp_path / f"{name}.png")
        (tmp_path / f"{name}.txt").write_text(f"caption {name}")
    return tmp_path


def warned(caplog):
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


@pytest.mark.parametrize(
    ("name", "kind"), [("c.HEIC", "HEIC \\(1; pip install"), ("c.cr2", "\\.cr2 \\(1\\)"), ("c", "no ending")]
)
def test_a_captioned_file_of_an_unread_kind_is_refused(root, name, kind):
    (root / name).write_bytes(HEIC)
    (root / "c.txt").write_text("caption c")
    with pytest.raises(BadInput, match=f"1 captioned files.*{kind}.*--missing zero"):
        image_folder(root)
    found = image_folder(root, missing="zero")
    assert len(found) == 3
    with pytest.raises(UndecodableRow):
        found[2]


def test_only_unread_kinds_are_refused_by_name_also_with_zero(root):
    for name in ("a", "b"):
        os.rename(root / f"{name}.png", root / f"{name}.heic")
    for missing in ("error", "zero"):
        with pytest.raises(BadInput, match=r"2 captioned files.*HEIC \(2"):
            image_folder(root, missing=missing)
    with pytest.raises(BadInput, match=r"no picture that is read here; it holds HEIC \(2; pip install pillow-heif\)"):
        picture_files(root)


def test_what_is_left_out_is_counted_by_kind(root, caplog):
    (root / "deep").mkdir()
    for name in ("x.heic", "y.pdf", "z.pdf", "no_ending"):
        (root / name).write_bytes(b"?")
    (root / "lone.txt").write_text("where is my picture?")
    (root / "elsewhere").symlink_to(root / "deep")
    (root / "gone.png").symlink_to(root / "nothing")
    os.mkfifo(root / "pipe.png")
    (root / ".hidden.heic").write_bytes(b"?")
    left_out = (
        ".pdf (2), not a regular file (2), HEIC (1; pip install pillow-heif), hidden file (1), linked folder (1), "
        "no ending (1)"
    )
    assert [path.name for path in picture_files(root)] == ["a.png", "b.png"]
    assert warned(caplog) == [f"{root}: left out 8 that are not read as pictures: {left_out}."]
    caplog.clear()
    assert len(image_folder(root)) == 2
    assert warned(caplog) == [
        f"{root}: left out 8 that are not read as pictures: {left_out}.",
        f"{root}: 1 caption files have no picture and are no records; the first is lone.txt.",
    ]


def test_a_listed_file_of_an_unread_kind_is_refused_and_a_broken_one_counted(root, caplog):
    (root / "c.heic").write_bytes(HEIC)
    (root / "d.jpg").write_bytes(HEIC)  # named by what it holds
    (root / "e.jpg").write_bytes(b"\xff\xd8\xff broken")
    table = root / "t.csv"
    table.write_text("file,text\na.png,x\nc.heic,y\nd.jpg,z\ne.jpg,w\n")
    with pytest.raises(BadInput, match=r"2 of 4 pictures.*HEIC \(2; pip install pillow-heif\)"):
        image_folder(root, table)
    assert len(image_folder(root, table, missing="zero")) == 4
    assert warned(caplog)[-1:] == [
        "3 of 4 pictures looked at cannot be read and contribute nothing: HEIC (2; pip install pillow-heif), .jpg (1)."
    ]


def test_pictures_beyond_the_limit_are_counted(root, caplog):
    from sfumato.data import Decoder

    Image.new("RGB", (30, 30)).save(root / "a.png")
    assert len(image_folder(root, decoder=Decoder(max_pixels=100))) == 2
    assert warned(caplog) == [
        "1 of 2 pictures looked at cannot be read and contribute nothing: larger than --max-pixels (1)."
    ]
    with pytest.raises(BadInput, match=r"none of the 2 files.*larger than --max-pixels \(2\)"):
        image_folder(root, decoder=Decoder(max_pixels=10))


@pytest.mark.parametrize("ending", ["png", "sock"])
def test_a_captioned_pipe_is_refused_and_kept_with_zero(root, caplog, ending):
    os.mkfifo(root / f"c.{ending}")
    (root / "c.txt").write_text("caption c")
    with pytest.raises(BadInput, match=rf"1 row \(3\) of 3 .* first is c\.{ending}, which is not a regular file"):
        image_folder(root)
    found = image_folder(root, missing="zero")
    assert len(found) == 3
    with pytest.raises(UndecodableRow):
        found[2]
    assert warned(caplog) == []


def test_a_captioned_file_of_an_unread_kind_is_known_in_every_spelling(root, caplog):
    (root / "Jos\u00e9.heic").write_bytes(HEIC)
    (root / "Jose\u0301.txt").write_text("caption c")
    with pytest.raises(BadInput, match=r"1 captioned files.*HEIC \(1"):
        image_folder(root)
    assert len(image_folder(root, missing="zero")) == 3
    (root / "Jose\u0301.png").write_bytes((root / "a.png").read_bytes())  # has the caption, so that the other has none
    caplog.clear()
    assert len(image_folder(root)) == 3
    assert warned(caplog) == [f"{root}: left out 1 that are not read as pictures: HEIC (1; pip install pillow-heif)."]


def test_a_parquet_file_does_not_hide_pictures_of_an_unread_kind(root):
    from sfumato.data import load

    for name in ("a", "b"):
        os.rename(root / f"{name}.png", root / f"{name}.heic")
    (root / "stray.parquet").write_bytes(b"?")
    with pytest.raises(BadInput, match=r"2 captioned files.*HEIC \(2"):
        load(str(root))


def test_a_row_that_names_a_picture_of_an_unread_kind_is_no_line_of_names(root):
    table = root / "t.csv"
    table.write_text("a.heic,Ann,text\nb.heic,Bob,x\n")
    with pytest.raises(BadInput, match="--image-column") as caught:
        image_folder(root, table)
    assert "Ann" not in str(caught.value)


def test_hidden_files_and_folders_are_left_out_and_counted(root, caplog):
    for name in (".hidden.png", ".ipynb_checkpoints/a.png", "sub/.cache/deep/b.png"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (6, 4)).save(root / name)
        (root / name).with_suffix(".txt").write_text("caption")
    (root / ".DS_Store").write_bytes(b"?")
    left_out = [f"{root}: left out 3 that are not read as pictures: hidden folder (2), hidden file (1)."]
    assert [path.name for path in picture_files(root)] == ["a.png", "b.png"]
    assert warned(caplog) == left_out
    caplog.clear()
    assert len(image_folder(root)) == 2
    assert warned(caplog) == left_out


def test_pictures_that_a_table_does_not_list_are_counted(root, caplog):
    (root / "sub").mkdir()
    for name in ("c.png", "sub/d.png", ".e.png"):
        Image.new("RGB", (6, 4)).save(root / name)
    (root / "link.png").symlink_to(root / "a.png")
    table = root / "t.csv"
    table.write_text("file,text\na.png,x\nsub/../c.png,y\n")
    assert len(image_folder(root, table)) == 2
    assert warned(caplog) == [f"{table}: 2 of 5 pictures in {root} are not listed and are no records."]
    caplog.clear()
    table.write_text("file,text\na.png,x\nc.png,y\nb.png,z\nsub/d.png,w\n")
    image_folder(root, table)
    assert warned(caplog) == []
