"""One form for names that say the same: of owners, of columns, of files.

Two spellings of one owner would be two records, and the guarantee would hold for half a person at a time. Two owners
under one key are one record, which is protected whole. So where spellings are in doubt, they are merged:

- Unicode is brought to NFKC: composed and decomposed, full-width and narrow, ligature and letters are the same.
- What cannot be seen (zero-width characters, soft hyphens, marks of direction, variation selectors) is left out.
- White space of every kind is a single blank, and none stands at either end.
- Hyphens and dashes are "-", and apostrophes "'": word processors exchange them.
- Quotation marks around an owner are left out, with the "=" that spreadsheets put before them: "7", '7, ="7" and 7.
- Owners that are numbers are equal where the numbers are: 7, 007, 7.0, 7,0 and 0.7E+1; spreadsheets exchange them.

Case is kept, and so are letters that only look alike (Latin and Cyrillic a).
"""

import re
import unicodedata
from decimal import Context, Decimal

_UNSEEN = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0000-\U000e0fff]"
)
_ALIKE = str.maketrans(dict.fromkeys("\u2018\u2019\u201a\u201b\u02bb\u02bc\u02b9\u2032`\u00b4", "'") | {"\u2212": "-"})
_ACUTE = " \u0301"  # into which NFKD takes an acute accent that stands for an apostrophe apart
_QUOTES = "\"' \u201c\u201d\u201e\u201f\u00ab\u00bb\u2039\u203a"
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_THOUSANDS = re.compile(r"[+-]?\d{1,3}(,\d{3})+(\.\d*)?")
_MOST_ZEROS = 64  # a number with more is kept with its exponent: 1E999999999 has no digits to write out
# how pandas, Python, SQL, R and spreadsheets write that nothing is there; "none" may well be the answer to a question
_NO_ANSWER = re.compile(
    r"-?nan|nat|null|<na>|<null>|\(null\)|\\n|-?1\.#(qnan|snan|ind|inf)|#(n/a|na|null!|ref!|value!|name\?|div/0!|num!)"
)
_NO_TEXT = re.compile(rf"none|na|n/a|nil|undefined|{_NO_ANSWER.pattern}")

_NO_OWNER = re.compile(rf"[+-]?inf(inity)?|{_NO_TEXT.pattern}")  # what a division by zero leaves of a number


def text_key(text: str) -> str:
    """Return the form by which two texts are the same name (see the head of this file).

    >>> text_key(" Jose\\u0301\\u200b  O\\u2019Neill ") == text_key("Jos\\u00e9 O'Neill")
    True
    """
    found = _formed(text)
    while found != text:  # what is left out may let a blank and a mark meet that are one character then
        text, found = found, _formed(found)
    return found


def _formed(text: str) -> str:
    if text.isascii() and text.isprintable():
        return " ".join(text.replace("`", "'").split())
    text = unicodedata.normalize("NFKC", text.replace(_ACUTE, "'").translate(_ALIKE)).replace(_ACUTE, "'")
    text = unicodedata.normalize("NFKC", _UNSEEN.sub("", "".join(map(_plain, " ".join(text.split())))))
    return " ".join(text.translate(_ALIKE).split())


def _plain(character: str) -> str:
    category = unicodedata.category(character)
    if category == "Pd":
        return "-"
    return "" if category in ("Cc", "Cf") else character


def owner_key(name: str) -> str:
    """Return the form by which two names are one owner: that of `text_key` without quotes, and of numbers their value.

    >>> [owner_key(name) for name in ("7", "007", "7.0", "1.00E+07", "10,000,000", "7a", "Ann ", '="7"', "'7")]
    ['7', '7', '7', '10000000', '10000000', '7a', 'Ann', '7', '7']
    """
    found = _owner(name)
    while found != name:  # behind a quote that is left out the name may begin with what is read in another way
        name, found = found, _owner(found)
    return found


def _owner(name: str) -> str:
    text = _unquoted(text_key(name))
    if text.isascii() and text.isdigit() and len(text) <= _MOST_ZEROS:
        return text.lstrip("0") or "0"
    plain = text.replace(",", "") if _THOUSANDS.fullmatch(text) else text.replace(",", ".")
    return _value(plain) if _NUMBER.fullmatch(plain) else text


def _unquoted(text: str) -> str:
    """Return a name without quotation marks around it: whoever wrote them did not mean another person."""
    bare = text.strip(_QUOTES)
    while bare.startswith("=") and bare[1:].lstrip()[:1] in tuple(_QUOTES):
        bare = bare[1:].strip(_QUOTES)
    return bare


def _value(number: str) -> str:
    """Return the shortest way to write a decimal number, with its exponent where that is long, or of any length."""
    mantissa, _, power = number.upper().partition("E")
    sign, digits, places = Decimal(mantissa).as_tuple()
    written = "".join(map(str, digits)).lstrip("0")
    least = written.rstrip("0")
    if not least:
        return "0"
    exact = Context(prec=len(number) + 20)  # a sum of whole numbers, none with more digits than are written
    zeros = exact.add(Decimal(power or 0), int(places) + len(written) - len(least))
    if abs(zeros) <= _MOST_ZEROS:
        return format(Decimal((sign, tuple(map(int, least)), int(zeros))), "f")
    shown = exact.add(zeros, len(least) - 1)
    fraction = f".{least[1:]}" if least[1:] else ""
    return f"{'-' if sign else ''}{least[0]}{fraction}E{'' if shown < 0 else '+'}{shown:f}"


def is_blank(text: str) -> bool:
    """Say whether nothing of a text can be seen."""
    return not text_key(text)


def spells_missing(text: str, *, answer: bool = False, owner: bool = False) -> bool:
    """Say whether a text (or an answer to a question, or an owner) is just a word for a missing value.

    >>> [spells_missing(text) for text in ("NaN", " None", "#N/A", "none of them")]
    [True, True, True, False]
    """
    return (_NO_ANSWER if answer else _NO_OWNER if owner else _NO_TEXT).fullmatch(text_key(text).casefold()) is not None
