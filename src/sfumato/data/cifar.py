"""CIFAR-10 and CIFAR-100 from their own binary files, captioned by public templates.

A record is 1 byte of label (CIFAR-100: 2, coarse and fine) and 3 x 32 x 32 bytes of colour planes. The version that
Python programs often take is a pickle, which may run any code when it is opened: it is refused by name.

Source: Krizhevsky 2009, "Learning multiple layers of features from tiny images"; the format is told on the data's page.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from sfumato.base.errors import BadInput
from sfumato.data.captioned import Captioned, digest_of
from sfumato.data.labelled import TemplateRows, labelled

CIFAR10_NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_HUNDRED_WORDS = """
    apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can castle
    caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant
    flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree
    motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate
    poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake spider
    squirrel streetcar sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle
    wardrobe whale willow_tree wolf woman worm
"""
CIFAR100_NAMES = tuple(word.replace("_", " ") for word in _HUNDRED_WORDS.split())
COARSE_NAMES = (
    "aquatic mammals",
    "fish",
    "flowers",
    "food containers",
    "fruit and vegetables",
    "household electrical devices",
    "household furniture",
    "insects",
    "large carnivores",
    "large man-made outdoor things",
    "large natural outdoor scenes",
    "large omnivores and herbivores",
    "medium mammals",
    "non-insect invertebrates",
    "people",
    "reptiles",
    "small mammals",
    "trees",
    "vehicles 1",
    "vehicles 2",
)
# the first is the fixed one of evaluation; {a} is the article that fits the label
CIFAR_TEMPLATES = (
    "a photo of {a} {label}",
    "a picture of {a} {label}",
    "a small photo of {a} {label}",
    "a blurred photo of {a} {label}",
    "this is {a} {label}",
)
_SIDE = 32
_PIXELS = 3 * _SIDE * _SIDE


@dataclass(frozen=True, kw_only=True)
class _Kind:
    """One of the two sets: its files by split, the number of classes of each label byte, and how it is got."""

    name: str
    files: dict[str, tuple[str, ...]]
    num_classes: tuple[int, ...]
    folder: str
    archive: str


_TEN = _Kind(
    name="cifar10",
    files={"train": tuple(f"data_batch_{number}.bin" for number in range(1, 6)), "test": ("test_batch.bin",)},
    num_classes=(10,),
    folder="cifar-10-batches-bin",
    archive="cifar-10-binary.tar.gz",
)
_HUNDRED = _Kind(
    name="cifar100",
    files={"train": ("train.bin",), "test": ("test.bin",)},
    num_classes=(20, 100),
    folder="cifar-100-binary",
    archive="cifar-100-binary.tar.gz",
)


def cifar10(
    split: str = "train", root: str | os.PathLike[str] | None = None, *, templates: Sequence[str] = CIFAR_TEMPLATES
) -> Captioned:
    """Return CIFAR-10: 50,000 ("train") or 10,000 ("test") colour pictures, 32 x 32, 10 classes; public.

    Args:
        split: "train" or "test".
        root: folder of the .bin files, or the one above it; default data/cifar-10-batches-bin.
        templates: captions with {label} and, where wanted, {a} for its article; evaluation takes the first.

    Raises:
        BadInput: no such split or template; a file is missing, is a pickle, is truncated, or holds labels out of range.
    """
    images, labels, digest = _read(_TEN, split, root)
    return _captioned(_TEN, split, images, labels[:, 0], digest, CIFAR10_NAMES, templates)


def cifar100(
    split: str = "train",
    root: str | os.PathLike[str] | None = None,
    *,
    coarse: bool = False,
    templates: Sequence[str] = CIFAR_TEMPLATES,
) -> Captioned:
    """Return CIFAR-100: 50,000 ("train") or 10,000 ("test") colour pictures, 32 x 32, 100 classes; public.

    Args:
        split, templates: as `cifar10`.
        root: folder of train.bin and test.bin, or the one above it; default data/cifar-100-binary.
        coarse: labels and class names are those of the 20 groups of five classes; captions name the class as before.

    Raises:
        BadInput: as `cifar10`; or a class that stands in two groups.
    """
    images, labels, digest = _read(_HUNDRED, split, root)
    groups, classes = labels[:, 0], labels[:, 1]
    if len(np.unique(classes * len(COARSE_NAMES) + groups)) != len(np.unique(classes)):
        raise BadInput(f"cifar100 ({split}): a class stands in two of the coarse groups, so the file is damaged.")
    found = _captioned(_HUNDRED, split, images, classes, digest, CIFAR100_NAMES, templates)
    if not coarse:
        return found
    assert isinstance(found.rows, TemplateRows)
    return replace(
        found,
        name=f"cifar100 ({split}, coarse labels)",
        rows=replace(found.rows, coarse=groups),
        facts={**found.facts, "coarse": True},
        class_names=COARSE_NAMES,
        class_captions=tuple(f"a photo of {name}" for name in COARSE_NAMES),
    )


def _captioned(
    kind: _Kind,
    split: str,
    images: np.ndarray,
    numbers: np.ndarray,
    digest: str,
    names: tuple[str, ...],
    templates: Sequence[str],
) -> Captioned:
    return labelled(
        name=kind.name,
        split=split,
        images=images,
        numbers=numbers,
        class_names=names,
        templates=templates,
        digests={"files": digest},
        augment="crop",
        flip=True,
    )


def _read(kind: _Kind, split: str, root: str | os.PathLike[str] | None) -> tuple[np.ndarray, np.ndarray, str]:
    """Return pictures (R, 32, 32, 3) uint8, labels (R, label bytes) int64 and the digest of the files."""
    if split not in kind.files:
        raise BadInput(f"{kind.name} has the splits {', '.join(kind.files)}, not '{split}'.")
    paths = _find(kind, split, Path(root) if root else Path("data"))
    raws = [_bytes(path) for path in paths]
    tables = [_table(kind, path, raw) for path, raw in zip(paths, raws, strict=True)]
    table = tables[0] if len(tables) == 1 else np.concatenate(tables)
    num_labels = len(kind.num_classes)
    planes = table[:, num_labels:].reshape(-1, 3, _SIDE, _SIDE)
    return np.moveaxis(planes, 1, 3), table[:, :num_labels].astype(np.int64), digest_of(raws)


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {type(error).__name__}.") from None


def _table(kind: _Kind, path: Path, raw: bytes) -> np.ndarray:
    """Return the records of a file, (R, bytes of a record) uint8, with their labels checked."""
    size = len(kind.num_classes) + _PIXELS
    if not raw or len(raw) % size:
        raise BadInput(
            f"{path} has {len(raw):,} bytes, which is no whole number of {kind.name}'s records of {size:,}: "
            "it is truncated, or another file."
        )
    table = np.frombuffer(raw, np.uint8).reshape(-1, size)
    for place, num_classes in enumerate(kind.num_classes):
        most = int(table[:, place].max())
        if most >= num_classes:
            raise BadInput(
                f"{path} holds a label {most}, but {kind.name}'s go from 0 to {num_classes - 1}: "
                "it is damaged, or another file."
            )
    return table


def _find(kind: _Kind, split: str, root: Path) -> list[Path]:
    names = kind.files[split]
    for folder in (root, root / kind.folder):
        if any((folder / name).is_file() for name in names):
            missing = [name for name in names if not (folder / name).is_file()]
            if not missing:
                return [folder / name for name in names]
            raise BadInput(f"{folder} lacks {', '.join(missing)}: unpack {kind.archive} again.")
    advice = f"take the binary version ({kind.archive}), unpack it and name its folder: {kind.name}:FOLDER"
    pickle = _pickle(kind, split, root)
    if pickle is not None:
        raise BadInput(f"{pickle} is the pickled version, which could run any code when opened: {advice}.")
    raise BadInput(f"{names[0]} is missing in {root} and {root / kind.folder}: {advice}.")


def _pickle(kind: _Kind, split: str, root: Path) -> Path | None:
    """Return the file of the version for Python that lies where the binary one was sought, or None."""
    stem = kind.folder.removesuffix("-bin").removesuffix("-binary").removesuffix("-batches")  # cifar-10, cifar-100
    pickled = [name.removesuffix(".bin") for name in kind.files[split]]
    below = ("", kind.folder, f"{stem}-batches-py", f"{stem}-python")
    places = [root / folder / name for folder in below for name in pickled]
    places += [root / f"{stem}-python.tar.gz", *([root] if "python" in root.name else [])]
    return next((place for place in places if place.is_file()), None)
