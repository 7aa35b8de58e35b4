import os

import numpy as np
import pytest
from PIL import Image

from sfumato.base.errors import BadInput, UndecodableRow
from sfumato.data import Columns, Decoder, image_folder


def picture(path, colour=(200, 30, 10), mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, (6, 4), colour).save(path)


@pytest.fixture
def root(tmp_path):
    for name in ("a.png", "b.JPG", "sub/c.png"):
        picture(tmp_path / "pictures" / name)
    return tmp_path / "pictures"


def table(root, *rows, header="file,text"):
    path = root.parent / "t.csv"
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def test_a_table_gives_rows_in_its_order(root):
    found = image_folder(root, table(root, "sub/c.png,third", "a.png,first", "./b.JPG,second"))
    assert [found[index]["caption"] for index in range(3)] == ["third", "first", "second"]
    assert found[1]["image"].shape == (4, 6, 3)
    assert found[1]["label"] is None
    assert found.augment == "crop"
    assert not found.flip
    assert not found.public
    assert found.rows.file(2) == os.path.realpath(root / "b.JPG")


def test_absolute_paths_inside_are_read(root):
    assert len(image_folder(root, table(root, f"{root / 'a.png'},first"))) == 1


def test_labels_and_several_captions(root):
    path = root.parent / "t.jsonl"
    path.write_text(
        '{"file": "a.png", "text": ["one", "two"], "kind": "y"}\n{"file": "b.JPG", "text": "three", "kind": "x"}\n'
    )
    found = image_folder(root, path, columns=Columns(label="kind"), public=True)
    assert found.class_names == ("x", "y")
    assert found.labels.tolist() == [1, 0]
    assert found[0]["label"] == 1
    assert found[0]["caption"] == "one"
    drawn = {found.draw(0, np.random.default_rng(seed))["caption"] for seed in range(20)}
    assert drawn == {"one", "two"}
    assert list(found.captions()) == ["one", "two", "three"]


def test_sidecar_captions(root):
    for name in ("a.txt", "b.txt", "sub/c.txt"):
        (root / name).write_text(f" caption of\n{name} ")
    (root / "orphan.txt").write_text("x")
    found = image_folder(root)
    assert [found[index]["caption"] for index in range(3)] == [
        f"caption of {n}" for n in ("a.txt", "b.txt", "sub/c.txt")
    ]
    (root / "b.txt").write_text("\n")
    with pytest.raises(BadInput, match=r"empty in 1 row \(2\)"):
        image_folder(root)
    (root / "b.txt").unlink()
    (root / "all.csv").write_text("file,text\n")
    with pytest.raises(BadInput, match=r"1 of 3 pictures.*b\.JPG needs b\.txt.*Is all\.csv the caption table"):
        image_folder(root)
    picture(root / "a.gif")
    (root / "b.txt").write_text("x")
    with pytest.raises(BadInput, match=r"share the caption file a\.txt"):
        image_folder(root)


def test_missing_files_are_named_with_near_matches(root):
    path = table(root, "a.png,first", "sub/C.PNG,second", "zzz,third")
    with pytest.raises(BadInput, match=r"2 rows \(2, 3\) of 3.*first is sub/C\.PNG; did you mean 'c\.png'"):
        image_folder(root, path)
    kept = image_folder(root, path, missing="zero")
    assert len(kept) == 3
    assert kept[0]["caption"] == "first"
    with pytest.raises(UndecodableRow):
        kept[2]
    with pytest.raises(BadInput, match=r"1 row \(1\) of 1"):
        image_folder(root, table(root, "x.png,first"), missing="zero")
    with pytest.raises(BadInput, match="error, zero"):
        image_folder(root, path, missing="drop")


@pytest.mark.parametrize("name", ["../outside.png", "sub/../../outside.png", "/etc/passwd", "link.png", ".", "a\0.png"])
def test_nothing_outside_the_folder_is_read(root, name):
    picture(root.parent / "outside.png")
    (root / "link.png").symlink_to(root.parent / "outside.png")
    with pytest.raises(BadInput, match=r"row 2: the file lies outside"):
        image_folder(root, table(root, "a.png,first", f"{name},second"))


def test_a_sidecar_behind_a_link_outside_is_not_read(root):
    (root.parent / "secret.txt").write_text("secret")
    for name in ("b.txt", "sub/c.txt"):
        (root / name).write_text("x")
    (root / "a.txt").symlink_to(root.parent / "secret.txt")
    with pytest.raises(BadInput, match=r"caption file a\.txt: the file lies outside"):
        image_folder(root)


def test_a_folder_with_a_common_prefix_is_outside(root):
    picture(root.parent / "pictures2" / "x.png")
    with pytest.raises(BadInput, match="outside"):
        image_folder(root, table(root, "../pictures2/x.png,first"))


def test_one_person_must_be_one_record(root):
    with pytest.raises(BadInput, match=r"1 row \(3\) repeat an earlier row"):
        image_folder(root, table(root, "a.png,x", "b.JPG,y", "./a.png,x"))
    twice = table(root, "a.png,x", "a.png,y", "b.JPG,z")
    with pytest.raises(BadInput, match=r"1 row \(2\) name a picture again.*--owner-column"):
        image_folder(root, twice)
    by_picture = image_folder(root, twice, columns=Columns(owner="file"))
    assert [rows.tolist() for rows in by_picture.owners] == [[0, 1], [2]]
    (root / "same.png").symlink_to(root / "a.png")
    with pytest.raises(BadInput, match=r"name a picture again"):
        image_folder(root, table(root, "a.png,x", "same.png,y"))
    with pytest.raises(BadInput, match="another owner"):
        image_folder(root, table(root, "a.png,x,p", "a.png,y,q", header="file,text,who"), columns=Columns(owner="who"))
    with pytest.raises(BadInput, match=r"owner is empty in 1 row \(2\)"):
        image_folder(root, table(root, "a.png,x,p", "b.JPG,y,", header="file,text,who"), columns=Columns(owner="who"))


def test_undeclared_depth_is_refused_before_training(root):
    Image.fromarray(np.zeros((4, 6), np.uint16)).save(root / "deep.png")
    path = table(root, "a.png,x", "deep.png,y")
    with pytest.raises(BadInput, match=r"deep\.png: .*window"):
        image_folder(root, path)
    found = image_folder(root, path, decoder=Decoder(window=(0, 4095)))
    assert found[0]["image"].dtype == np.uint8
    assert found[1]["image"].dtype == np.float32


def test_a_broken_file_stays_a_record_and_a_folder_of_nothing_is_refused(root):
    (root / "a.png").write_text("no picture")
    found = image_folder(root, table(root, "a.png,x", "b.JPG,y"))
    assert len(found) == 2
    with pytest.raises(UndecodableRow):
        found[0]
    with pytest.raises(BadInput, match="none of the 1 files"):
        image_folder(root, table(root, "a.png,x"))


def test_no_pixel_is_decoded_before_the_first_step(root, monkeypatch):
    monkeypatch.setattr(Image.Image, "load", None)
    image_folder(root, table(root, "a.png,x"))


def test_wrong_folders_and_settings(root):
    with pytest.raises(BadInput, match="does not exist; did you mean 'pictures'"):
        image_folder(root.parent / "picture")
    with pytest.raises(BadInput, match="--captions"):
        image_folder(root, columns=Columns(owner="who"))
    (root.parent / "empty").mkdir()
    with pytest.raises(BadInput, match="holds no picture"):
        image_folder(root.parent / "empty")
