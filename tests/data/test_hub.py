import ast
import gc
import io
import json
import os
import zipfile
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image

from sfumato.base.errors import BadInput, UndecodableRow
from sfumato.data import Columns, Decoder, check_disjoint, dicom, formats, holdout, hub, hugging_face, load
from sfumato.data.load import Options

COLOURS = [(200, 30, 10), (0, 200, 0), (0, 0, 200), (90, 90, 90)]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()


def picture(colour):
    buffer = io.BytesIO()
    Image.new("RGB", (6, 4), colour).save(buffer, "PNG")
    return buffer.getvalue()


def table(**columns):
    found = {
        "image": [{"bytes": picture(colour), "path": None} for colour in COLOURS],
        "text": ["one", "two", "three", "four"],
        **columns,
    }
    features = datasets.Features({"image": datasets.Image(), "text": datasets.Value("string")})
    for name, values in columns.items():
        if name == "kind":
            features[name] = datasets.ClassLabel(names=["x", "y"])
        elif name == "text":
            features[name] = (
                datasets.List(datasets.Value("string")) if isinstance(values[0], list) else features["text"]
            )
        elif name != "image":
            features[name] = datasets.Value("string")
    return datasets.Dataset.from_dict(found, features=features)


def check(found):
    assert [found[index]["caption"] for index in range(4)] == ["one", "two", "three", "four"]
    for index, colour in enumerate(COLOURS):
        assert found[index]["image"][0, 0].tolist() == list(colour)


def test_questions_need_a_column_that_names_the_picture(tmp_path):
    cells = {"image": [picture(colour) for colour in COLOURS], "question": ["what?", "red?", "what?", "why?"]}
    said = [[{"answer": text} for text in ("x", "y", "y")]] * 4
    whole = datasets.Dataset.from_dict({**cells, "answers": said, "image_id": [7, 7, 8, 9], "type": list("abab")})
    whole.save_to_disk(tmp_path / "saved")
    with pytest.raises(BadInput, match=r"which picture .* with --owner-column"):
        hugging_face(tmp_path / "saved")
    with pytest.raises(BadInput, match=r"which picture .* with --owner-column"):
        hugging_face(tmp_path / "saved", columns=Columns(owner="image"))
    found = hugging_face(tmp_path / "saved", columns=Columns(owner="image_id", kind="type"))
    assert [rows.tolist() for rows in found.owners] == [[0, 1], [2], [3]]
    assert found.asked(1) == ("red?", ("y", "y", "x"), "b", None)
    assert found[2]["image"][0, 0].tolist() == list(COLOURS[2])


def picture_in(size, colour=COLOURS[0]):
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": "same name.png"}  # of an archive: tells nothing


def refused(words, path, **columns):
    with pytest.raises(BadInput, match=words) as caught:
        hugging_face(path, columns=Columns(**columns))
    for private in ("Ann", "same name", "disc", "a.png"):
        assert private not in str(caught.value)


def test_a_picture_in_several_rows_needs_one_owner(tmp_path):
    images = [picture_in((6, 4)), picture_in((6, 5)), picture_in((6, 4)), picture_in((6, 7))]
    table(image=images, who=["Ann", "Bob", "Ann", "Cid"], other=["Ann", "Bob", "Cid", "Cid"]).save_to_disk(
        tmp_path / "s"
    )
    refused(r"1 row \(3\) name a picture again.*--owner-column", tmp_path / "s")
    refused(r"1 row \(3\) name a picture that an earlier row gives to another", tmp_path / "s", owner="other")
    for column in ("who", "image"):
        found = hugging_face(tmp_path / "s", columns=Columns(owner=column))
        assert [rows.tolist() for rows in found.owners] == [[0, 2], [1], [3]]
        train, test = holdout(found, 0.34)
        assert sorted([len(train), len(test)]) in ([1, 3], [2, 2])
        assert not {found.rows.file(int(row)) for row in train.selection} & {
            found.rows.file(int(row)) for row in test.selection
        }
    table(image=images, text=["one", "two", "one", "four"]).save_to_disk(tmp_path / "twice")
    refused(r"1 row \(3\) repeat an earlier row", tmp_path / "twice")


def test_questions_are_held_to_the_same(tmp_path):
    cells = {
        "image": [picture(COLOURS[place]) for place in (0, 0, 1, 1)],
        "question": ["what?", "red?", "what?", "what?"],
    }
    whole = datasets.Dataset.from_dict({**cells, "answer": list("xyxx"), "image_id": [0.0, 0.0, 1.0, 1.0]})
    whole.save_to_disk(tmp_path / "twice")
    refused(r"1 row \(4\) repeat an earlier row", tmp_path / "twice", owner="image_id")
    whole = whole.select([0, 1, 2])
    whole.save_to_disk(tmp_path / "once")
    assert hugging_face(tmp_path / "once", columns=Columns(owner="image_id")).num_records == 2
    whole.remove_columns("image_id").add_column("image_id", [["p"], ["p"], ["q"]]).save_to_disk(tmp_path / "lists")
    refused(r"the owner is neither text nor a whole number in 3 rows", tmp_path / "lists", owner="image_id")
    whole.remove_columns("image_id").add_column("image_id", ["p", "q", "r"]).save_to_disk(tmp_path / "strangers")
    refused(r"1 row \(2\) name a picture that an earlier row gives", tmp_path / "strangers", owner="image_id")


def test_splits_that_share_a_picture_are_refused(tmp_path):
    one, other = table(), table(image=[picture_in((9, n)) for n in (1, 2, 3)] + [{"bytes": picture(COLOURS[2])}])
    empty = table(image=[picture_in((8, 1)), picture_in((8, 2)), None, picture_in((8, 3))])
    datasets.DatasetDict({"train": one, "test": other, "empty": empty, "void": empty}).save_to_disk(tmp_path / "s")
    train, test, empty, void = (
        hugging_face(tmp_path / "s", split, missing="zero") for split in ("train", "test", "empty", "void")
    )
    with pytest.raises(BadInput, match="share 1 picture files"):
        check_disjoint(train, test)
    check_disjoint(train, empty)
    with pytest.raises(BadInput, match="share 3 picture files"):
        check_disjoint(empty, void)  # a row without a picture is nobody else's


def test_files_beside_the_rows_are_known_by_their_paths(tmp_path):
    (tmp_path / "a.png").write_bytes(picture(COLOURS[0]))
    (tmp_path / "b.png").symlink_to(tmp_path / "a.png")
    cells = {"image": [str(tmp_path / "a.png"), str(tmp_path / "b.png")], "text": ["a disc", "a ring"]}
    rows = datasets.Dataset.from_dict(cells).cast_column("image", datasets.Image())
    rows.to_parquet(tmp_path / "x.parquet")
    refused(r"1 row \(2\) name a picture again", tmp_path / "x.parquet")


def test_saved_on_disk(tmp_path):
    table(who=["p", "q", "p", "r"], kind=[1, 0, 0, 1]).save_to_disk(tmp_path / "saved")
    found = hugging_face(tmp_path / "saved", columns=Columns(owner="who", label="kind"))
    check(found)
    assert [rows.tolist() for rows in found.owners] == [[0, 2], [1], [3]]
    assert found.class_names == ("x", "y")
    assert found.labels.tolist() == [1, 0, 0, 1]
    assert found.manifest() == hugging_face(tmp_path / "saved", columns=Columns(owner="who", label="kind")).manifest()
    with pytest.raises(BadInput, match="splits train, not 'test'"):  # one table is no test set of itself
        hugging_face(tmp_path / "saved", "test")


def test_splits(tmp_path):
    datasets.DatasetDict({"train": table(), "validation": table()}).save_to_disk(tmp_path / "saved")
    check(hugging_face(tmp_path / "saved", "validation"))
    with pytest.raises(BadInput, match="did you mean 'validation'"):
        hugging_face(tmp_path / "saved", "validate")


def test_parquet_file_and_folder(tmp_path):
    (tmp_path / "folder").mkdir()
    table().to_parquet(tmp_path / "folder" / "train-00000.parquet")
    check(hugging_face(tmp_path / "folder" / "train-00000.parquet"))
    check(hugging_face(tmp_path / "folder"))


def test_parquet_of_plain_bytes(tmp_path):
    plain = datasets.Dataset.from_dict(
        {"image": [picture(c) for c in COLOURS], "text": ["one", "two", "three", "four"]}
    )
    plain.to_parquet(tmp_path / "plain.parquet")
    check(hugging_face(tmp_path / "plain.parquet"))


def test_imagefolder(tmp_path):
    root = tmp_path / "folder"
    root.mkdir()
    lines = []
    for index, word in enumerate(["one", "two", "three", "four"]):
        (root / f"{index}.png").write_bytes(picture(COLOURS[index]))
        lines.append(f'{{"file_name": "{index}.png", "text": "{word}"}}')
    (root / "metadata.jsonl").write_text("\n".join(lines))
    check(hugging_face(root))


def test_several_captions_and_broken_rows(tmp_path):
    rows = table(text=[["one", "uno"], ["two"], ["three"], ["four"]])
    rows = rows.cast_column("image", datasets.Image(decode=False))
    images = [*rows["image"][:2], {"bytes": b"no picture", "path": None}, None]
    rows = rows.remove_columns("image").add_column("image", images).cast_column("image", datasets.Image())
    rows.save_to_disk(tmp_path / "saved")
    with pytest.raises(BadInput, match=r"1 row \(4\) of 4 have no picture in column 'image'.*--missing zero"):
        hugging_face(tmp_path / "saved")
    found = hugging_face(tmp_path / "saved", missing="zero")
    assert len(found) == 4
    assert {found.draw(0, np.random.default_rng(seed))["caption"] for seed in range(20)} == {"one", "uno"}
    for index in (2, 3):
        with pytest.raises(UndecodableRow):
            found[index]


def test_checks_come_before_training(tmp_path):
    table(text=["one", "", "three", " "]).save_to_disk(tmp_path / "empty")
    with pytest.raises(BadInput, match=r"empty in 2 rows \(2, 4\)"):
        hugging_face(tmp_path / "empty")
    table().save_to_disk(tmp_path / "saved")
    with pytest.raises(BadInput, match=r"no column 'txt' .*did you mean 'text'"):
        hugging_face(tmp_path / "saved", columns=Columns(caption="txt"))
    deep = []
    for width in range(1, 5):
        buffer = io.BytesIO()
        Image.fromarray(np.zeros((4, width), np.uint16)).save(buffer, "PNG")
        deep.append({"bytes": buffer.getvalue(), "path": None})
    table(image=deep).save_to_disk(tmp_path / "deep")
    with pytest.raises(BadInput, match=r"row 1: .*window"):
        hugging_face(tmp_path / "deep")
    assert hugging_face(tmp_path / "deep", decoder=Decoder(window=(0, 9)))[0]["image"].dtype == np.float32
    table(image=[{"bytes": b"x" * n, "path": None} for n in range(1, 5)]).save_to_disk(tmp_path / "nothing")
    with pytest.raises(BadInput, match="holds no picture"):
        hugging_face(tmp_path / "nothing")


def test_offline_a_hub_name_is_a_clear_error():
    with pytest.raises(BadInput, match=r"no folder nobody/nothing here, and the hub.*save_to_disk"):
        hugging_face("nobody/nothing")


def test_a_hub_name_goes_to_load_dataset(monkeypatch):
    asked = []
    monkeypatch.setattr(datasets, "load_dataset", lambda name: asked.append(name) or {"train": table()})
    check(hugging_face("owner/name"))
    assert asked == ["owner/name"]


def test_the_error_of_a_broken_file_quotes_nothing(tmp_path):
    (tmp_path / "broken.parquet").write_text("secret")
    with pytest.raises(BadInput, match="cannot be loaded") as caught:
        hugging_face(tmp_path / "broken.parquet")
    assert "secret" not in str(caught.value)
    assert caught.value.__suppress_context__


def test_without_the_extra_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setattr(hub.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BadInput, match=r"sfumato\[hf\]"):
        hugging_face("owner/name")


def test_datasets_is_imported_only_when_asked_for():
    """`import datasets` takes seconds; so it stands inside a function, as pydicom does."""
    for module, name in ((hub, "datasets"), (dicom, "pydicom")):
        top = ast.parse(Path(module.__file__).read_text()).body
        imported = {alias.name for node in top if isinstance(node, ast.Import) for alias in node.names}
        assert name not in imported
        assert not hasattr(module, name)


def rows_of(folder, cells, **columns):
    """Write a parquet file whose rows are {"bytes", "path"} as given, undecoded, and return its folder."""
    folder.mkdir(exist_ok=True)
    images = [
        {"bytes": None, "path": cell} if isinstance(cell, str) else {"bytes": cell, "path": None} for cell in cells
    ]
    whole = {"image": images, "text": [f"text {number}" for number in range(len(cells))], **columns}
    features = datasets.Features({"image": {"bytes": datasets.Value("binary"), "path": datasets.Value("string")}})
    features.update({name: datasets.Value("string") for name in whole if name != "image"})
    datasets.Dataset.from_dict(whole, features=features).to_parquet(folder / "x.parquet")
    return folder


@pytest.mark.parametrize(
    "path", ["/dev/zero", "/etc/passwd", "../secret.png", "sub/../../secret.png", "link.png", "a\0b"]
)
def test_rows_lead_nowhere_outside_the_folder(tmp_path, path):
    (tmp_path / "secret.png").write_bytes(picture(COLOURS[0]))
    folder = rows_of(tmp_path / "set", [picture(COLOURS[1]), path])
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    for name in (folder, folder / "x.parquet"):
        for missing in ("error", "zero"):
            with pytest.raises(BadInput, match=r"1 row \(2\) name a picture outside the data set's folder") as caught:
                hugging_face(name, missing=missing)
            assert path not in str(caught.value)


@pytest.mark.parametrize("kind", ["pipe", "folder", "nothing", "empty"])
def test_what_is_no_regular_file_is_missing(tmp_path, kind):
    folder = rows_of(tmp_path / "set", [picture(COLOURS[1]), "" if kind == "empty" else "odd.png", picture(COLOURS[2])])
    if kind == "folder":
        (folder / "odd.png").mkdir()
    if kind == "pipe":
        os.mkfifo(folder / "odd.png")
        with pytest.raises(BadInput, match=r"odd\.png is not a regular file"):
            hugging_face(folder)
        folder = folder / "x.parquet"
    with pytest.raises(BadInput, match=r"1 row \(2\) of 3 have no picture in column 'image'.*--missing zero"):
        hugging_face(folder)
    found = hugging_face(folder, missing="zero")
    assert found.num_records == 3
    with pytest.raises(UndecodableRow):
        found[1]
    with pytest.raises(BadInput, match="error, zero"):
        hugging_face(folder, missing="drop")


def test_paths_begin_at_the_folder_and_may_pass_through_a_link(tmp_path):
    folder = tmp_path / "set"
    (folder / "sub").mkdir(parents=True)
    (tmp_path / "link").symlink_to(folder)
    (folder / "sub" / "a.png").write_bytes(picture(COLOURS[0]))
    (folder / "b.png").write_bytes(picture(COLOURS[1]))
    rows_of(folder, ["sub/a.png", str(tmp_path / "link" / "b.png")])
    for name in (folder, tmp_path / "link", folder / "x.parquet", tmp_path / "link" / "x.parquet"):
        found = hugging_face(name)
        assert [found[row]["image"][0, 0].tolist() for row in (0, 1)] == [list(COLOURS[0]), list(COLOURS[1])]
    before = found.manifest()
    os.utime(folder / "b.png", ns=(1, 1))
    assert hugging_face(folder / "x.parquet").manifest() != before  # a touched file is another data set


@pytest.mark.parametrize("kind", ["saved", "images"])
def test_pipes_and_links_in_other_folders_are_not_followed(tmp_path, kind):
    folder, elsewhere = tmp_path / "set", tmp_path / "elsewhere"
    table().save_to_disk(elsewhere)
    if kind == "saved":
        table().save_to_disk(folder)
        arrow = next(folder.glob("*.arrow"))
    else:
        folder.mkdir()
        for index in range(4):
            (folder / f"{index}.png").write_bytes(picture(COLOURS[index]))
        lines = [f'{{"file_name": "{index}.png", "text": "word {index}"}}\n' for index in range(4)]
        arrow = folder / "metadata.jsonl"
        arrow.write_text("".join(lines))
    assert len(hugging_face(folder)) == 4
    whole = arrow.read_bytes()
    arrow.unlink()
    (tmp_path / "outside").write_bytes(whole)
    arrow.symlink_to(tmp_path / "outside")
    with pytest.raises(BadInput, match="leads out of its folder"):
        hugging_face(folder)
    arrow.unlink()
    arrow.write_bytes(whole)
    os.mkfifo(folder / "9.png")
    with pytest.raises(BadInput, match=r"9\.png is not a regular file"):
        hugging_face(folder)
    (folder / "9.png").unlink()
    (folder / "more").symlink_to(elsewhere)
    with pytest.raises(BadInput, match="leads out of its folder"):
        hugging_face(folder)


@pytest.mark.parametrize("target", ["../elsewhere/data.arrow", "/dev/zero"])
def test_a_description_names_no_file_elsewhere(tmp_path, target):
    table().save_to_disk(tmp_path / "set")
    table().save_to_disk(tmp_path / "elsewhere")
    path = tmp_path / "set" / "state.json"
    state = json.loads(path.read_text())
    path.write_text(json.dumps({**state, "_data_files": [{"filename": target}]}))
    with pytest.raises(BadInput, match=r"state\.json leads out of its folder"):
        hugging_face(tmp_path / "set")
    datasets.DatasetDict({"train": table()}).save_to_disk(tmp_path / "splits")
    (tmp_path / "splits" / "dataset_dict.json").write_text('{"splits": ["train", "../elsewhere"]}')
    with pytest.raises(BadInput, match=r"dataset_dict\.json leads out of its folder"):
        hugging_face(tmp_path / "splits")


def test_the_cache_of_the_hub_links_to_its_own_files(tmp_path):
    home = tmp_path / "datasets--owner--name"
    rows_of(tmp_path / "made", [picture(COLOURS[0]), picture(COLOURS[1])])
    for name in ("blobs", "snapshots/abc"):
        (home / name).mkdir(parents=True)
    (home / "blobs" / "123").write_bytes((tmp_path / "made" / "x.parquet").read_bytes())
    (home / "snapshots" / "abc" / "x.parquet").symlink_to("../../blobs/123")
    assert len(hugging_face(home / "snapshots" / "abc")) == 2


def test_columns_that_would_open_files_are_refused(tmp_path):
    (tmp_path / "secret.png").write_bytes(picture(COLOURS[0]))
    cells = {"image": [picture(COLOURS[1])], "text": ["one"], "who": [str(tmp_path / "secret.png")]}
    features = datasets.Features({"image": datasets.Image(), "text": datasets.Value("string"), "who": datasets.Image()})
    datasets.Dataset.from_dict(cells, features=features).save_to_disk(tmp_path / "one")
    with pytest.raises(BadInput, match="column 'who' is not declared as text, but as Image"):
        hugging_face(tmp_path / "one", columns=Columns(owner="who"))
    assert len(hugging_face(tmp_path / "one")) == 1
    several = {"image": [[picture(COLOURS[1])]], "text": ["one"]}
    features = datasets.Features({"image": datasets.List(datasets.Image()), "text": datasets.Value("string")})
    datasets.Dataset.from_dict(several, features=features).save_to_disk(tmp_path / "two")
    with pytest.raises(BadInput, match="column 'image' is not declared as one picture in each row, but as List"):
        hugging_face(tmp_path / "two")


def test_owners_of_rows_have_one_form(tmp_path):
    cells = [picture_in((9, size))["bytes"] for size in range(1, 7)]
    whole = rows_of(tmp_path / "set", cells, who=["7", "7.0", "007", "Jos\u00e9", "Jose\u0301", "Jos\u00e9\u200b"])
    assert hugging_face(whole, columns=Columns(owner="who")).num_records == 2
    missing = rows_of(tmp_path / "nan", cells[:2], who=["nan", "Ann"])
    refused(r"owner only spells a missing value .* in 1 row \(1\)", missing, owner="who")


def test_every_header_is_read(tmp_path):
    """A deep picture far down, which a sample of rows would miss."""
    images = [picture((number % 251, number // 251, 7)) for number in range(700)]
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((4, 5), np.uint16)).save(buffer, "PNG")
    images[502] = buffer.getvalue()
    folder = rows_of(tmp_path / "set", images)
    with pytest.raises(BadInput, match=r"row 503: .*window"):
        hugging_face(folder)


def test_files_with_a_description_are_read_by_it(tmp_path):
    root = tmp_path / "folder"
    root.mkdir()
    for index in range(4):
        (root / f"{index}.png").write_bytes(picture(COLOURS[index]))
    lines = [f'{{"file_name": "{i}.png", "text": "{word}"}}' for i, word in enumerate(["one", "two", "three", "four"])]
    (root / "metadata.jsonl").write_text("\n".join(lines))
    (root / "old").mkdir()
    table().select([0]).to_parquet(root / "old" / "stray.parquet")
    check(hugging_face(root))


def test_parquet_files_beside_others_keep_their_splits(tmp_path):
    for name, rows in (("train-0", [0, 1]), ("data/test/0", [2]), ("valid", [3])):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        table().select(rows).to_parquet(tmp_path / f"{name}.parquet")
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "one.png").write_bytes(picture(COLOURS[0]))
    found = [hugging_face(tmp_path, split) for split in ("train", "test", "validation")]
    assert [len(split) for split in found] == [2, 1, 1]
    assert [split[0]["caption"] for split in found] == ["one", "three", "four"]


def test_archives_are_to_be_unpacked_and_not_to_be_linked(tmp_path):
    folder = tmp_path / "set"
    folder.mkdir()
    with zipfile.ZipFile(folder / "train.zip", "w") as archive:
        archive.writestr("0.png", picture(COLOURS[0]))
        archive.writestr("metadata.jsonl", '{"file_name": "0.png", "text": "a disc"}')
    refused("unpack archives|outside the data set", folder)
    (folder / "train.zip").rename(tmp_path / "private.zip")
    (folder / "train.zip").symlink_to(tmp_path / "private.zip")
    refused("leads out of its folder", folder)


@pytest.mark.parametrize("stored", ["bytes", "files"])
def test_rows_of_a_kind_that_is_not_read_are_refused_or_counted(tmp_path, caplog, monkeypatch, stored):
    monkeypatch.setattr(formats, "readable_endings", lambda: frozenset((".png",)))
    raw = b"\0\0\0\x1cftypheic\0\0\0\0mif1heic" + bytes(200)
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "b.heic").write_bytes(raw)
    odd = raw if stored == "bytes" else "b.heic"
    folder = rows_of(tmp_path / "set", [picture(COLOURS[1]), odd, b"no picture"]) / "x.parquet"
    with pytest.raises(BadInput, match=r"1 of 3 pictures in data set .*HEIC \(1; pip install.*--missing zero"):
        hugging_face(folder)
    caplog.clear()
    found = hugging_face(folder, missing="zero")
    assert found.num_records == 3
    with pytest.raises(UndecodableRow):
        found[1]
    kinds = "HEIC (1; pip install pillow-heif), of no known kind (1)"
    assert [record.getMessage() for record in caplog.records] == [
        f"2 of 3 pictures looked at cannot be read and contribute nothing: {kinds}."
    ]


def shards(folder, *columns):
    import pyarrow
    from pyarrow import parquet

    folder.mkdir()
    for number, cells in enumerate(columns):
        images = [{"bytes": picture(colour), "path": None} for colour in COLOURS]
        parquet.write_table(pyarrow.table({"image": images, **cells}), folder / f"train-{number}.parquet")
    return folder


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"text": ["a", "b", "c", "d"], "who": [1, 2, 3, 4]}, {"text": ["a", "b", "c", "d"], "who": ["Ann"] * 4}),
        ({"text": [1.0, 2, 3, 4], "who": [1, 2, 3, 4]}, {"text": ["Ann fell"] * 4, "who": [1, 2, 3, 4]}),
    ],
)
def test_a_clash_of_types_prints_no_cell(tmp_path, caplog, capfd, first, second):
    import logging

    folder = shards(tmp_path / "two", first, second)
    reader = logging.getLogger("datasets.packaged_modules.parquet.parquet")
    reader.setLevel(logging.INFO)  # also where the user asked for more
    try:
        with (
            caplog.at_level(logging.DEBUG),
            pytest.raises(BadInput, match=r"several types.*Write it with one type") as e,
        ):
            hugging_face(folder, columns=Columns(owner="who"))
        assert reader.level == logging.INFO
    finally:
        reader.setLevel(logging.NOTSET)
    printed = "".join(capfd.readouterr())
    assert "Ann" not in str(e.value) + caplog.text + printed
    assert e.value.__suppress_context__


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("metadata.csv", "file_name,text\n0.png,Ann\n1.png,Ann,x\n", "another number of cells"),
        ("metadata.csv", "file_name,text\n0.png,Ann\xe9\n", "is not UTF-8 text in line 2"),
        ("metadata.jsonl", '{"file_name": "0.png", "text": Ann}\n', "not JSON lines"),
        (
            "metadata.jsonl",
            '{"file_name": "0.png", "text": 1}\n{"file_name": "1.png", "text": "Ann"}\n',
            "several types",
        ),
        ("a.parquet", "Ann", "truncated, damaged or of another kind"),
    ],
)
def test_the_cause_of_what_cannot_be_loaded_is_told_in_words(tmp_path, caplog, name, text, words):
    folder = tmp_path / "set"
    folder.mkdir()
    if name != "a.parquet":
        for number in range(2):
            (folder / f"{number}.png").write_bytes(picture(COLOURS[number]))
    (folder / name).write_bytes(text.encode("latin-1"))
    with pytest.raises(BadInput, match=words) as caught:
        hugging_face(folder)
    assert "Ann" not in str(caught.value) + caplog.text
    assert "Error" not in str(caught.value)


def test_a_saved_set_that_lost_a_part_says_so(tmp_path):
    table().save_to_disk(tmp_path / "saved")
    part = next((tmp_path / "saved").glob("*.arrow"))
    part.write_bytes(part.read_bytes()[: part.stat().st_size // 2])
    with pytest.raises(BadInput, match="truncated, damaged"):
        hugging_face(tmp_path / "saved")
    part.unlink()
    with pytest.raises(BadInput, match="a file that belongs to it is missing"):
        hugging_face(tmp_path / "saved")
    (tmp_path / "saved" / "state.json").write_text("{}")
    with pytest.raises(BadInput, match=r"description \(state\.json"):
        hugging_face(tmp_path / "saved")


def test_owners_that_a_column_of_floats_rounded_are_refused(tmp_path):
    import pyarrow

    owners = [9007199254740993.0, 9007199254740992.0, 1500.0, 7.0]  # as a CSV gives them that holds 1.5e3 too
    folder = shards(tmp_path / "f64", {"text": list("abcd"), "who": owners})
    with pytest.raises(BadInput, match=r"too large to be exact in 2 rows \(1, 2\)"):
        hugging_face(folder, columns=Columns(owner="who"))
    folder = shards(tmp_path / "f32", {"text": list("abcd"), "who": pyarrow.array([2.0**24, 1, 2, 3], "float32")})
    with pytest.raises(BadInput, match=r"too large to be exact in 1 row \(1\)"):
        hugging_face(folder, columns=Columns(owner="who"))


def test_a_lone_shard_is_refused_and_a_named_one_said(tmp_path, caplog):
    folder = tmp_path / "set"
    folder.mkdir()
    table().to_parquet(folder / "train-00000-of-00002.parquet")
    with pytest.raises(BadInput, match=r"1 of 2 files train-\*-of-00002 are missing: copy all"):
        hugging_face(folder)
    check(hugging_face(folder / "train-00000-of-00002.parquet"))
    assert "is one of 2 files by its name, and is read alone" in caplog.text
    os.rename(folder / "train-00000-of-00002.parquet", folder / "train-00000-of-00001-a1b2.parquet")
    check(hugging_face(folder))


def test_a_folder_of_save_to_disk_that_lost_a_description_is_named(tmp_path):
    table().save_to_disk(tmp_path / "saved")
    (tmp_path / "saved" / "state.json").unlink()
    datasets.DatasetDict({"train": table()}).save_to_disk(tmp_path / "both")
    (tmp_path / "both" / "dataset_dict.json").unlink()
    for name, part in (("saved", "state.json"), ("both", "dataset_dict.json")):
        for spec in (str(tmp_path / name), f"hf:{tmp_path / name}"):
            with pytest.raises(BadInput, match=rf"part of a folder of save_to_disk: {part} is missing"):
                load(spec, options=Options(columns=Columns(owner="who")))


def test_pictures_that_the_metadata_does_not_list_are_counted(tmp_path, caplog):
    folder = tmp_path / "set"
    folder.mkdir()
    for number in range(3):
        (folder / f"{number}.png").write_bytes(picture(COLOURS[number]))
    (folder / "metadata.jsonl").write_text('{"file_name": "0.png", "text": "a"}\n{"file_name": "1.png", "text": "b"}')
    assert len(hugging_face(folder)) == 2
    assert f"1 of 3 pictures in {folder} are not listed and are no records" in caplog.text


def test_rows_that_turn_out_broken_are_a_sentence(tmp_path):
    table(text=["Ann one", "two", "three", "four"]).save_to_disk(tmp_path / "saved")
    part = next((tmp_path / "saved").glob("*.arrow"))
    part.write_bytes(part.read_bytes().replace(b"Ann one", b"Ann\xff\xfe\xfd\xfc"))
    with pytest.raises(BadInput, match=r"column 'text' cannot be read: .*no UTF-8 text") as caught:
        hugging_face(tmp_path / "saved")
    assert "Ann" not in str(caught.value)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # datasets leaves the CSV open
def test_texts_of_a_metadata_csv_that_are_still_in_quotes_are_refused(tmp_path):
    folder = tmp_path / "set"
    folder.mkdir()
    for number in range(2):
        (folder / f"{number}.png").write_bytes(picture(COLOURS[number]))
    (folder / "metadata.csv").write_text('file_name,text\n0.png,"a cat"\n1.png, "a secret"\n')
    with pytest.raises(BadInput, match=r"the caption is still in quotes, or has an open one, in 1 row \(2\)") as caught:
        hugging_face(folder)
    assert "secret" not in str(caught.value)
    gc.collect()


@pytest.mark.parametrize("role", ["owner", "label"])
def test_a_number_beyond_the_names_of_its_column_is_a_sentence(tmp_path, role):
    rows = {"image": [picture(colour) for colour in COLOURS], "text": list("abcd"), "kind": [0, 1, 5, -1]}
    whole = datasets.Dataset.from_dict(rows)
    features = whole.features.copy()
    features["kind"] = datasets.ClassLabel(names=["x", "y"])
    whole._info.features = features  # a file may declare what its rows are not
    folder = tmp_path / "set"
    folder.mkdir()
    whole.to_parquet(folder / "train.parquet")
    with pytest.raises(BadInput, match=r"column 'kind' declares 2 names, and has a number beyond them in 1 row \(3\)"):
        hugging_face(folder, columns=Columns(**{role: "kind"}))
