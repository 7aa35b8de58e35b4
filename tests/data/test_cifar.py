import pickle

import numpy as np
import pytest

from sfumato.base.errors import BadInput
from sfumato.data import check_disjoint, cifar10, cifar100
from sfumato.data.cifar import CIFAR100_NAMES, COARSE_NAMES

# coarse groups of the first classes: apple in fruit, aquarium fish in fish, baby in people, bear in large carnivores
COARSE = [4, 1, 14, 8]


def records(labels, seed=0):
    """Records as the files hold them: label bytes, then red, green and blue planes of 32 x 32."""
    labels = np.asarray(labels, np.uint8).reshape(len(labels), -1)
    planes = np.random.default_rng(seed).integers(0, 256, (len(labels), 3072), np.uint8)
    return np.concatenate([labels, planes], axis=1)


@pytest.fixture
def ten(tmp_path):
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    for number in range(1, 6):
        (folder / f"data_batch_{number}.bin").write_bytes(records([number, 9], seed=number).tobytes())
    (folder / "test_batch.bin").write_bytes(records(range(10), seed=9).tobytes())
    return folder


@pytest.fixture
def hundred(tmp_path):
    folder = tmp_path / "cifar-100-binary"
    folder.mkdir()
    pairs = [(COARSE[fine], fine) for fine in (0, 1, 2, 3, 0)]
    (folder / "train.bin").write_bytes(records(pairs).tobytes())
    (folder / "test.bin").write_bytes(records(pairs[:3], seed=1).tobytes())
    return folder


def test_the_batches_of_cifar10_follow_each_other(ten):
    train = cifar10("train", ten)
    assert len(train) == 10
    assert train.labels.tolist() == [1, 9, 2, 9, 3, 9, 4, 9, 5, 9]
    planes = records([3, 9], seed=3)[0, 1:].reshape(3, 32, 32)
    row = train[4]
    assert row["image"].shape == (32, 32, 3)
    assert row["image"].dtype == np.uint8
    assert np.array_equal(row["image"], planes.transpose(1, 2, 0))
    assert row["label"] == 3
    assert row["caption"] == "a photo of a cat"
    assert train[0]["caption"] == "a photo of an automobile"
    assert train.class_names[9] == "truck"
    assert (train.public, train.flip, train.augment, train.owners) == (True, True, "crop", None)


def test_the_folder_above_will_do(ten):
    assert cifar10("test", ten.parent).manifest() == cifar10("test", ten).manifest()


def test_train_and_test_are_two_sets(ten):
    train, test = cifar10("train", ten), cifar10("test", ten)
    check_disjoint(train, test)
    assert len(test) == 10
    with pytest.raises(BadInput, match="train, test, not 'val'"):
        cifar10("val", ten)


def test_cifar100_has_fine_and_coarse_labels(hundred):
    fine, coarse = cifar100("train", hundred), cifar100("train", hundred, coarse=True)
    assert fine.labels.tolist() == [0, 1, 2, 3, 0]
    assert coarse.labels.tolist() == [4, 1, 14, 8, 4]
    assert (fine[3]["label"], coarse[3]["label"]) == (3, 8)
    assert (len(fine.class_names), len(coarse.class_names)) == (100, 20)
    assert coarse.class_names[8] == "large carnivores"
    assert coarse.class_captions[8] == "a photo of large carnivores"
    assert fine[3]["caption"] == coarse[3]["caption"] == "a photo of a bear"
    assert np.array_equal(fine[3]["image"], coarse[3]["image"])
    assert fine.manifest() != coarse.manifest()


def test_the_class_names_are_in_the_order_of_the_files():
    assert len(set(CIFAR100_NAMES)) == 100
    assert list(CIFAR100_NAMES) == sorted(CIFAR100_NAMES)
    assert len(set(COARSE_NAMES)) == 20
    assert list(COARSE_NAMES) == sorted(COARSE_NAMES)


def test_sets_travel_to_workers(ten):
    train = cifar10("train", ten)
    again = pickle.loads(pickle.dumps(train))
    assert np.array_equal(again[7]["image"], train[7]["image"])


@pytest.mark.parametrize("cut", [lambda raw: raw[:-1], lambda raw: raw + b"\0", lambda raw: b""])
def test_a_file_of_another_length_is_refused(ten, cut):
    path = ten / "data_batch_3.bin"
    path.write_bytes(cut(path.read_bytes()))
    with pytest.raises(BadInput, match=r"data_batch_3\.bin has [\d,]+ bytes.*3,073"):
        cifar10("train", ten)


def test_labels_out_of_range_are_refused(ten, hundred):
    (ten / "test_batch.bin").write_bytes(records([3, 10]).tobytes())
    with pytest.raises(BadInput, match=r"test_batch\.bin holds a label 10.*0 to 9"):
        cifar10("test", ten)
    for pair, words in (((20, 5), "label 20.*0 to 19"), ((5, 100), "label 100.*0 to 99")):
        (hundred / "test.bin").write_bytes(records([(4, 0), pair]).tobytes())
        with pytest.raises(BadInput, match=words):
            cifar100("test", hundred)


def test_a_class_in_two_groups_is_refused(hundred):
    (hundred / "train.bin").write_bytes(records([(4, 0), (5, 0)]).tobytes())
    with pytest.raises(BadInput, match="two of the coarse groups"):
        cifar100("train", hundred)


def test_a_missing_batch_is_named(ten):
    (ten / "data_batch_2.bin").unlink()
    with pytest.raises(BadInput, match=r"lacks data_batch_2\.bin.*cifar-10-binary\.tar\.gz"):
        cifar10("train", ten)


def test_a_missing_folder_says_how_to_get_the_files(tmp_path):
    with pytest.raises(BadInput, match=r"data_batch_1\.bin is missing.*cifar-10-binary\.tar\.gz.*cifar10:FOLDER"):
        cifar10("train", tmp_path)
    with pytest.raises(BadInput, match=r"train\.bin is missing.*cifar-100-binary\.tar\.gz.*cifar100:FOLDER"):
        cifar100("train", tmp_path)


@pytest.mark.parametrize("name", ["data_batch_1", "cifar-10-batches-py/data_batch_1", "cifar-10-python.tar.gz"])
def test_the_pickled_version_is_refused_unopened(tmp_path, name):
    """The file would leave a mark if it were opened as a pickle."""
    mark = tmp_path / "opened"

    class Trap:
        def __reduce__(self):
            return open, (str(mark), "w")

    path = tmp_path / "cifar" / name
    path.parent.mkdir(parents=True)
    path.write_bytes(pickle.dumps(Trap()))
    with pytest.raises(BadInput, match=rf"{path.name} is the pickled version.*cifar-10-binary\.tar\.gz"):
        cifar10("train", tmp_path / "cifar")
    assert not mark.exists()


def test_the_pickled_cifar100_is_refused_too(tmp_path):
    (tmp_path / "cifar-100-python").mkdir()
    (tmp_path / "cifar-100-python" / "test").write_bytes(b"\x80")
    with pytest.raises(BadInput, match=r"test is the pickled version.*cifar-100-binary\.tar\.gz"):
        cifar100("test", tmp_path)


def test_own_templates(ten):
    found = cifar10("test", ten, templates=("a blurred {label}",))
    assert found.captions_of(1) == ("a blurred automobile",)
    with pytest.raises(BadInput, match="caption template 'a photo'"):
        cifar10("test", ten, templates=("a photo",))


def test_the_words_of_coarse_groups_are_in_the_public_text(hundred):
    told = list(cifar100("train", hundred, coarse=True).to_spell())
    assert told[-20:] == [f"a photo of {name}" for name in COARSE_NAMES]
    assert len(set(told)) == len(told) == 520
