import os

import numpy as np
import pytest
from PIL import Image

from sfumato.base.errors import BadInput, UndecodableRow
from sfumato.data import Columns, Decoder, check_disjoint, image_folder, load


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


NFC, NFD = "Jos\u00e9", "Jose\u0301"


def owned(root, *owners, header="file,text,who", **columns):
    names = ("a.png", "b.JPG", "sub/c.png")
    path = table(root, *(f"{name},{name[0]},{owner}" for name, owner in zip(names, owners)), header=header)
    return image_folder(root, path, columns=Columns(owner="who", **columns))


@pytest.mark.parametrize(
    "spellings",
    [
        ("7", "7.0", "007"),
        ("1.00E+07", "10000000", "10000000.0"),
        (NFC, NFD, f"{NFC} "),
        ("Ann", "Ann\u200b", '" Ann"'),
        ("O'Neill", "O\u2019Neill", "O'Neill\ufeff"),
    ],
)
def test_spellings_of_one_owner_are_one_record(root, spellings):
    assert owned(root, *spellings).num_records == 1


def test_other_owners_stay_other_records(root):
    assert owned(root, "Ann", "ann", "Anna").num_records == 3
    with pytest.raises(BadInput, match=r"owner only spells a missing value .* in 2 rows \(1, 3\)"):
        owned(root, "nan", "Ann", "NULL")


def test_owners_of_every_table_are_the_same(root):
    path = root.parent / "t.jsonl"
    path.write_text(
        '{"file": "a.png", "text": "x", "who": 7}\n{"file": "b.JPG", "text": "y", "who": 7.0}\n'
        '{"file": "sub/c.png", "text": "z", "who": "07"}\n'
    )
    found = image_folder(root, path, columns=Columns(owner="who"))
    assert found.num_records == 1
    with pytest.raises(BadInput, match="share 1 owners"):
        check_disjoint(found, owned(root, "7.00", "8", "9"))


@pytest.mark.parametrize(("disk", "cell"), [(NFC, NFD), (NFD, NFC), (NFC, NFC + "\u200b"), ("a b", "a\u00a0b")])
def test_a_file_is_found_in_every_spelling(root, disk, cell):
    picture(root / disk / f"{disk}.png")
    found = image_folder(root, table(root, f"{cell}/{cell}.png,x", "a.png,y"))
    assert found.rows.file(0) == os.path.realpath(root / disk / f"{disk}.png")
    twice = table(root, f"{cell}/{cell}.png,x", f"{disk}/{disk}.png,y")
    with pytest.raises(BadInput, match=r"1 row \(2\) name a picture again"):
        image_folder(root, twice)
    assert image_folder(root, twice, columns=Columns(owner="file")).num_records == 1


def test_two_files_that_differ_by_their_spelling_are_one_owner(root):
    for name in (NFC, NFD):
        picture(root / f"{name}.png")
    path = table(root, f"{NFC}.png,x", f"{NFD}.png,y", "a.png,z")
    assert len({image_folder(root, path).rows.file(row) for row in range(3)}) == 3
    whole = image_folder(root, path)
    with pytest.raises(BadInput, match="share 1 picture files"):
        check_disjoint(whole.select([0, 2]), whole.select([1]))
    owned_by_file = image_folder(root, path, columns=Columns(owner="file"))
    assert [rows.tolist() for rows in owned_by_file.owners] == [[0, 1], [2]]
    with pytest.raises(BadInput, match="share 1 owners"):
        check_disjoint(owned_by_file.select([0, 2]), owned_by_file.select([1]))


def test_a_caption_file_is_found_in_every_spelling(root):
    picture(root / f"{NFC}.png")
    for name in ("a.txt", "b.txt", "sub/c.txt", f"{NFD}.txt"):
        (root / name).write_text("x", encoding="utf-16")
    assert len(image_folder(root)) == 4
    picture(root / f"{NFD}.png")
    with pytest.raises(BadInput, match="share the caption file"):
        image_folder(root)
    (root / f"{NFC}.txt").write_text("y")
    found = image_folder(root)  # each picture has the file of its own name
    assert {found.rows.file(row)[-8:]: found[row]["caption"] for row in range(2)}[f"{NFC}.png"[-8:]] == "y"


@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
def test_only_regular_files_are_pictures(root, kind):
    odd = root / "odd.png"
    {"pipe": os.mkfifo, "folder": os.mkdir, "device": lambda path: os.symlink("/dev/zero", path)}[kind](odd)
    path = table(root, "a.png,x", "odd.png,y")
    if kind == "device":
        with pytest.raises(BadInput, match="row 2: the file lies outside"):
            image_folder(root, path)
        return
    with pytest.raises(BadInput, match=r"1 row \(2\) of 2 .* first is odd\.png, which is not a regular file"):
        image_folder(root, path)
    kept = image_folder(root, path, missing="zero")
    with pytest.raises(UndecodableRow):
        kept[1]
    for name in ("a", "b", "sub/c", "odd"):
        (root / f"{name}.txt").write_text("x")
    if kind == "pipe":
        with pytest.raises(BadInput, match="not a regular file"):
            image_folder(root)


def test_a_picture_that_becomes_a_pipe_ends_nothing(root):
    found = image_folder(root, table(root, "a.png,x"))
    (root / "a.png").unlink()
    os.mkfifo(root / "a.png")
    with pytest.raises(UndecodableRow):
        found[0]


def test_a_caption_file_that_is_a_pipe_is_not_waited_for(root):
    for name in ("b.txt", "sub/c.txt"):
        (root / name).write_text("x")
    os.mkfifo(root / "a.txt")
    with pytest.raises(BadInput, match=r"a\.txt cannot be read as UTF-8 text"):
        image_folder(root)


@pytest.mark.parametrize("written", ["link", "real"])
@pytest.mark.parametrize("named", ["link", "real"])
def test_a_folder_behind_a_link_takes_absolute_paths(root, written, named):
    (root.parent / "link").symlink_to(root)
    places = {"link": root.parent / "link", "real": root}
    path = table(root, f"{places[written] / 'a.png'},x", "sub/c.png,y")
    found = image_folder(places[named], path)
    assert found.rows.file(0) == os.path.realpath(root / "a.png")
    picture(root.parent / "outside.png")
    with pytest.raises(BadInput, match="row 1: the file lies outside"):
        image_folder(places[named], table(root, f"{places[written]}/../outside.png,x"))


def test_a_stray_quote_is_found_by_the_files_of_the_folder(root):
    picture(root / "IM1.png")
    (root / "IM1.png").rename(root / "IM1")
    with pytest.raises(BadInput, match="line 2: a quote in this row"):
        image_folder(root, table(root, 'a.png,"first', "IM1,second", 'IM2,third"'))


@pytest.mark.parametrize("column", ["text", "who"])
def test_the_wrong_image_column_prints_no_cell(root, column):
    path = table(root, *(f"a.png,secret cat {n},Ann{n}" for n in range(3)), header="file,text,who")
    with pytest.raises(BadInput, match=r"3 rows \(1, 2, 3\) of 3 .*check that --image-column names") as caught:
        image_folder(root, path, columns=Columns(image=column, caption="file"))
    assert "secret" not in str(caught.value)
    assert "Ann" not in str(caught.value)


def test_a_missing_name_is_shown_only_where_it_reads_like_a_file_and_few_are_missing(root):
    for cell in ("x" * 5000 + ".png", "x" * 5000, "a\x1b[31m.png", "IM0001"):
        with pytest.raises(BadInput, match=r"1 row \(2\) of 2 .*--image-column names") as caught:
            image_folder(root, table(root, "a.png,first", f"{cell},second"))
        assert cell not in str(caught.value)
    with pytest.raises(BadInput, match=r"6 rows .* of 6 .*is it the right folder") as caught:
        image_folder(root, table(root, *(f"Ann{n}.png,{n}" for n in range(6))))
    assert "Ann" not in str(caught.value)
    with pytest.raises(BadInput, match=r"the first is sub/C\.PNG; did you mean 'c\.png'\? Rows may be kept"):
        image_folder(root, table(root, "sub/C.PNG,x"))


def test_a_link_to_nothing_is_named_by_its_own_name(root):
    (root / "dangling.png").symlink_to("nope")
    path = table(root, "a.png,x", "dangling.png,y")
    with pytest.raises(BadInput, match=r"1 row \(2\) of 2 .*first is dangling\.png, a link that leads to no file\. R"):
        image_folder(root, path)
    assert len(image_folder(root, path, missing="zero")) == 2
    for name in ("a", "b", "sub/c", "dangling"):
        (root / f"{name}.txt").write_text("x")
    with pytest.raises(BadInput, match=r"first is dangling\.png, a link"):
        image_folder(root)
    (root / "out.png").symlink_to(root.parent / "nope")
    with pytest.raises(BadInput, match="outside the picture folder"):
        image_folder(root, table(root, "out.png,x"))


def test_messages_end_once(root):
    for call in (
        lambda: image_folder(root.parent / "picture"),
        lambda: image_folder(root, root / "tt.csv"),
        lambda: image_folder(root.parent / "zzzz"),
    ):
        (root / "t.csv").write_text("x")
        with pytest.raises(BadInput) as caught:
            call()
        assert "?." not in str(caught.value)
        assert str(caught.value)[-1] in ".?"


def test_a_name_that_no_disk_takes_is_a_sentence(root):
    for call in (
        lambda: image_folder("x" * 5000),
        lambda: image_folder(root, "x" * 5000 + ".csv"),
        lambda: load("x" * 5000),
        lambda: load("vqa2:" + "x" * 5000),
        lambda: load("emoji:" + "x" * 5000),
    ):
        with pytest.raises(BadInput):
            call()


@pytest.mark.parametrize("owner", [' "7"', "'7'", '"=""7"""', "'7", '"""7"""', "7"])
def test_an_owner_in_other_quotes_is_the_same_record(root, owner):
    path = table(root, 'a.png,"a cat","7"', f"b.JPG, a dog,{owner}", header="file,text,who")
    found = image_folder(root, path, columns=Columns(owner="who"))
    assert found.num_records == 1
    assert found[1]["caption"] == "a dog"


def test_blanks_before_a_quote_are_none_of_the_cell(root):
    found = image_folder(root, table(root, '"a.png", "a cat, one"', 'b.JPG,  "say ""dog"""'))
    assert [found[row]["caption"] for row in range(2)] == ["a cat, one", 'say "dog"']


@pytest.mark.parametrize(
    ("cell", "role"),
    [
        ("'a secret'", "caption"),
        ("'it's a secret'", "caption"),
        ('"""a secret"""', "caption"),
        ('\t"a secret"', "caption"),
        ('="a secret"', "caption"),
        ('"""secret"', "caption"),
        ("'b.JPG'", "image"),
    ],
)
def test_cells_that_are_still_in_quotes_are_refused(root, cell, role):
    path = table(root, "a.png,a cat", f"b.JPG,{cell}" if role == "caption" else f"{cell},a secret")
    with pytest.raises(BadInput, match=rf"the {role} is still in quotes, or has an open one, in 1 row \(2\)") as caught:
        image_folder(root, path)
    assert "secret" not in str(caught.value)


def test_quotes_that_are_text_stay(root):
    cells = ["'a' and 'b'", 'a 5" scar', '"""a"" and ""b"""', "'tis a cat", "the dogs'"]
    said = [*cells[:2], '"a" and "b"', *cells[3:]]
    for cell, text in zip(cells, said):
        assert image_folder(root, table(root, f"a.png,{cell}"))[0]["caption"] == text
    path = root.parent / "t.jsonl"
    path.write_text('{"file": "a.png", "text": "\'a cat\'"}\n')
    assert image_folder(root, path)[0]["caption"] == "'a cat'"
