import importlib.util
import pickle
import re
import sys

import pytest

from sfumato.base.errors import BadInput
from sfumato.data import check_disjoint, easy_vqa, has_test_split, holdout, load, shape_questions
from sfumato.data.ask import GROUPS, LONE
from sfumato.data.easy_vqa import kind_of

SAME = {
    **dict.fromkeys(("colour", "colours", "colors"), "color"),
    **dict.fromkeys(("object", "objects", "thing", "things", "figure", "anything", "something", "nothing"), "shape"),
    **{"picture": "image", "which": "what", "are": "is", "do": "does", "an": "a", "here": "present"},
    **dict.fromkeys((*GROUPS.colours, *LONE.colours), "COLOR"),
    **{shape + end: "SHAPE" for shape in (*GROUPS.shapes, *LONE.shapes) for end in ("", "s", "es")},
}


def template(question):
    """What is left of a question without its colours, shapes and choice of synonyms."""
    return " ".join(SAME.get(word, word) for word in re.findall("[a-z]+", question.lower()))


def asked(captioned):
    return [captioned.asked(index) for index in range(len(captioned))]


@pytest.mark.parametrize(("split", "pictures", "questions"), [("train", 4000, 38_575), ("test", 1000, 9673)])
def test_sizes(split, pictures, questions):
    found = easy_vqa(split)
    assert (found.num_records, len(found)) == (pictures, questions)
    assert found.public
    assert len({answer for one in asked(found) for answer in one.answers}) == 13
    assert len({one.kind for one in asked(found)}) == 6


def test_a_row():
    row = easy_vqa()[0]
    assert (row["question"], row["answers"], row["kind"]) == ("what is the blue shape?", ("rectangle",), "shape")
    assert row["caption"] == "rectangle"
    assert row["image"].shape == (64, 64, 3)
    pixels = row["image"].reshape(-1, 3).tolist()
    assert [0, 0, 255] in pixels
    assert "easy_vqa" not in sys.modules  # found, never imported


@pytest.mark.parametrize(
    ("question", "kind"),
    [
        ("what is the color of the circle?", "color"),
        ("what shape does the image contain?", "shape"),
        ("is there a rectangle in the image?", "has shape"),
        ("does the image contain a teal shape?", "has color"),
        ("is no circle present?", "lacks shape"),
        ("is there not a gray shape?", "lacks color"),
    ],
)
def test_kinds(question, kind):
    assert kind_of(question) == kind


def test_splits_are_disjoint_and_holdout_is_by_picture():
    train, test = load("easy-vqa"), load("easy-vqa", split="test")
    check_disjoint(train, test)
    assert has_test_split("easy-vqa")
    kept, held = holdout(test, 0.1)
    assert (kept.num_records, held.num_records) == (900, 100)
    assert len(kept) + len(held) == len(test)
    assert train.manifest() != test.manifest()
    assert len(pickle.loads(pickle.dumps(held))) == len(held)


def test_shapes_share_no_template_with_it():
    easy = {template(one.question) for split in ("train", "test") for one in asked(easy_vqa(split))}
    assert len(easy) == 24
    ours = set()
    for scenes in ("lone", "single", "pair"):
        for split in ("train", "unseen"):
            captioned = shape_questions(300, scenes=scenes, split=split, per_scene=8)
            ours |= {template(one.question) for one in asked(captioned)}
    assert len(ours) > 40
    assert not easy & ours
    assert template("Is there a TEAL thing, in the picture?") in easy  # the comparison sees through synonyms


def test_shapes_teach_its_answers():
    ours = {one.answers[0] for one in asked(shape_questions(300, scenes="lone", per_scene=8))}
    assert {answer for one in asked(easy_vqa("test")) for answer in one.answers} <= ours


def test_missing_or_broken_packages_are_named(monkeypatch, tmp_path):
    with pytest.raises(BadInput, match="train, test, not 'val'"):
        easy_vqa("val")
    with pytest.raises(BadInput, match="without a folder"):
        load("easy-vqa:folder")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BadInput, match="pip install easy-vqa"):
        easy_vqa()
    spec = importlib.machinery.ModuleSpec("easy_vqa", None, origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    with pytest.raises(BadInput, match="not whole"):
        easy_vqa()
