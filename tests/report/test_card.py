import json
from pathlib import Path
from typing import Any

import pytest

from sfumato.base import BadInput
from sfumato.base.rounding import upper
from sfumato.report import card

Facts = dict[str, Any]


def test_sentence_says_what_the_numbers_say(facts: Facts) -> None:
    text = card.sentence(card.build(facts))
    assert text == (
        "Whoever sees this model, whatever else they know, cannot reliably tell whether one given record (one patient, "
        "all their pictures) was used to train it: at a 1 % chance of a false alarm, they recognise a record that was "
        "used with a chance of at most 20.1 % (blind guessing: 1 %)."
    )


@pytest.mark.parametrize(
    ("epsilon", "words"),
    [(0.5, "can hardly do better than guess"), (2.0, "cannot reliably tell"), (8.0, "often be able to tell")],
)
def test_words_follow_the_bound(facts: Facts, epsilon: float, words: str) -> None:
    assert words in card.sentence(card.build({**facts, "epsilon": epsilon}))


def test_the_smaller_of_two_bounds_is_told(facts: Facts) -> None:
    loose = card.build({**facts, "epsilon": 8.0})
    tight = card.build({**facts, "epsilon": 8.0, "max_true_positive_rate": 0.41})
    assert card.recognised(tight) == 0.41
    assert card.recognised(loose) > 0.99
    assert card.recognised(card.build({**facts, "epsilon": 0.1, "max_true_positive_rate": 0.41})) < 0.02


def test_replace_one_asks_another_question(facts: Facts) -> None:
    assert "or on another in its place" in card.sentence(card.build({**facts, "relation": "replace_one"}))


@pytest.mark.parametrize("stamp", ["NOT PROVED: own clip factor", "NOT PRIVATE: debug figures were revealed"])
def test_stamped_card_claims_nothing(facts: Facts, stamp: str) -> None:
    epsilon = None if stamp.startswith("NOT PROVED") else facts["epsilon"]
    built = card.build({**facts, "stamps": [stamp], "epsilon": epsilon})
    assert built["sentence"].startswith(f"{stamp}. Nothing is promised")
    assert built["statement"] == "No (epsilon, delta) is claimed."
    page = card.markdown(built)
    assert f"**{stamp}**" in page
    assert "| epsilon | none claimed" in page
    assert "recognised" not in page
    assert "epsilon by PLD" not in page


def test_epsilon_is_rounded_up(facts: Facts) -> None:
    page = card.markdown(card.build(facts))
    assert "| epsilon | 3.00 |" in page
    assert "| epsilon by RDP | 3.21 |" in page
    assert card.build(facts)["statement"] == (
        "(3.00, 1e-06)-differential privacy, relation zero_out, unit example, sampling Poisson, PLD accountant, "
        "410 steps charged."
    )


def test_markdown_holds_every_fact(facts: Facts) -> None:
    facts["looks"] = ["TAN simulation, 1/8 of the batch, 200 steps"]
    page = card.markdown(card.build(facts))
    for text in (
        "public templates",
        "synthetic pictures",
        "Mironov",
        "TAN simulation",
        "ab" * 32,
        "410",
        "sfumato | 0.1.0",
    ):
        assert text in page, text


def test_markdown_cannot_be_broken_by_a_fact(facts: Facts) -> None:
    facts["public"]["vocabulary"] = "a | b\n# heading <script>"
    page = card.markdown(card.build(facts))
    assert "| vocabulary | a \\| b # heading &lt;script&gt; |" in page


def test_written_card_is_read_back(facts: Facts, tmp_path: Path) -> None:
    built = card.build(facts)
    as_json, as_markdown = card.write(built, tmp_path / "export")
    assert card.read(as_json) == built
    assert as_markdown.read_text(encoding="utf-8") == card.markdown(built)


def test_a_doctored_sentence_is_made_anew(facts: Facts, tmp_path: Path) -> None:
    path, _ = card.write({**card.build(facts), "sentence": "perfectly safe"}, tmp_path)
    assert "perfectly safe" not in card.read(path)["sentence"]


@pytest.mark.parametrize("text", ["{", "[]", '{"schema": 99}'])
def test_what_is_no_card_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "card.json"
    path.write_text(text)
    with pytest.raises(BadInput, match=r"card\.json"):
        card.read(path)


def test_card_is_plain_json(facts: Facts) -> None:
    built = card.build(facts)
    assert json.loads(json.dumps(built)) == built
    assert built["schema"] == card.SCHEMA


@pytest.mark.parametrize("epsilon", [1e-9, 0.00123456, 0.0999])
def test_a_small_epsilon_shows_its_digits(facts: Facts, epsilon: float) -> None:
    built = card.build(
        {**facts, "epsilon": epsilon, "epsilon_pld": epsilon, "epsilon_rdp": epsilon, "delta": 1.66666e-6}
    )
    shown = upper(epsilon)
    assert float(shown) >= epsilon > 0.99 * float(shown)
    assert built["statement"].startswith(f"({shown}, 1.66666e-06)-")
    for row in (f"| epsilon | {shown} |", f"| epsilon by RDP | {shown} |", "| delta | 1.66666e-06 |"):
        assert row in card.markdown(built)


def test_no_fact_is_markup_on_the_page(facts: Facts) -> None:
    """Names of columns, folders and files come from elsewhere; they stood in the sentences as they were."""
    hostile = "**bold** [click](http://evil.example) <img src=x> `code` www.evil.example \x1b[31m\u202e"
    hostile += "\n\n# heading\n| a | b |"
    facts |= {"record": hostile, "unit": hostile, "sampling": hostile, "warnings": [hostile], "owner_column": hostile}
    facts["public"]["vocabulary"] = hostile
    stamped = {**facts, "stamps": [f"NOT PRIVATE: {hostile}"]}
    for page in (card.markdown(card.build(facts)), card.markdown(card.build(stamped))):
        for piece in (
            "**bold**",
            "[click]",
            "<img",
            "`code`",
            "http://",
            "www.",
            "\x1b",
            "\u202e",
            "\n# heading",
            "\n| a | b",
        ):
            assert piece not in page, piece
        assert "\\x1b" in page
    assert page.count("**") == 2


def test_words_of_our_own_stay_readable(facts: Facts) -> None:
    page = card.markdown(card.build({**facts, "owner_column": "patient_id"}))
    assert "relation zero_out" in page
    assert "patient_id" in page
