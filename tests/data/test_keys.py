import unicodedata

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sfumato.data.keys import is_blank, owner_key, spells_missing, text_key

SAME_OWNER = [
    ("7", "7.0", "07", "007", "7.", "7,0", "+7", "0.7E+1", "70e-1", " 7 ", "\uff17", "7\u200b", "\u0667"),
    ("10000000", "1.00E+07", "1,00E+07", "1e7", "10,000,000", "10000000.00", "1\u00a0e7".replace("\u00a0", "")),
    ("12345678901234567890", "1.2345678901234567890E+19", "12345678901234567890.0"),
    ("17.5", "17.50", "17,5", "1.75e1"),
    (
        "Jos\u00e9",
        "Jose\u0301",
        "Jose\u0301 ",
        "\u200bJos\u00e9",
        "Jo\u00ads\u00e9",
        "\ufeffJos\u00e9",
        "Jose\u200b\u0301",
    ),
    (
        "Ann",
        "Ann\u200b",
        "Ann\u200d",
        "Ann\u2060",
        "Ann\u00a0",
        "\u202aAnn\u202c",
        "Ann\t",
        "A\u034fnn",
        "Ann\u3164",
        "\uff21nn",
    ),
    ("Ann Lee", "Ann  Lee", "Ann\u00a0Lee", "Ann\u2003Lee", "Ann\nLee"),
    ("O'Neill", "O\u2019Neill", "O\u02bcNeill", "O\u00b4Neill"),
    ("A-1", "A\u20101", "A\u20111", "A\u20131", "A\u2212" + "1"),
    ("\uac01", "\u1100\u1161\u11a8"),
    ("fi", "\ufb01"),
]
OTHER_OWNERS = [
    "7",
    "-7",
    "70",
    "7a",
    "7.5",
    "Ann",
    "ann",
    "Anne",
    "A nn",
    "P0007",
    "7-1",
    "7/1",
    "1.2.3",
    "",
    "Jose",
    "0x7",
]


@pytest.mark.parametrize("names", SAME_OWNER, ids=lambda names: ascii(names[0]))
def test_spellings_of_one_owner_have_one_key(names):
    assert {owner_key(name) for name in names} == {names[0]}


def test_other_owners_have_other_keys():
    assert len({owner_key(name) for name in OTHER_OWNERS}) == len(OTHER_OWNERS)
    assert len({text_key(name) for name in ("7", "7.0", "007")}) == 3  # of files and columns numbers are not read


def test_a_number_of_endless_digits_is_not_written_out():
    assert owner_key("1E999999999") == owner_key("10E999999998")
    assert len(owner_key("1E999999999")) < 20
    spelled = ("1e" + "9" * 40, "+1E+" + "9" * 40, "01.0e" + "9" * 40, "1e0" + "9" * 40, "10E" + "9" * 39 + "8")
    assert {owner_key(name) for name in spelled} == {"1E+" + "9" * 40}
    assert owner_key("-1e-" + "9" * 40) == owner_key("-0.1E-" + "9" * 39 + "8") == "-1E-" + "9" * 40
    assert owner_key("0e" + "9" * 40) == owner_key("0E-" + "9" * 40) == "0"
    assert owner_key("1e" + "9" * 40) != owner_key("1e" + "9" * 39 + "8")
    assert owner_key("1e" + "9" * 5000) == owner_key("1E" + "9" * 5000) != owner_key("2E" + "9" * 5000)
    assert owner_key("0E999999999") == owner_key("-0.0") == "0"


UNSEEN = "\u115f\u1160\u3164\uffa0\u200b\u00ad\u034f\u2800\ufe0f"
MARKS = "\u0300\u0301\u0308\u0327\u0345\u05b0\u3099"


@settings(max_examples=1500, deadline=None)
@given(
    st.text(max_size=12)
    | st.text("0123456789.,eE+-_ \u200b\u0301\u2212", max_size=10)
    | st.text(f"0a e\u00b4\u00a0'`\u2019\u02b9\u1ffd\u00a8\u00e9=\"\u00ab{UNSEEN}{MARKS}", max_size=8)
)
@example("0 \u115f\u0301")
@example("a \u200b\u0301\u200b\u0301")
@example(" \u115f\u0301\u115f\u0301 \u0308")
@example("1E" + "9" * 40)
def test_a_key_is_its_own_key(name):
    assert text_key(text_key(name)) == text_key(name)
    assert owner_key(owner_key(name)) == owner_key(name)


def test_what_cannot_be_seen_is_blank():
    assert all(is_blank(text) for text in ("", " ", "\u200b", "\ufeff \u00ad", "\u2800\u3164", "\u00a0\n"))
    assert not any(is_blank(text) for text in (".", "0", "\u0301"))


@pytest.mark.parametrize(
    "text", ["nan", "NaN", "None", "none ", "NULL", "N/A", "#N/A", "<NA>", "NaT", "#REF!", "NA", "nan\u200b"]
)
def test_words_for_a_missing_value(text):
    assert spells_missing(text)
    assert not spells_missing(f"{text} seen")


def test_none_answers_a_question():
    assert [spells_missing(text, answer=True) for text in ("none", "N/A", "nan", "NULL")] == [False, False, True, True]


@pytest.mark.parametrize("written", ['"7"', "'7'", '="7"', "'7", "= '7'", "\u201c7\u201d", '" 7.0 "', "=\"'7'\""])
def test_quotes_around_an_owner_are_none_of_the_name(written):
    assert owner_key(written) == "7"
    assert owner_key(owner_key(written)) == "7"


def test_quotes_inside_an_owner_stay():
    assert [owner_key(name) for name in ("O'Neill", 'a "b" c', "=x")] == ["O'Neill", 'a "b" c', "=x"]
    assert owner_key("=\"='7'\"") == owner_key(owner_key("=\"='7'\"")) == "7"


def test_an_acute_accent_for_an_apostrophe_is_one_in_every_form():
    for name in ("O\u00b4Neill", "O\u1ffdNeill", "\u00b4t Hooft"):
        for form in ("NFC", "NFD", "NFKC", "NFKD"):
            assert owner_key(unicodedata.normalize(form, name)) == owner_key(name.replace("\u1ffd", "'"))
    assert owner_key("O\u00b4Neill") == "O'Neill"
