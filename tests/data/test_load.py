import os

import datasets
import numpy as np
import pytest
from PIL import Image
from tests.data.hospital import COLUMNS, WINDOW, build_hospital
from tests.data.test_cifar import records
from tests.data.test_idx import write_idx

from sfumato.base.errors import BadInput
from sfumato.data import Columns, Decoder, Options, has_test_split, load


def test_shapes():
    assert len(load("shapes")) == 60_000
    assert len(load("shapes:123")) == 123
    found = load("shapes", split="unseen", options=Options(num=7, seed=3, image_size=32, scenes="single"))
    assert found.manifest()["seed"] == 3
    assert found[0]["image"].shape == (32, 32, 3)
    for wrong in ("shapes:many", "shapes:-3"):
        with pytest.raises(BadInput, match="shapes:NUM"):
            load(wrong)


def test_no_name_is_no_folder(tmp_path, monkeypatch):
    """As a path it is the current folder, whose pictures nobody named."""
    monkeypatch.chdir(tmp_path)
    Image.new("L", (4, 4)).save("x.png")
    (tmp_path / "x.txt").write_text("a finding")
    for spec in ("", " "):
        with pytest.raises(BadInput, match="--data is empty"):
            load(spec)
    with pytest.raises(BadInput, match="--captions is empty"):
        load(str(tmp_path), options=Options(captions=""))


def test_idx_folders(tmp_path):
    write_idx(tmp_path / "train-images-idx3-ubyte", np.zeros((10, 28, 28), np.uint8))
    write_idx(tmp_path / "train-labels-idx1-ubyte", np.arange(10, dtype=np.uint8))
    assert load(f"mnist:{tmp_path}")[3]["caption"] == "the digit three"
    assert load(f"fashion-mnist:{tmp_path}")[3]["caption"] == "a photo of a dress"


def test_a_picture_folder(tmp_path):
    export = build_hospital(tmp_path)
    options = Options(captions=export.table, columns=Columns(**COLUMNS), decoder=Decoder(window=WINDOW))
    assert load(str(export.root), options=options).num_records == export.num_patients
    with pytest.raises(BadInput, match="--holdout"):
        load(str(export.root), split="test", options=options)


def test_a_folder_with_sidecars_goes_through_our_own_reader(tmp_path):
    Image.new("L", (4, 4)).save(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("a caption")
    assert load(str(tmp_path)).manifest()["kind"] == "image_folder"


def test_hugging_face(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()
    Image.new("L", (4, 4)).save(tmp_path / "a.png")
    raw = (tmp_path / "a.png").read_bytes()
    table = datasets.Dataset.from_dict({"image": [raw], "text": ["a caption"]})
    table.save_to_disk(tmp_path / "saved")
    table.to_parquet(tmp_path / "file.parquet")
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "a.png", "text": "a caption"}')
    for spec in (tmp_path / "saved", tmp_path / "file.parquet", f"hf:{tmp_path / 'saved'}"):
        found = load(str(spec), options=Options(public=True))
        assert found.manifest()["kind"] == "hugging_face"
        assert found[0]["caption"] == "a caption"
        assert found.public
    with pytest.raises(BadInput, match="hf:owner/name"):
        load("hf:")


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("shape", "did you mean 'shapes'"),
        ("fashion_mnist", "did you mean 'fashion-mnist'"),
        ("owner/name", "written hf:owner/name"),
        ("cifar-10", "did you mean .*'cifar10'"),
    ],
)
def test_unknown_names(spec, words):
    with pytest.raises(BadInput, match=words):
        load(spec)


@pytest.mark.parametrize(
    ("spec", "options", "word"),
    [
        ("shapes", Options(captions="x.csv"), "captions"),
        ("shapes", Options(decoder=Decoder(window=(0, 1))), "decoder"),
        ("mnist", Options(num=3), "num"),
        ("mnist", Options(columns=Columns(owner="p")), "columns"),
        (".", Options(image_size=32), "image-size"),
        ("hf:x", Options(captions="x.csv"), "captions"),
        ("emoji", Options(num=3), "num"),
        ("emoji", Options(templates=("a {label}",)), "templates"),
        ("cifar10:x", Options(coarse=True), "coarse"),
        ("cifar100:x", Options(decoder=Decoder(window=(0, 1))), "decoder"),
        ("shapes", Options(templates=("a {label}",)), "templates"),
        (".", Options(coarse=True), "coarse"),
        (".", Options(per_scene=2), "per-scene"),
        ("shapes", Options(per_scene=2), "per-scene"),
        ("hf:x", Options(per_scene=2), "per-scene"),
        ("shape-questions", Options(captions="x.csv"), "captions"),
        ("shape-questions", Options(templates=("a {label}",)), "templates"),
        ("easy-vqa", Options(num=3), "num"),
        ("easy-vqa", Options(per_scene=3), "per-scene"),
        ("easy-vqa", Options(missing="zero"), "missing"),
        ("easy-vqa", Options(coarse=True), "coarse"),
        ("vqa2:x", Options(captions="x.csv"), "captions"),
        ("vqa2:x", Options(columns=Columns(question="q")), "columns"),
        ("vqa2:x", Options(scenes="pair"), "scenes"),
        ("vqa2:x", Options(per_scene=3), "per-scene"),
        ("vqa2:x", Options(coarse=True), "coarse"),
    ],
)
def test_no_setting_is_ignored(spec, options, word):
    with pytest.raises(BadInput, match=f"no setting '{word}'"):
        load(spec, options=options)


def test_cifar_folders(tmp_path):
    for name in ("train.bin", "test.bin"):
        (tmp_path / name).write_bytes(records([(4, 0), (8, 3)]).tobytes())
    for name in ("test_batch.bin", *(f"data_batch_{number}.bin" for number in range(1, 6))):
        (tmp_path / name).write_bytes(records([3]).tobytes())
    assert load(f"cifar100:{tmp_path}").labels.tolist() == [0, 3]
    assert load(f"cifar100:{tmp_path}", split="test", options=Options(coarse=True)).labels.tolist() == [4, 8]
    assert len(load(f"cifar10:{tmp_path}")) == 5
    found = load(f"cifar10:{tmp_path}", split="test", options=Options(templates=("the {label}",)))
    assert found[0]["caption"] == "the cat"
    with pytest.raises(BadInput, match=r"data_batch_1\.bin is missing in data "):
        load("cifar10")


def test_emoji(tmp_path):
    with pytest.raises(BadInput, match="hold concepts out with --holdout"):
        load("emoji", split="test")
    folders = []
    for name in ("one", "two"):
        folders.append(tmp_path / name)
        folders[-1].mkdir()
        Image.new("RGB", (4, 4)).save(folders[-1] / "1f600.png")
    assert len(load(f"emoji:{folders[0]},{folders[1]}")) == len(load("emoji")) + 2


def test_which_sets_have_a_test_split():
    assert [has_test_split(spec) for spec in ("shapes:9", "mnist", "cifar100:x", "emoji", "pictures/", "hf:a/b")] == [
        True,
        True,
        True,
        False,
        False,
        False,
    ]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("x.zip", "is an archive: unpack it"),
        ("x.tar.gz", "is an archive: unpack it"),
        ("x.csv", "is a table: .*--captions"),
        ("x.png", "is one picture: give the folder"),
        ("x.txt", "is a file: give a folder of pictures"),
    ],
)
@pytest.mark.parametrize("door", ["", "hf:"])
def test_a_file_that_is_no_data_set_is_not_suggested_to_be_one(tmp_path, name, words, door):
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(BadInput, match=words) as caught:
        load(f"{door}{tmp_path / name}")
    assert "did you mean" not in str(caught.value)
    with pytest.raises(BadInput, match="is no folder and none of") as caught:
        load(str(tmp_path / f"y{name}"))
    assert "did you mean" not in str(caught.value)  # what is there is no data set either


def test_a_folder_is_suggested(tmp_path):
    (tmp_path / "pictures").mkdir()
    with pytest.raises(BadInput, match=r"did you mean '.*pictures'"):
        load(str(tmp_path / "picture"))


@pytest.mark.parametrize("door", ["", "hf:"])
def test_a_pipe_is_no_data_set(tmp_path, door):
    os.mkfifo(tmp_path / "x.parquet")
    with pytest.raises(BadInput, match="is not a regular file"):
        load(f"{door}{tmp_path / 'x.parquet'}")


@pytest.mark.parametrize("stray", ["sub/x.parquet", "x.PARQUET", "state.json", ".hidden/x.parquet"])
def test_a_stray_file_does_not_make_a_picture_folder_something_else(tmp_path, stray):
    Image.new("L", (4, 4)).save(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("a caption")
    (tmp_path / stray).parent.mkdir(exist_ok=True)
    (tmp_path / stray).write_text("{}")
    assert load(str(tmp_path)).manifest()["kind"] == "image_folder"
    (tmp_path / "a.txt").unlink()
    (tmp_path / "t.csv").write_text("file,text\na.png,x\n")
    assert load(str(tmp_path), options=Options(captions=tmp_path / "t.csv"))[0]["caption"] == "x"
    both = stray in ("sub/x.parquet", "x.PARQUET")
    with pytest.raises(BadInput, match="holds pictures and parquet files: write hf:" if both else r"needs a\.txt"):
        load(str(tmp_path))


def test_a_row_without_a_file_is_as_in_a_table(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "set").mkdir()
    Image.new("L", (4, 4)).save(tmp_path / "set" / "a.png")
    cells = {"image": ["a.png", "b.png"], "text": ["one", "two"]}
    datasets.Dataset.from_dict(cells).to_parquet(tmp_path / "set" / "x.parquet")
    spec = f"hf:{tmp_path / 'set'}"
    with pytest.raises(BadInput, match=r"1 row \(2\) of 2 have no picture .*--missing zero"):
        load(spec)
    found = load(spec, options=Options(missing="zero"))
    assert found[0]["image"].shape == (4, 4, 1)
    assert found.num_records == 2
