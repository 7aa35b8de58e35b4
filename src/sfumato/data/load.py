"""The `--data` of the command line: one string to one captioned set."""

import os
from dataclasses import dataclass, field
from pathlib import Path

from sfumato.base.errors import BadInput
from sfumato.base.limits import SCENES
from sfumato.data.captioned import Captioned
from sfumato.data.cifar import cifar10, cifar100
from sfumato.data.decode import Decoder
from sfumato.data.easy_vqa import easy_vqa
from sfumato.data.emoji import emoji
from sfumato.data.folder import image_folder
from sfumato.data.hints import near
from sfumato.data.hub import hugging_face
from sfumato.data.hub_files import check_whole, holds, is_saved, not_data
from sfumato.data.idx import fashion_mnist, mnist
from sfumato.data.regular import is_special
from sfumato.data.shape_questions import shape_questions
from sfumato.data.shapes import shapes
from sfumato.data.table import Columns
from sfumato.data.vqa2 import vqa2_folder

WITH_QUESTIONS = ("shape-questions", "easy-vqa", "vqa2")
WITH_TEST = ("shapes", "fashion-mnist", "mnist", "cifar10", "cifar100", *WITH_QUESTIONS)
BUILT_IN = (*WITH_TEST, "emoji")
_LABELLED = {"fashion-mnist": fashion_mnist, "mnist": mnist, "cifar10": cifar10, "cifar100": cifar100}
_OF_FOLDERS = ("captions", "columns", "decoder", "missing")
_OF_SHAPES = ("num", "seed", "image_size", "scenes")
_OF_QUESTIONED = ("per_scene", "kinds")
_OF_LABELLED = ("templates", "coarse")
_DIGITS = 40  # of a number of scenes: more are not read
_DEFAULT_SHAPES = 60_000
_DEFAULT_QUESTIONED = 15_000  # scenes, of four questions each


@dataclass(frozen=True, kw_only=True)
class Options:
    """Settings of `load` that only some kinds of data read; each is refused where it would be ignored.

    Attributes:
        captions: table of a picture folder.
        columns: of the table or data set.
        decoder: declared window and size limit.
        missing: "error" or "zero", of a picture folder, of vqa2 and of a Hugging Face data set.
        public: the user declares pictures and captions public.
        num, seed, image_size, scenes: of shapes and shape-questions.
        templates: captions of labelled pictures (Fashion-MNIST, MNIST, CIFAR) with {label} and {a}; () takes the usual.
        coarse: of cifar100: labels are the 20 groups of classes.
        per_scene, kinds: of shape-questions: questions of each scene (None: as usual), and which kinds are asked.
    """

    captions: str | os.PathLike[str] | None = None
    columns: Columns = field(default_factory=Columns)
    decoder: Decoder = field(default_factory=Decoder)
    missing: str = "error"
    public: bool = False
    num: int | None = None
    seed: int = 0
    image_size: int = 64
    scenes: str = "mixed"
    templates: tuple[str, ...] = ()
    coarse: bool = False
    per_scene: int | None = None
    kinds: tuple[str, ...] = ()


def load(spec: str, *, split: str = "train", options: Options | None = None) -> Captioned:
    """Return the captioned set that `spec` names.

    Args:
        spec: "shapes" or "shapes:NUM", "shape-questions" or "shape-questions:NUM" (scenes); "easy-vqa";
            "vqa2:FOLDER" of VQA2.0's files; "fashion-mnist", "mnist", "cifar10" or "cifar100", each with ":FOLDER" of
            its files; "emoji", or "emoji:FOLDER,FOLDER" with more artists' drawings; "hf:NAME" (hub name or any folder
            or file that `datasets` reads); a .parquet file; a folder of `save_to_disk` or of parquet files; or a folder
            of pictures.
        split: "train", "test", ("unseen" of shapes and shape-questions, "val" of vqa2: its test set), or a split of a
            Hugging Face data set. Emoji and a picture folder have only "train"; their test set comes from `holdout`.
        options: settings of the kinds that need them.

    Raises:
        BadInput: nothing of that name (with near matches), or a setting that this kind of data does not have.
    """
    options = options or Options()
    for name, given in (("data", spec), ("captions", options.captions)):
        if given is not None and not str(given).strip():
            raise BadInput(f"--{name} is empty: name what is to be read, '.' for the current folder.")
    kind, _, rest = spec.partition(":")
    if kind in BUILT_IN:
        return _built_in(kind, rest, split, options)
    if kind == "hf":
        if not rest:
            raise BadInput("hf: needs a name, for example hf:owner/name or hf:folder.")
        return _hugging_face(rest, split, options)
    path = Path(spec)
    if path.suffix.lower() == ".parquet" and os.path.isfile(path):
        return _hugging_face(spec, split, options)
    if not os.path.isdir(path):
        if os.path.isfile(path) or is_special(path):
            raise BadInput(f"--data {spec} {not_data(path)}")
        hint = near(spec, [*BUILT_IN, *_beside(path)])
        raise BadInput(
            f"--data '{spec}' is no folder and none of {', '.join(BUILT_IN)}{hint or '.'} "
            f"A data set of the hub is written hf:{spec}."
        )
    if options.captions is None and _is_arrow(path):
        return _hugging_face(spec, split, options)
    if split != "train":
        raise BadInput(f"a picture folder has no split '{split}': hold a part out with --holdout.")
    _refuse_unread(options, (*_OF_SHAPES, *_OF_QUESTIONED, *_OF_LABELLED), "a picture folder")
    return image_folder(
        spec,
        options.captions,
        columns=options.columns,
        decoder=options.decoder,
        missing=options.missing,
        public=options.public,
    )


def has_test_split(spec: str) -> bool:
    """Whether `load(spec, split="test")` gives a test set of the data's own; otherwise it comes from `holdout`.

    A Hugging Face data set is not asked: it counts as having none.

    >>> has_test_split("cifar10:data/cifar-10-batches-bin"), has_test_split("emoji")
    (True, False)
    """
    return spec.partition(":")[0] in WITH_TEST


def _built_in(kind: str, rest: str, split: str, options: Options) -> Captioned:
    if kind == "vqa2":
        return _vqa2(rest, split, options)
    _refuse_unread(options, _OF_FOLDERS, kind)
    if kind != "shape-questions":
        _refuse_unread(options, _OF_QUESTIONED, kind)
    if kind in ("shapes", "shape-questions"):
        _refuse_unread(options, _OF_LABELLED, kind)
        return _scenes(kind, rest, split, options)
    _refuse_unread(options, _OF_SHAPES, kind)
    if kind == "emoji":
        _refuse_unread(options, _OF_LABELLED, kind)
        if split != "train":
            raise BadInput(f"emoji have no split '{split}': hold concepts out with --holdout.")
        return emoji([folder for folder in rest.split(",") if folder])
    if kind == "easy-vqa":
        _refuse_unread(options, _OF_LABELLED, kind)
        if rest:
            raise BadInput("easy-vqa is read from its package: write easy-vqa without a folder.")
        return easy_vqa(split)
    if kind != "cifar100":
        _refuse_unread(options, ("coarse",), kind)
    given = {"templates": options.templates} if options.templates else {}
    if options.coarse:
        return cifar100(split, rest or None, coarse=True, **given)
    return _LABELLED[kind](split, rest or None, **given)


def _scenes(kind: str, rest: str, split: str, options: Options) -> Captioned:
    if rest and (not rest.isdecimal() or options.num is not None):
        raise BadInput(f"write {kind}:NUM with one whole number, got '{kind}:{rest}'.")
    num = options.num if not rest else int(rest) if len(rest) < _DIGITS else 10**_DIGITS
    if num is None:
        num = _DEFAULT_SHAPES if kind == "shapes" else _DEFAULT_QUESTIONED
    if not SCENES.holds(num):
        raise BadInput(f"write {kind}:NUM with {SCENES}, got '{kind}:{(rest or str(num))[:_DIGITS]}'.")
    size, scenes = options.image_size, options.scenes
    if kind == "shapes":
        return shapes(num, options.seed, split=split, image_size=size, scenes=scenes)
    return shape_questions(
        num,
        options.seed,
        split=split,
        image_size=size,
        scenes=scenes,
        per_scene=options.per_scene,
        kinds=options.kinds,
    )


def _vqa2(rest: str, split: str, options: Options) -> Captioned:
    unread = [name for name in _OF_FOLDERS if name not in ("decoder", "missing")]
    _refuse_unread(options, (*unread, *_OF_SHAPES, *_OF_QUESTIONED, *_OF_LABELLED), "vqa2")
    if not rest:
        raise BadInput("vqa2: needs the folder of its files, for example vqa2:data/vqa2.")
    return vqa2_folder(rest, split, decoder=options.decoder, missing=options.missing, public=options.public)


def _hugging_face(name: str, split: str, options: Options) -> Captioned:
    _refuse_unread(options, ("captions", *_OF_SHAPES, *_OF_QUESTIONED, *_OF_LABELLED), "a Hugging Face data set")
    return hugging_face(
        name,
        split,
        columns=options.columns,
        decoder=options.decoder,
        missing=options.missing,
        public=options.public,
    )


def _refuse_unread(options: Options, names: tuple[str, ...], kind: str) -> None:
    default = Options()
    for name in names:
        if getattr(options, name) != getattr(default, name):
            raise BadInput(f"{kind} has no setting '{name.replace('_', '-')}': remove it.")


def _is_arrow(path: Path) -> bool:
    """Say whether a folder is read by `datasets`. Raises BadInput where it holds pictures and parquet files."""
    check_whole(path)
    if is_saved(path):
        return True
    pictures, captioned, parquet = holds(path)
    if parquet and pictures and not captioned:
        raise BadInput(
            f"{path} holds pictures and parquet files: write hf:{path} to read the parquet files, or give the table "
            "of the pictures with --captions."
        )
    return parquet and not pictures


def _beside(path: Path) -> list[str]:
    parent = path.parent
    names = sorted(os.listdir(parent)) if os.path.isdir(parent) else []
    return [str(parent / name) for name in names if name.endswith(".parquet") or os.path.isdir(parent / name)]
