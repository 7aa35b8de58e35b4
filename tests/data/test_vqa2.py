import json
import os
import shutil

import numpy as np
import pytest
from tests.data.visual import build_vqa2

from sfumato.base.errors import BadInput, UndecodableRow
from sfumato.data import Options, check_disjoint, has_test_split, holdout, load, vqa2


@pytest.fixture
def files(tmp_path):
    return build_vqa2(tmp_path / "vqa", num_images=6, seed=1)


def read(files, **settings):
    return vqa2(files.questions, files.annotations, files.images, **settings)


def change(path, edit):
    whole = json.loads(path.read_text())
    edit(next(value for value in whole.values() if isinstance(value, list)))
    path.write_text(json.dumps(whole))


def test_rows_are_questions_and_records_pictures(files):
    found = read(files)
    assert (len(found), found.num_records) == (12, 6)
    assert [rows.tolist() for rows in found.owners] == [[2 * n, 2 * n + 1] for n in range(6)]
    assert found.has_questions
    for index in range(12):
        row = found[index]
        assert row["image"].shape == (8, 12, 3)
        assert row["question"] == ("What color is it?", "Is it red?")[index % 2]
        assert row["kind"] == ("other", "yes/no")[index % 2]
        assert len(row["answers"]) == 10
        assert row["caption"] == row["answers"][0] != "maybe"
        shown = row["image"].mean((0, 1)).argmax()
        right = ("red", "green", "blue")[shown]
        assert row["caption"] == (right if index % 2 == 0 else "yes" if right == "red" else "no")
        assert found.asked(index) == (row["question"], row["answers"], row["kind"], row["answer_type"])
        assert row["answer_type"] == row["kind"]


def test_one_of_the_answers_is_drawn(files):
    found = read(files)
    index = next(i for i in range(12) if "maybe" in found.asked(i).answers)
    drawn = [found.draw(index, np.random.default_rng(seed))["caption"] for seed in range(60)]
    assert set(drawn) == set(found.asked(index).answers)
    assert drawn.count("maybe") < 20  # each of the ten people alike
    assert found.draw(index, np.random.default_rng(3))["caption"] == drawn[3]


def test_kind_may_be_the_question_type(files):
    by_question = read(files, kind="question_type")
    assert {by_question.asked(i).kind for i in range(12)} == {"what color", "is it"}
    assert {by_question.asked(i).answer_type for i in range(12)} == {"other", "yes/no"}
    with pytest.raises(BadInput, match="answer_type, question_type"):
        read(files, kind="type")


@pytest.mark.parametrize("name", ["COCO_train2014_{:012d}.jpg", "{:012d}.jpg", "train2014/{:012d}.jpg"])
def test_pictures_by_both_names_and_below_the_split(files, name):
    other = files.root / "other"
    (other / "train2014").mkdir(parents=True)
    for image in range(1, 7):
        shutil.copy(files.images / f"COCO_train2014_{image:012d}.jpg", other / name.format(image))
    found = vqa2(files.questions, files.annotations, other)
    assert np.array_equal(found[5]["image"], read(files)[5]["image"])
    assert found.rows.file(5).endswith(name.format(3).split("/")[-1])


def test_splits_are_disjoint_by_picture(tmp_path):
    build_vqa2(tmp_path, num_images=3)
    build_vqa2(tmp_path, split="val", num_images=2, first_image=4)
    train, val = load(f"vqa2:{tmp_path}"), load(f"vqa2:{tmp_path}", split="test")
    assert (train.num_records, val.num_records) == (3, 2)
    check_disjoint(train, val)
    assert has_test_split("vqa2:x")
    assert load(f"vqa2:{tmp_path}", split="val").manifest() == val.manifest()
    other = build_vqa2(tmp_path / "again", split="val", num_images=2, first_image=3)
    with pytest.raises(BadInput, match="share 1 owners"):
        check_disjoint(train, read(other))


def test_holdout_splits_by_picture(files):
    train, test = holdout(read(files), 0.5)
    assert (train.num_records, len(train), test.num_records) == (3, 6, 3)
    pictures = [{one.rows.file(int(row)) for row in one.selection} for one in (train, test)]
    assert not pictures[0] & pictures[1]


def test_manifest_covers_questions_and_answers_and_names_none(files):
    before = read(files).manifest()
    assert "red" not in json.dumps(before)
    change(files.questions, lambda asked: asked[3].update(question="Is it blue?"))
    asked = read(files).manifest()
    change(files.annotations, lambda told: told[3]["answers"][5].update(answer="who knows"))
    answered = read(files).manifest()
    assert before != asked != answered
    assert read(files, kind="question_type").manifest() != answered


def test_absent_pictures(files):
    path = files.images / "COCO_train2014_000000000002.jpg"
    path.unlink()
    with pytest.raises(
        BadInput, match=r"2 rows \(3, 4\) of 12 .* not in .*looked for COCO_train2014_<image_id"
    ) as caught:
        read(files)
    assert "000000000002" not in str(caught.value)
    kept = read(files, missing="zero")
    assert kept.num_records == 6
    with pytest.raises(UndecodableRow):
        kept[2]
    assert load(f"vqa2:{files.root}", options=Options(missing="zero")).num_records == 6
    with pytest.raises(BadInput, match="error, zero"):
        read(files, missing="drop")
    with pytest.raises(BadInput, match="12 rows"):
        vqa2(files.questions, files.annotations, files.root.parent, missing="zero")


@pytest.mark.parametrize(
    ("which", "edit", "words"),
    [
        ("annotations", lambda told: told.pop(1), r"annotations\.json: answers missing for 1 row \(11\) of 12"),
        ("annotations", lambda told: told[0].update(answers=[]), r"answers missing for 1 row \(12\)"),
        ("annotations", lambda told: told[0].pop("answers"), r"answers missing for 1 row \(12\)"),
        ("annotations", lambda told: told[0].update(answers=[{"answer": " "}]), r"answers missing for 1 row \(12\)"),
        (
            "annotations",
            lambda told: told[0]["answers"][3].update(answer=2),
            r"an answer is no text for 1 row \(12\) of 12",
        ),
        ("annotations", lambda told: told[0]["answers"][3].pop("answer"), r"an answer is no text for 1 row \(12\)"),
        ("annotations", lambda told: told[0]["answers"].append("red"), r"an answer is no text for 1 row \(12\)"),
        ("annotations", lambda told: told[0].pop("question_id"), r"question_id is missing .* 1 row \(1\)"),
        ("annotations", lambda told: told.append(dict(told[0])), r"question_id repeats .* 1 row \(13\)"),
        ("annotations", lambda told: told[0].update(image_id=1), r"different pictures \(image_id\) for 1 row \(12\)"),
        ("questions", lambda asked: asked[2].pop("image_id"), r"questions\.json: image_id is missing .* 1 row \(3\)"),
        ("questions", lambda asked: asked[2].update(image_id="../x"), r"image_id is missing or no whole number"),
        ("questions", lambda asked: asked[2].update(question=" "), r"the question is empty in 1 row \(3\)"),
        ("questions", lambda asked: asked[2].pop("question"), r"the question is empty in 1 row \(3\)"),
        ("questions", lambda asked: asked.append(dict(asked[0])), r"question_id repeats .* 1 row \(13\)"),
        ("questions", lambda asked: asked.clear(), "has no questions"),
    ],
)
def test_what_does_not_fit_is_counted_not_shown(files, which, edit, words):
    change(getattr(files, which), edit)
    with pytest.raises(BadInput, match=words) as caught:
        read(files)
    for private in ("What", "red", "maybe", "COCO_"):
        assert private not in str(caught.value)


def test_a_file_under_two_numbers_is_refused(files):
    path = files.images / "COCO_train2014_000000000002.jpg"
    path.unlink()
    path.symlink_to("COCO_train2014_000000000001.jpg")
    with pytest.raises(
        BadInput, match=r"2 rows \(3, 4\) name a picture that an earlier row gives to another"
    ) as caught:
        read(files)
    assert "COCO_" not in str(caught.value)


def test_a_question_may_be_asked_twice(files):
    """VQA2.0 tells questions apart by their number."""
    change(files.questions, lambda asked: asked[1].update(question=asked[0]["question"]))
    change(files.annotations, lambda told: told[-2].update(answers=told[-1]["answers"]))
    found = read(files)
    assert found.asked(0)[:2] == found.asked(1)[:2]
    assert found.num_records == 6


def test_types_of_answers_may_be_missing(files):
    change(files.annotations, lambda told: told[-1].pop("answer_type"))
    assert [read(files).asked(index).answer_type for index in range(2)] == [None, "yes/no"]
    assert read(files).asked(0).kind == "unknown"


def test_a_byte_order_mark_is_read_over(files):
    for path in (files.questions, files.annotations):
        path.write_text(path.read_text(), encoding="utf-8-sig")
    assert len(read(files)) == 12


@pytest.mark.parametrize("text", ["[" * 100_000, '{"questions": ' + "1" * 5000 + "}", '{"questions": "\\ud800"}'])
def test_json_that_nobody_can_use(files, text):
    files.questions.write_text(text)
    with pytest.raises(BadInput, match="is not JSON in UTF-8 that can be read"):
        read(files)


def test_an_empty_answer_of_one_person_is_kept_and_never_fixed(files):
    def blank(told):
        told[0]["answers"] = [{"answer": ""}, {"answer": ""}, {"answer": "no"}]

    change(files.annotations, blank)
    assert read(files)[11]["answers"] == ("no", "", "")


def test_wrong_files_and_folders(files):
    with pytest.raises(BadInput, match=r"questions file .* does not exist; did you mean 'v2_OpenEnded"):
        vqa2(files.root / "v2_OpenEnded_mscoco_train_questions.json", files.annotations, files.images)
    with pytest.raises(BadInput, match=r"annotations file .* does not exist"):
        vqa2(files.questions, files.root / "none.json", files.images)
    with pytest.raises(BadInput, match=r"picture folder .* does not exist; did you mean 'train2014'"):
        vqa2(files.questions, files.annotations, files.root / "train2015")
    with pytest.raises(BadInput, match="no annotations file of VQA2"):
        vqa2(files.questions, files.questions, files.images)
    (files.root / "x.json").write_text("{secret")
    with pytest.raises(BadInput, match=r"x\.json is not JSON") as caught:
        vqa2(files.root / "x.json", files.annotations, files.images)
    assert "secret" not in str(caught.value)


def test_wrong_folders_of_load(files):
    with pytest.raises(BadInput, match="does not exist"):
        load(f"vqa2:{files.root}x")
    with pytest.raises(BadInput, match="needs the folder"):
        load("vqa2:")
    with pytest.raises(BadInput, match="train, val, not 'dev'"):
        load(f"vqa2:{files.root}", split="dev")
    with pytest.raises(BadInput, match=r"no file named \*val\*questions\*\.json"):
        load(f"vqa2:{files.root}", split="val")
    shutil.copy(files.annotations, files.root / "v1_train_annotations.json")
    with pytest.raises(BadInput, match="2 files named"):
        load(f"vqa2:{files.root}")


@pytest.mark.parametrize("subtype", ["{", "{:9999999999d}", "{0.__class__}", "../..", "/", "a\0b", 7, None, [1]])
def test_a_strange_subtype_names_no_file(files, subtype):
    def change_whole(path):
        whole = json.loads(path.read_text())
        path.write_text(json.dumps({**whole, "data_subtype": subtype}))

    change_whole(files.questions)
    for image in range(1, 7):
        (files.images / f"COCO_train2014_{image:012d}.jpg").rename(files.images / f"{image:012d}.jpg")
    assert len(read(files)) == 12


def test_a_pipe_is_neither_a_picture_nor_a_list_of_questions(files):
    picture = files.images / f"COCO_train2014_{1:012d}.jpg"
    picture.unlink()
    os.mkfifo(picture)
    with pytest.raises(BadInput, match=r"2 rows \(1, 2\) of 12 name a picture that is not in"):
        read(files)
    with pytest.raises(UndecodableRow):
        read(files, missing="zero")[0]
    files.questions.unlink()
    os.mkfifo(files.questions)
    with pytest.raises(BadInput, match="does not exist"):
        read(files)


def test_questions_in_utf_16(files):
    files.questions.write_text(files.questions.read_text(), encoding="utf-16")
    assert len(read(files)) == 12
