import pytest

from sfumato.base.errors import BadInput
from sfumato.data.table import (
    Columns,
    check_answers,
    check_captions,
    check_questions,
    names_of,
    near,
    read_table,
    resolve,
)


def written(tmp_path, text, name="t.csv", encoding="utf-8"):
    path = tmp_path / name
    path.write_bytes(text.encode(encoding))
    return path


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("t.csv", 'file,text\na.png,"one, two"\nb.png,"said ""no""\nand left"\n'),
        ("t.csv", 'file;text\r\na.png;one, two\r\nb.png;"said ""no""\nand left"\r\n'),
        ("t.TSV", 'file\ttext\na.png\tone, two\nb.png\t"said ""no""\nand left"\n'),
        (
            "t.jsonl",
            '{"file": "a.png", "text": "one, two"}\n\n{"text": "said \\"no\\"\\nand left", "file": "b.png"}\n',
        ),
        ("t.jsonl", '{"file": "a.png", "text": "one, two"}\n{"text": "said \\"no\\"\\nand left", "file": "b.png"}'),
        ("t.csv", '\ufefffile,text\na.png,"one, two"\n\nb.png,"said ""no""\nand left"\n'),
    ],
)
def test_tables_of_every_kind(tmp_path, name, text):
    assert read_table(written(tmp_path, text, name)) == {
        "file": ["a.png", "b.png"],
        "text": ["one, two", 'said "no"\nand left'],
    }


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("t.csv", "file,text\na,b\nc\nd,e,f\n", r"2 columns.*2 rows \(2, 3\)"),
        ("t.csv", "file,file\na,b\n", "several columns named 'file'"),
        ("t.csv", 'file,text\na,"secret\n', "quote"),
        ("t.csv", "file,text\n", "no rows"),
        ("t.csv", "", "no rows"),
        ("t.jsonl", '{"file": "a"}\n{"file": secret}\n', "line 2 is not one JSON object"),
        ("t.jsonl", '["secret"]\n', "line 1"),
        ("t.jsonl", '{"file": "a"}\n' + "[" * 100_000 + "\n", "line 2 is not one JSON object that can be read"),
        ("t.jsonl", '{"secret": ' + "1" * 5000 + "}\n", "line 1 is not one JSON object that can be read"),
        ("t.jsonl", '{"secret": "\\ud800.png"}\n', "line 1 is not one JSON object that can be read"),
        ("t.xlsx", "x", r"must end in \.csv"),
    ],
)
def test_what_is_no_table_is_named(tmp_path, name, text, words):
    with pytest.raises(BadInput, match=words) as caught:
        read_table(written(tmp_path, text, name))
    assert name in str(caught.value)
    assert "secret" not in str(caught.value)


def test_whole_characters_may_be_escaped(tmp_path):
    path = written(tmp_path, '{"file": "\\ud83d\\ude00.png", "text": "\\\\ud800"}\n', "t.jsonl")
    assert read_table(path) == {"file": ["\U0001f600.png"], "text": ["\\ud800"]}


def test_a_missing_or_badly_encoded_table(tmp_path):
    written(tmp_path, "file,text\na,b\n", "reports.csv")
    with pytest.raises(BadInput, match=r"does not exist; did you mean 'reports\.csv'"):
        read_table(tmp_path / "report.csv")
    with pytest.raises(BadInput, match="UTF-8"):
        read_table(written(tmp_path, "file,text\na,b\u00e9\n", encoding="latin-1"))


def test_long_cells_are_read(tmp_path):
    assert len(read_table(written(tmp_path, f"file,text\na,{'x' * 300_000}\n"))["text"][0]) == 300_000


def test_columns_are_guessed_only_where_one_fits():
    assert resolve(Columns(), ["File_Name", "text", "x"], "t") == Columns(image="File_Name", caption="text")
    assert resolve(Columns(image="x", owner="p"), ["x", "report", "p"], "t").caption == "report"
    with pytest.raises(BadInput, match=r"which column is the image.*--image-column"):
        resolve(Columns(), ["a", "text"], "t.csv")
    with pytest.raises(BadInput, match="which column is the caption"):
        resolve(Columns(), ["file", "text", "caption"], "t.csv")
    with pytest.raises(BadInput, match=r"no column 'patiant' \(--owner-column\).*did you mean 'Patient'"):
        resolve(Columns(owner="patiant"), ["file", "text", "Patient"], "t.csv")


def test_a_table_is_one_of_questions_where_its_columns_say_so():
    asked = Columns(image="image", question="Question", answer="answers")
    assert resolve(Columns(), ["image", "Question", "answers"], "t") == asked
    assert resolve(Columns(), ["image", "question", "text"], "t") == Columns(image="image", caption="text")
    assert resolve(Columns(answer="text"), ["image", "question", "text"], "t").caption is None
    named = Columns(question="q", answer="a", kind="k", owner="o", label="l")
    assert resolve(named, ["image", "text", *"qakol"], "t") == Columns(
        image="image", question="q", answer="a", kind="k", owner="o", label="l"
    )
    with pytest.raises(BadInput, match=r"which column is the question.*--question-column"):
        resolve(Columns(answer="a"), ["image", "a"], "t.csv")
    with pytest.raises(BadInput, match=r"which column is the answer.*--answer-column"):
        resolve(Columns(), ["image", "question", "answer", "answers"], "t.csv")
    with pytest.raises(BadInput, match=r"no column 'quest' \(--question-column\).*did you mean 'question'"):
        resolve(Columns(question="quest"), ["image", "question", "answer"], "t.csv")
    with pytest.raises(BadInput, match=r"no column 'patient' \(--owner-column\)"):
        resolve(Columns(owner="patient"), ["image", "question", "answer"], "t.csv")
    with pytest.raises(BadInput, match="name only one kind"):
        resolve(Columns(question="q", caption="text"), ["image", "q", "a", "text"], "t.csv")


def test_questions_and_answers_are_counted_not_shown():
    assert check_questions([" what\n is it ?", "why?"], "t") == ["what is it ?", "why?"]
    assert check_answers(
        [" one\n two ", ["b", "a", "a"], [{"answer": "x"}, {"answer": "x"}], {"answer": ["y"]}], "t"
    ) == [
        ("one two",),
        ("a", "a", "b"),
        ("x", "x"),
        ("y",),
    ]
    for check, values, words in (
        (check_questions, ["secret", " ", None], r"the question is empty in 2 rows \(2, 3\)"),
        (check_questions, ["secret", ["secret"]], r"the question is a list in 1 row \(2\)"),
        (check_questions, ["secret", 3], r"the question is no text in 1 row \(2\)"),
        (check_answers, ["secret", "", []], r"the answer is empty in 2 rows \(2, 3\)"),
        (check_answers, ["secret", {"secret": 1}, [{"secret": 1}]], r"the answer is no text in 2 rows \(2, 3\)"),
    ):
        with pytest.raises(BadInput, match=words) as caught:
            check(values, "t.csv")
        assert "secret" not in str(caught.value)


def test_empty_captions_are_counted_not_shown():
    with pytest.raises(BadInput, match=r"empty in 7 rows \(2, 3, 4, 5, 6, \.\.\.\)") as caught:
        check_captions(["secret", "", " ", None, "\n", [], ["a", ""], ""], "t.csv")
    assert "secret" not in str(caught.value)
    with pytest.raises(BadInput, match=r"no text in 1 row \(2\)"):
        check_captions(["a", 3], "t.csv")
    assert check_captions([" one\n two ", ["a", "b"]], "t") == [("one two",), ("a", "b")]
    with pytest.raises(BadInput, match=r"owner is empty in 1 row \(2\)"):
        names_of(["a", " "], "t", "owner")
    assert names_of([1, "b "], "t", "owner") == ["1", "b"]


def test_one_owner_has_one_name_and_what_is_no_name_is_refused():
    assert set(names_of([17, 17.0, "17", " 17 "], "t", "owner")) == {"17"}
    strange = ["secret", ["secret", "x"], {"secret": 1}, True, float("nan"), 17.5, float("inf")]
    with pytest.raises(
        BadInput, match=r"neither text nor a whole number in 6 rows \(2, 3, 4, 5, 6, \.\.\.\)"
    ) as caught:
        names_of(strange, "t", "owner")
    assert "secret" not in str(caught.value)


def test_near_matches_ignore_case():
    assert near("IMG_001.PNG", ["img_001.png", "x"]) == "; did you mean 'img_001.png'?"
    assert near("q", ["img_001.png"]) == ""


def test_labels_may_be_true_or_false():
    assert names_of([True, False], "t.jsonl", "label") == ["True", "False"]
    with pytest.raises(BadInput, match="owner is neither text nor a whole number in 2 rows"):
        names_of([True, False], "t.jsonl", "owner")
