import json
import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from tests.data.visual import build_vqa2

from sfumato.base.errors import BadInput, Refused, UndecodableRow
from sfumato.data import (
    AskedRows,
    Columns,
    Decoder,
    Options,
    check_disjoint,
    eight_bit_rgb,
    holdout,
    image_folder,
    load,
    shape_questions,
    shapes,
    vqa2,
)

CSV = "image,question,answer\na.png,what is it?,circle\nsub/b.png,is it red?,yes\n./a.png,is it red?,no\n"
PRIVATE = ("circle", "is it", "a.png", "b.png", "Ann")


@pytest.fixture
def root(tmp_path):
    for place, name in enumerate(("a.png", "sub/b.png", "c.png")):
        path = tmp_path / "pictures" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (6, 4), (200, 30, 10 * place)).save(path)
    return tmp_path / "pictures"


def table(root, text, name="t.csv"):
    path = root.parent / name
    path.write_text(text)
    return path


def refused(words, *args, **settings):
    with pytest.raises(BadInput, match=words) as caught:
        image_folder(*args, **settings)
    assert not [word for word in PRIVATE if word in str(caught.value)]


def encode(picture, question, answer):
    assert picture.dtype == np.uint8
    assert picture.shape[2] == 3
    labels = torch.full((8,), -100)
    labels[0] = len(answer)
    return {"mean": torch.tensor(picture.mean()), "asked": torch.tensor(len(question)), "labels": labels}


def follows_its_text(picture, question, answer):
    return {"labels": torch.zeros(len(answer))}


def follows_its_picture(picture, question, answer):
    return {"labels": torch.zeros(2), "pixels": torch.from_numpy(picture)}


def lacks_labels(picture, question, answer):
    return {"input_ids": torch.zeros(2)}


def test_questions_of_a_table_are_records_by_picture(root):
    found = image_folder(root, table(root, CSV))
    assert [rows.tolist() for rows in found.owners] == [[0, 2], [1]]
    assert [found[index]["question"] for index in range(3)] == ["what is it?", "is it red?", "is it red?"]
    assert [found[index]["caption"] for index in range(3)] == ["circle", "yes", "no"]
    assert found[2]["answers"] == ("no",)
    assert found[2]["kind"] is None
    assert found[2]["image"].shape == (4, 6, 3)
    assert found.captions_of(0) == ("circle",)
    train, test = holdout(found, 0.5)
    assert sorted([len(train), len(test)]) == [1, 2]
    with pytest.raises(Refused):
        found.to_spell()


def test_several_answers_and_kinds_of_json_lines(root):
    rows = [
        {"file": "a.png", "ask": "what is it?", "says": ["ring", "disc", "disc"], "type": "x", "who": "Ann"},
        {"file": "c.png", "ask": "what is it?", "says": "ring", "type": "y", "who": "Ann"},
    ]
    path = table(root, "\n".join(map(json.dumps, rows)), "t.jsonl")
    columns = Columns(question="ask", answer="says", kind="type", owner="who")
    found = load(str(root), options=Options(captions=path, columns=columns, public=True))
    assert found.num_records == 1
    assert found[0]["answers"] == ("disc", "disc", "ring")
    assert found[0]["caption"] == "disc"
    assert [found.asked(index).kind for index in range(2)] == ["x", "y"]
    drawn = [found.draw(0, np.random.default_rng(seed))["caption"] for seed in range(60)]
    assert 25 < drawn.count("disc") < 55
    assert list(found.to_spell()) == ["what is it?", "disc", "ring", "what is it?", "ring"]
    assert len(pickle.loads(pickle.dumps(found))) == 2


def test_the_manifest_covers_questions_answers_and_kinds(root):
    def manifest(text, **columns):
        return image_folder(root, table(root, text), columns=Columns(**columns)).manifest()

    seen = [
        manifest(CSV),
        manifest(CSV.replace("what is it", "what was it")),
        manifest(CSV.replace("circle", "square")),
        manifest(CSV, kind="answer"),
    ]
    assert all(one != other for place, one in enumerate(seen) for other in seen[:place])
    assert not [word for word in PRIVATE if word in json.dumps(seen)]


def test_wrong_tables_of_questions(root):
    refused(r"no column 'person' \(--owner-column\)", root, table(root, CSV), columns=Columns(owner="person"))
    refused(r"no column 'ask' \(--question-column\)", root, table(root, CSV), columns=Columns(question="ask"))
    refused(r"the question is empty in 1 row \(2\)", root, table(root, CSV.replace("is it red?,yes", ",yes")))
    refused(r"the answer is empty in 1 row \(1\)", root, table(root, CSV.replace("circle", "")))
    refused(r"the image is empty in 1 row \(2\)", root, table(root, CSV.replace("sub/b.png", "")))
    refused(r"1 row \(4\) repeat.*picture, question and answer.*list", root, table(root, CSV + "a.png,is it red?,no\n"))
    refused("outside the picture folder", root, table(root, CSV.replace("sub/b.png", "../b.png")))
    owned = CSV.replace("\n", ",Ann\n").replace("answer,Ann", "answer,who").replace("no,Ann", "no,Bob")
    refused(r"1 row \(3\) name a picture that an earlier row", root, table(root, owned), columns=Columns(owner="who"))


def test_listed_pictures_that_are_absent(root):
    (root / "a.png").unlink()
    path = table(root, CSV)
    refused(r"2 rows \(1, 3\) of 3 name a picture that is not in", root, path)
    kept = image_folder(root, path, missing="zero")
    assert kept.num_records == 2
    with pytest.raises(UndecodableRow):
        kept[0]
    assert kept.asked(0).question == "what is it?"
    rows = AskedRows(kept, encode)
    with pytest.raises(UndecodableRow):
        rows[2]


def test_undeclared_depth_names_no_picture(root):
    Image.fromarray(np.full((4, 6), 4095, np.uint16)).save(root / "a.png")
    refused("a picture in .*window", root, table(root, CSV))
    found = image_folder(root, table(root, CSV), decoder=Decoder(window=(0, 4095)))
    assert AskedRows(found, encode)[0]["mean"].item() == 255


def test_equal_names_in_two_folders_are_two_pictures(root):
    other = root.parent / "others"
    (other / "sub").mkdir(parents=True)
    for name in ("a.png", "sub/b.png"):
        Image.new("RGB", (6, 4)).save(other / name)
    one, two = (image_folder(folder, table(root, CSV)) for folder in (root, other))
    check_disjoint(one, two)
    with pytest.raises(BadInput, match="share 2 picture files"):
        check_disjoint(one, image_folder(root, table(root, CSV)))
    three = image_folder(root, table(root, CSV), columns=Columns(owner="image"))
    with pytest.raises(BadInput, match="share 2 picture files"):
        check_disjoint(one, three)


def test_an_owner_is_one_person_by_name(root):
    def rows(*owners):
        names = ["a.png", "sub/b.png"]
        told = [{"file": f, "question": "red?", "answer": "no", "who": o} for f, o in zip(names, owners)]
        return table(root, "\n".join(map(json.dumps, told)), "t.jsonl")

    assert image_folder(root, rows(17, 17.0), columns=Columns(owner="who")).num_records == 1
    who = Columns(owner="who")
    refused(r"the owner is neither text nor a whole number in 2 rows", root, rows(["Ann"], True), columns=who)


def test_captions_are_no_questions(root):
    found = image_folder(root, table(root, "file,text\na.png,a circle\n"))
    assert not found.has_questions
    assert "questions" not in found.manifest()
    with pytest.raises(BadInput, match="--question-column"):
        found.asked(0)
    with pytest.raises(BadInput, match="--question-column"):
        AskedRows(found, encode)
    with pytest.raises(BadInput, match="--question-column"):
        AskedRows(found, encode, question=" ")
    rows = AskedRows(found, encode, question="what is shown?")
    assert rows[0]["asked"].item() == len("what is shown?")
    assert rows[0]["labels"][0].item() == len("a circle")
    assert rows.owners is None
    assert rows.manifest() != AskedRows(found, encode, question="what?").manifest()


def test_rows_are_what_encode_makes_of_them(tmp_path):
    files = build_vqa2(tmp_path, num_images=3)
    captioned = vqa2(files.questions, files.annotations, files.images)
    rows = AskedRows(captioned, encode)
    assert len(rows) == 6
    assert [r.tolist() for r in rows.owners] == [[0, 1], [2, 3], [4, 5]]
    for index in range(6):
        row = captioned[index]
        assert rows[index]["mean"].item() == pytest.approx(row["image"].mean())
        assert rows[index]["asked"].item() == len(row["question"])
        assert rows[index]["labels"].tolist() == [len(row["caption"])] + 7 * [-100]
    index = next(i for i in range(6) if "maybe" in captioned.asked(i).answers)
    said = {rows.draw(index, np.random.default_rng(seed))["labels"][0].item() for seed in range(60)}
    assert said == {len(answer) for answer in captioned.asked(index).answers}
    again = pickle.loads(pickle.dumps(rows))
    assert torch.equal(again[1]["labels"], rows[1]["labels"])
    assert again.manifest() == rows.manifest()
    assert rows.manifest()["fed"]["labels"] == [[8], "torch.int64"]
    with pytest.raises(BadInput, match="questions of its own"):
        AskedRows(captioned, encode, question="what?")


def test_grey_pictures_have_three_channels(root):
    Image.new("L", (6, 4), 70).save(root / "a.png")
    assert AskedRows(image_folder(root, table(root, CSV)), encode)[0]["mean"].item() == 70


def test_what_is_no_picture_cannot_be_fed():
    with pytest.raises(UndecodableRow):
        eight_bit_rgb(np.zeros((4, 6), np.uint8))


def test_shapes_that_follow_a_row_are_refused():
    questions = shape_questions(3)
    with pytest.raises(BadInput, match="same shapes and dtypes for every row; labels follows"):
        AskedRows(questions, follows_its_text)
    with pytest.raises(BadInput, match="pixels follows"):
        AskedRows(questions, follows_its_picture)
    with pytest.raises(BadInput, match="must return labels, got input_ids"):
        AskedRows(questions, lacks_labels)
    with pytest.raises(BadInput, match="one public question"):
        AskedRows(shapes(3), encode)


def test_a_row_of_another_form_stays_a_record_and_is_not_shown():
    def odd(picture, question, answer):
        fed = encode(picture, question, answer)
        return {**fed, "labels": fed["labels"].float()} if picture.shape[0] == 20 else fed

    rows = AskedRows(shape_questions(3, image_size=20), odd)
    with pytest.raises(UndecodableRow, match="other shapes"):
        rows[0]
