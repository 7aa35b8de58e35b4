import os
from decimal import Decimal

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
        ("t.jsonl", '{"file": "a"}\n{"secret": 1, "file": "a", "secret": 2}\n', "line 2 has a key twice"),
        ("t.jsonl", '{"file": "a", "x": {"secret": 1, "secret": 1}}\n', "line 1 has a key twice"),
        ("t.csv", "file,text,\na,b,\na,b,secret\n", r"column 3 has no name .* not empty in 1 row \(2\)"),
        ("t.csv", ",file,text\n0,a,b\nsecret,a,b\n", r"column 1 has no name .* not empty in 2 rows"),
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
    assert set(names_of([17, 17.0, "17", " 17 ", "017", "1.70E+01", Decimal(17)], "t", "owner")) == {"17"}
    assert names_of(["1E+23", 10**23], "t", "owner") == ["1" + 23 * "0"] * 2
    assert names_of(["Jose\u0301", "Jos\u00e9\u200b"], "t", "owner") == ["Jos\u00e9"] * 2
    assert names_of(["Jose\u0301", "007", "x\u00b2"], "t", "label") == ["Jos\u00e9", "007", "x\u00b2"]
    assert names_of(["Jose\u0301.png ", 7], "t", "image") == ["Jose\u0301.png", "7"]
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


def test_words_for_a_missing_value_are_counted_not_trained_on():
    words = r"the caption only spells a missing value \(such as nan, None or NULL\) in 4 rows \(2, 3, 4, 5\)"
    with pytest.raises(BadInput, match=words) as caught:
        check_captions(["secret", "nan", "None", "NULL", ["secret", "n/a"], "none of them"], "t.csv")
    assert "secret" not in str(caught.value)
    with pytest.raises(BadInput, match=r"owner only spells a missing value .* in 2 rows \(2, 4\)"):
        names_of(["Ann", "nan", "Nan Smith", "#N/A"], "t", "owner")
    assert names_of(["none", "nan"], "t", "label") == ["none", "nan"]  # "none" is a class: no finding
    assert check_answers(["none", ["null", "nan"], "n/a"], "t") == [("none",), ("null", "nan"), ("n/a",)]
    with pytest.raises(BadInput, match=r"answer only spells a missing value .* in 1 row \(2\)"):
        check_answers(["none", "nan"], "t")


def test_captions_of_which_nothing_can_be_seen_are_empty():
    with pytest.raises(BadInput, match=r"empty in 3 rows \(2, 3, 4\)"):
        check_captions(["a", "\u200b", "\ufeff \u00ad", ["b", "\u2800"]], "t.csv")
    with pytest.raises(BadInput, match=r"owner is empty in 1 row \(2\)"):
        names_of(["a", "\u200b "], "t", "owner")


@pytest.mark.parametrize("columns", [Columns(), Columns(owner="patient"), Columns(caption="text", image="file")])
@pytest.mark.parametrize(
    "names",
    [
        ["a.png", "patient has a secret", "Ann"],
        ["IM0001", "patient secret", "Ann"],
        ["x/1.DCM", "text", "Ann secret"],
        ["secret " * 9, "caption", "Ann"],
    ],
)
def test_a_table_without_header_shows_nothing_of_its_first_row(columns, names):
    with pytest.raises(BadInput, match=r"--\w+-column.*may be a row of the data") as caught:
        resolve(columns, names, "t.csv")
    for private in ("secret", "Ann", "IM0001", "1.DCM"):
        assert private not in str(caught.value)
    with pytest.raises(BadInput, match=r"Its columns are .*Ann"):  # keys of JSON lines are names for certain
        resolve(columns, names, "t.jsonl", declared=True)


def test_a_column_is_found_in_every_spelling_and_never_suggested_as_itself():
    names = ["Bild\u200b", "text", "Gro\u0308\u00dfe", "Patient"]
    found = resolve(Columns(image="Bild", owner="Gr\u00f6\u00dfe"), names, "t")
    assert (found.image, found.owner) == (names[0], names[2])
    assert near("x.zip", ["x.zip", "x.zap"]) == "; did you mean 'x.zap'?"
    assert near("x.zip", ["x.zip"]) == ""
    assert near("Jos\u00e9", ["Jose\u0301"]) == "; did you mean 'Jose\\u0301'?"
    with pytest.raises(BadInput, match=r"no column 'patient'.*did you mean 'Patient'"):
        resolve(Columns(image="Bild", owner="patient"), names, "t")


def test_a_pipe_is_no_table(tmp_path):
    os.mkfifo(tmp_path / "t.csv")
    with pytest.raises(BadInput, match=r"t\.csv is not a regular file"):
        read_table(tmp_path / "t.csv")


def test_owners_that_may_have_been_rounded_are_refused():
    for value in (12345678901234567.0, 2.0**53, -(2.0**53), 1e300):
        with pytest.raises(BadInput, match=r"too large to be exact in 1 row \(2\).*as text or whole numbers"):
            names_of([7.0, value], "t", "owner")
    with pytest.raises(BadInput, match=r"too large to be exact in 1 row \(1\)"):
        names_of([2.0**24], "t", "owner", exact=1 << 24)
    assert names_of([2.0**53 - 1, 2**53 + 1, "9007199254740993.0", Decimal(2**53 + 1)], "t", "owner") == [
        "9007199254740991",
        *["9007199254740993"] * 3,
    ]


@pytest.mark.parametrize(
    "word", ["\\N", "<NULL>", "(null)", "nil", "undefined", "1.#QNAN", "-1.#IND", '"nan"', "='NULL'"]
)
def test_other_systems_words_for_a_missing_value_are_counted(word):
    if word[0] not in '"=':
        with pytest.raises(BadInput, match=r"caption only spells a missing value .* in 1 row \(2\)"):
            check_captions(["a cat", word], "t")
    with pytest.raises(BadInput, match=r"owner only spells a missing value .* in 1 row \(2\)"):
        names_of(["Ann", word, "Nil Ann"], "t", "owner")
    assert names_of([word], "t", "label") == [word]


def test_infinite_owners_are_missing_ones():
    with pytest.raises(BadInput, match=r"owner only spells a missing value .* in 3 rows"):
        names_of(["inf", "-Inf", "Infinity"], "t", "owner")
    assert check_captions(["inf"], "t") == [("inf",)]


def test_the_row_count_that_pandas_writes_is_left_out(tmp_path):
    for first in (0, 1):
        text = f",file,text\n{first},a,b\n{first + 1},c,d\n"
        assert read_table(written(tmp_path, text)) == {"file": ["a", "c"], "text": ["b", "d"]}


def test_a_zero_byte_is_refused_and_other_controls_are_removed():
    for check, value in (
        (check_captions, "secret\0"),
        (check_questions, "secret\0"),
        (check_answers, ["x", "secret\0"]),
    ):
        with pytest.raises(BadInput, match=r"zero byte \(NUL\) in 1 row \(2\)") as caught:
            check(["a", value], "t")
        assert "secret" not in str(caught.value)
    said = check_captions(["a\x1b[31m cat\x7f", "a\x85b\x0bc \x08 d"], "t")
    assert said == [("a[31m cat",), ("a b c d",)]
    with pytest.raises(BadInput, match=r"empty in 1 row \(1\)"):
        check_captions(["\x1b"], "t")


def test_a_decimal_of_any_length_is_whole_or_not():
    """The context of decimals has 28 digits; owners may have more."""
    large = 10**30
    whole = [Decimal(large), Decimal(f"{large}.00"), Decimal(10**50 + 1), Decimal("1E+40"), Decimal("-0.0")]
    assert names_of(whole, "t", "owner") == [str(large), str(large), str(10**50 + 1), "1" + "0" * 40, "0"]
    for wrong in (Decimal(f"{large}.5"), Decimal("1E-40"), Decimal("NaN"), Decimal("Infinity"), float("inf")):
        with pytest.raises(BadInput, match=r"neither text nor a whole number in 1 row \(2\)"):
            names_of(["7", wrong], "t", "owner")
