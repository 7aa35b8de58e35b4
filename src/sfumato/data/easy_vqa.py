"""easy-VQA: 64 x 64 pictures of one shape, each with about ten questions; 13 answers.

Files of the package `easy-vqa` (MIT, Victor Zhou), which is found but never imported. The record is the picture.
"""

import importlib.util
import json
from functools import cache
from pathlib import Path

from sfumato.base.errors import BadInput
from sfumato.data.captioned import Captioned, digest_of
from sfumato.data.decode import Decoder
from sfumato.data.folder import Files
from sfumato.data.regular import bytes_of
from sfumato.data.rows import tabled

SPLITS = ("train", "test")
SHAPES = ("circle", "rectangle", "triangle")


def easy_vqa(split: str = "train") -> Captioned:
    """Return easy-VQA: 4,000 pictures with 38,575 questions (train), or 1,000 with 9,673 (test); public.

    Kinds: "shape" and "color" (what is it?), "has shape", "has color" (is it there? yes or no), and "lacks shape",
    "lacks color" (is it not there?).

    Raises:
        BadInput: the package is not installed or not whole, or another split.
    """
    if split not in SPLITS:
        raise BadInput(f"easy-vqa has the splits {', '.join(SPLITS)}, not '{split}'.")
    spec = importlib.util.find_spec("easy_vqa")
    if spec is None or spec.origin is None:
        raise BadInput("easy-vqa is not installed: pip install easy-vqa (or pip install sfumato[vqa]).")
    return _read(Path(spec.origin).parent / "data" / split, split)


@cache  # files of a package stay as they are while a program runs
def _read(folder: Path, split: str) -> Captioned:
    path = folder / "questions.json"
    try:
        asked = json.loads(bytes_of(path))
        questions, answers = [str(question) for question, _, _ in asked], [str(answer) for _, answer, _ in asked]
        files = [f"images/{int(image)}.png" for _, _, image in asked]
        digests = {file: digest_of([bytes_of(folder / file)]) for file in dict.fromkeys(files)}
    except (OSError, ValueError, TypeError):
        raise BadInput(f"the package easy-vqa is not whole ({path} or a picture): install it again.") from None
    return tabled(
        name=f"easy-vqa ({split})",
        kind="easy-vqa",
        pictures=Files(root=str(folder), files=files),
        texts=[(answer,) for answer in answers],
        owners=[f"{split}/{file}" for file in files],  # both splits count from 0
        labels=None,
        decoder=Decoder(),
        facts={"split": split, "files": digest_of(part for pair in digests.items() for part in pair)},
        public=True,
        questions=questions,
        kinds=[kind_of(question) for question in questions],
        augment="none",  # a crop could cut the shape off
    )


def kind_of(question: str) -> str:
    """Return the kind of one of easy-VQA's questions.

    >>> [kind_of(text) for text in ("what color is the shape?", "what is the red shape?", "is no circle present?")]
    ['color', 'shape', 'lacks shape']
    """
    words = question.rstrip("?").split()
    if words[0] == "what":
        return "color" if "color" in words else "shape"
    verb = "lacks" if {"not", "no"} & set(words) else "has"
    return f"{verb} {'shape' if set(SHAPES) & set(words) else 'color'}"
