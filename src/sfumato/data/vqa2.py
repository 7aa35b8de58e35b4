"""VQA2.0: its own question and annotation files with COCO pictures, or any set in that format.

Source: Goyal et al. 2017, "Making the V in VQA matter"; file formats of visualqa.org. The record is the picture, by its
COCO number: however many questions a picture has, they are one record.

    questions    {"data_subtype": "train2014", "questions": [{"question_id", "image_id", "question"}, ...]}
    annotations  {"annotations": [{"question_id", "image_id", "answer_type", "question_type",
                                   "answers": [{"answer": ...}, ... ten of them]}, ...]}
    pictures     COCO_train2014_000000000042.jpg or 000000000042.jpg, in the folder or in its folder train2014
"""

import os
import re
from pathlib import Path
from typing import Any, NamedTuple

from sfumato.base.errors import BadInput
from sfumato.data.captioned import Captioned, digest_of
from sfumato.data.decode import Decoder
from sfumato.data.files import MISSING, check_rows, inside, probe, stamps
from sfumato.data.folder import Files
from sfumato.data.hints import counted, near, siblings
from sfumato.data.regular import text_of
from sfumato.data.rows import tabled
from sfumato.data.table import check_questions, commonest_first, joined, parsed

KINDS = ("answer_type", "question_type")
SPLITS = ("train", "val")
_SUBTYPE = re.compile(r"[\w-]+")
_ENDINGS = (".jpg", ".jpeg", ".png")


class _Asked(NamedTuple):
    questions: list[str]
    answers: list[tuple[str, ...]]
    kinds: list[str]
    answer_types: list[str | None]
    numbers: list[int]
    images: list[int]
    subtype: str


def vqa2(
    questions: str | os.PathLike[str],
    annotations: str | os.PathLike[str],
    images: str | os.PathLike[str],
    *,
    kind: str = "answer_type",
    decoder: Decoder | None = None,
    missing: str = "error",
    public: bool = False,
) -> Captioned:
    """Return the questions of one split with all human answers; the record is the picture.

    Rows are in the order of the questions file; annotations of questions that it does not hold are not read. Two splits
    share an owner exactly if they share a picture's number.

    Args:
        questions, annotations: JSON files of one split.
        images: folder of the pictures.
        kind: what a question's kind is: "answer_type" (yes/no, number, other) or "question_type" (its first words).
        decoder: declared window and size limit.
        missing: "error", or "zero": questions of a picture that does not exist stay, with zero contribution.
        public: declares that pictures, questions and answers are public.

    Raises:
        BadInput: a file or the folder does not exist or is in another format; a question without answers, without
            picture or empty; answers that are no text; pictures that are not there; one file under two numbers.
    """
    if kind not in KINDS:
        raise BadInput(f"kind must be one of {', '.join(KINDS)}, got '{kind}'.")
    if missing not in MISSING:
        raise BadInput(f"missing must be one of {', '.join(MISSING)}, got '{missing}'.")
    folder, decoder = Path(images), decoder or Decoder()
    if not os.path.isdir(folder):
        raise BadInput(f"picture folder {folder} does not exist{near(folder.name, siblings(folder)) or '.'}")
    found = _read(Path(questions), Path(annotations), kind)
    files = _files(folder, found.images, found.subtype)
    owners = [str(image) for image in found.images]
    check_rows(files, [(str(number),) for number in found.numbers], owners, str(questions))  # rows go by question_id
    root = os.path.realpath(folder)
    stamped = stamps(root, files, folder, missing, f"looked for {_sought(found.subtype)}")
    there = [file for file, stamp in zip(files, stamped) if stamp]
    probe(root, there, decoder, folder, missing=missing, named=False)
    return tabled(
        name=f"vqa2 ({found.subtype or Path(questions).stem})",
        kind="vqa2",
        pictures=Files(root=root, files=files),
        texts=found.answers,
        owners=owners,
        labels=None,
        decoder=decoder,
        facts={
            "subtype": found.subtype,
            "kind_of": kind,
            "files": digest_of(part for pair in zip(files, stamped) for part in pair),
        },
        public=public,
        questions=found.questions,
        kinds=found.kinds,
        answer_types=found.answer_types,
    )


def _read(questions: Path, annotations: Path, kind: str) -> _Asked:
    asked, whole = _entries(questions, "questions")
    told, _ = _entries(annotations, "annotations")
    _check_whole(asked, "question_id", questions)
    _check_whole(asked, "image_id", questions)
    _check_whole(told, "question_id", annotations)
    given = {entry["question_id"]: entry for entry in told}
    _check_once(asked, questions)
    _check_once(told, annotations)
    found = [given.get(entry["question_id"], {}) for entry in asked]
    parts = [_parts(entry) for entry in found]
    wrong = [number for number, given in enumerate(parts, 1) if not all(_is_text(part) for part in given)]
    if wrong:
        raise BadInput(f"{annotations}: an answer is no text for {counted(wrong)} of {len(asked)} in {questions}.")
    answers = [_answers(given) for given in parts]
    bare = [number for number, texts in enumerate(answers, 1) if not any(texts)]
    if bare:
        raise BadInput(f"{annotations}: answers missing for {counted(bare)} of {len(asked)} in {questions}.")
    strange = [
        number
        for number, (one, other) in enumerate(zip(asked, found), 1)
        if other.get("image_id", one["image_id"]) != one["image_id"]
    ]
    if strange:
        raise BadInput(f"{annotations} and {questions} name different pictures (image_id) for {counted(strange)}.")
    texts = check_questions([entry.get("question") for entry in asked], str(questions))
    kinds = [str(entry.get(kind) or "unknown") for entry in found]
    types = [entry.get("answer_type") for entry in found]
    subtype = whole.get("data_subtype")
    if not isinstance(subtype, str) or not _SUBTYPE.fullmatch(subtype):  # it becomes a part of file names
        subtype = ""
    return _Asked(
        questions=texts,
        answers=answers,
        kinds=kinds,
        answer_types=[told if isinstance(told, str) and told else None for told in types],
        numbers=[entry["question_id"] for entry in asked],
        images=[entry["image_id"] for entry in asked],
        subtype=subtype,
    )


def _entries(path: Path, name: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return the list `name` of a JSON file, and the whole."""
    if not os.path.isfile(path):
        raise BadInput(f"{name} file {path} does not exist{near(path.name, siblings(path)) or '.'}")
    text = text_of(path)
    try:
        whole = parsed(text)
    except ValueError:
        raise BadInput(f"{path} is not JSON in UTF-8 that can be read.") from None
    entries = whole.get(name) if isinstance(whole, dict) else None
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise BadInput(f"{path} is no {name} file of VQA2.0: it must be an object with the list '{name}'.")
    if not entries:
        raise BadInput(f"{path} has no {name}.")
    return entries, whole


def _check_whole(entries: list[dict[str, Any]], name: str, path: Path) -> None:
    wrong = [number for number, entry in enumerate(entries, 1) if not _is_number(entry.get(name))]
    if wrong:
        raise BadInput(f"{path}: {name} is missing or no whole number in {counted(wrong)}.")


def _is_number(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _check_once(entries: list[dict[str, Any]], path: Path) -> None:
    seen: set[int] = set()
    again = []
    for number, entry in enumerate(entries, 1):
        if entry["question_id"] in seen:
            again.append(number)
        seen.add(entry["question_id"])
    if again:
        raise BadInput(f"{path}: question_id repeats an earlier one in {counted(again)}.")


def _parts(entry: dict[str, Any]) -> list[Any]:
    """Return the human answers as they stand in the file."""
    given = entry.get("answers")
    return [part.get("answer") if isinstance(part, dict) else None for part in given] if isinstance(given, list) else []


def _is_text(part: Any) -> bool:
    return isinstance(part, str) and "\0" not in part


def _answers(given: list[str]) -> tuple[str, ...]:
    """Return the human answers, the commonest first, empty ones last: an annotator may have left the field empty."""
    texts = commonest_first([joined(text) for text in given])
    return (*filter(None, texts), *(text for text in texts if not text))


def _patterns(subtype: str) -> tuple[str, ...]:
    return (f"COCO_{subtype}_{{:012d}}", "{:012d}") if subtype else ("{:012d}",)


def _sought(subtype: str) -> str:
    stems = [pattern.replace("{:012d}", "<image_id, 12 digits>") for pattern in _patterns(subtype)]
    return f"{' or '.join(stems)} with {', '.join(_ENDINGS)}" + (f", there or in {subtype}/" if subtype else "")


def _files(folder: Path, images: list[int], subtype: str) -> list[str]:
    """Return each row's file as real path below the folder; a name that is not there where there is none."""
    there = {name: name for name in os.listdir(folder)}
    if subtype and (folder / subtype).is_dir():
        there = {**{name: os.path.join(subtype, name) for name in os.listdir(folder / subtype)}, **there}
    root = os.path.realpath(folder)
    file_of = {}
    for image in dict.fromkeys(images):
        names = [pattern.format(image) + ending for pattern in _patterns(subtype) for ending in _ENDINGS]
        name = next((there[name] for name in names if name in there), names[0])
        file_of[image] = os.path.relpath(inside(root, name, "a picture"), root)
    return [file_of[image] for image in images]


def vqa2_folder(
    root: str | os.PathLike[str],
    split: str = "train",
    *,
    decoder: Decoder | None = None,
    missing: str = "error",
    public: bool = False,
) -> Captioned:
    """Return one split of a folder that holds VQA2.0's files under their usual names.

    Questions and annotations are the one JSON file with "questions" (or "annotations") and the split in its name;
    pictures lie in {split}2014, images/{split}2014, images or the folder itself, whichever comes first.

    Args:
        root: folder.
        split: "train" or "val"; "test" is "val", because VQA2.0 publishes no answers of its own test set.
        decoder, missing, public: as `vqa2`.

    Raises:
        BadInput: as `vqa2`; or a file is not there, or there are several.
    """
    folder = Path(root)
    if not os.path.isdir(folder):
        raise BadInput(f"folder {folder} does not exist{near(folder.name, siblings(folder)) or '.'}")
    split = "val" if split == "test" else split
    if split not in SPLITS:
        raise BadInput(f"vqa2 has the splits {', '.join(SPLITS)}, not '{split}'.")
    asked, told = (_one(folder, split, what) for what in ("questions", "annotations"))
    places = [folder / f"{split}2014", folder / "images" / f"{split}2014", folder / "images", folder]
    images = next(place for place in places if os.path.isdir(place))
    return vqa2(asked, told, images, decoder=decoder, missing=missing, public=public)


def _one(folder: Path, split: str, what: str) -> Path:
    found = [path for path in sorted(folder.glob("*.json")) if what in path.name and split in path.name]
    if len(found) != 1:
        many = "no file" if not found else f"{len(found)} files"
        raise BadInput(
            f"{folder} holds {many} named *{split}*{what}*.json; one is needed, such as "
            f"v2_{'OpenEnded_' if what == 'questions' else ''}mscoco_{split}2014_{what}.json."
        )
    return found[0]
