import unicodedata

from sfumato.base.text import visible

EVERY = [chr(number) for number in range(0x110000)]
EMBEDDINGS = ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")


def test_what_a_terminal_obeys_is_spelled() -> None:
    orders = [c for c in EVERY if unicodedata.category(c) in ("Cc", "Zl", "Zp")]
    orders += [c for c in EVERY if unicodedata.bidirectional(c) in EMBEDDINGS]
    assert len(orders) > 70
    for character in [*orders, "\ud800", "\udfff", "\ufeff", "\u200b", "\U000e0041"]:
        shown = visible(character)
        assert shown.isascii()
        assert shown.isprintable()
        assert shown.startswith("\\")


def test_all_that_is_written_stays() -> None:
    written = "".join(c for c in EVERY if unicodedata.category(c)[0] in "LMNPS" or unicodedata.category(c) == "Zs")
    assert visible(written) == written
    joined = "\u0915\u094d\u200d\u0937 \u0645\u06cc\u200c\u062e [red] a\\b"  # joiners are spelling, and no order
    assert visible(joined) == joined
    assert visible("a\nb\x1b", keep="\n") == "a\nb\\x1b"
