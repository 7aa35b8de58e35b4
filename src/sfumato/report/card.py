"""The card: the privacy statement of a run, as JSON for programs, as Markdown for people, and as one sentence."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sfumato.base import BadInput, Relation, checksums
from sfumato.base.files import write_whole
from sfumato.base.parse import parsed
from sfumato.base.rounding import percent_at_most, upper
from sfumato.report.facts import check
from sfumato.report.numbers import most_recognised, plain
from sfumato.report.tables import escaped
from sfumato.report.tables import markdown as markdown_table

SCHEMA = 1
FALSE_ALARMS = 0.01
_HARDLY = 0.05
_HALF = 0.5
_RELATIONS = {
    Relation.ADD_REMOVE: "one record more or less, the number of records is not public",
    Relation.ZERO_OUT: "one record replaced by one that contributes nothing, the number of records is public",
    Relation.REPLACE_ONE: "one record exchanged for another, the number of records is public",
}


def build(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the card of `facts`: checked, completed, with its sentences; plain JSON.

    Raises:
        BadInput: a mandatory fact is missing (the message names it), or two facts contradict one another.
    """
    card = {"schema": SCHEMA, **check(facts)}
    card["sentence"] = sentence(card)
    card["statement"] = statement(card)
    return card


def recognised(card: Mapping[str, Any]) -> float:
    """Return the chance, at most, that an attack with 1 % false alarms recognises a record that was used.

    The smaller of two valid bounds: that of (epsilon, delta) alone, and that of the privacy loss distribution where the
    card has it (`max_true_positive_rate`).
    """
    from_epsilon = most_recognised(card["epsilon"], card["delta"], FALSE_ALARMS)
    from_distribution = card.get("max_true_positive_rate")
    return from_epsilon if from_distribution is None else min(from_epsilon, from_distribution)


def sentence(card: Mapping[str, Any]) -> str:
    """Return the claim in one sentence for a reader who knows no differential privacy."""
    if card["stamps"]:
        return (
            f"{' '.join(f'{stamp}.' for stamp in card['stamps'])} Nothing is promised about whom this model gives away."
        )
    chance = recognised(card)
    if chance <= _HARDLY:
        can = "can hardly do better than guess"
    elif chance <= _HALF:
        can = "cannot reliably tell"
    else:
        can = "may, as far as the proof goes, often be able to tell"
    record = card["record"].rstrip(".")
    if card["relation"] == Relation.REPLACE_ONE:
        question = f"whether it was trained on one given record ({record}) or on another in its place"
        test = "at a 1 % chance of wrongly naming the first, they name it rightly with a chance of at most"
    else:
        question = f"whether one given record ({record}) was used to train it"
        test = "at a 1 % chance of a false alarm, they recognise a record that was used with a chance of at most"
    return (
        f"Whoever sees this model, whatever else they know, {can} {question}: {test} {percent_at_most(chance)} "
        "(blind guessing: 1 %)."
    )


def statement(card: Mapping[str, Any]) -> str:
    """Return the claim in one line for a reader who knows differential privacy."""
    if card["stamps"]:
        return "No (epsilon, delta) is claimed."
    return (
        f"({upper(card['epsilon'])}, {_delta(card)})-differential privacy, relation {card['relation']}, "
        f"unit {_head(card['unit'])}, sampling {_head(card['sampling'])}, "
        f"{plain(card['accountant']).upper()} accountant, {charged_steps(card):,} steps charged."
    )


def _head(words: Any) -> str:
    """Return what stands before a colon: the name without its explanation, which the card's table has."""
    return plain(words).partition(":")[0]


def charged_steps(card: Mapping[str, Any]) -> int:
    """Return the steps that epsilon is computed for: those executed, unless the card names more."""
    return max(card["steps_executed"], card.get("steps_charged") or 0)


def _epsilon(card: Mapping[str, Any]) -> str:
    if card["epsilon"] is None:
        return "none claimed"
    if card["stamps"]:
        return f"none claimed ({upper(card['epsilon'])} if what the stamp says were not so)"
    return upper(card["epsilon"])


def _delta(card: Mapping[str, Any]) -> str:
    return plain(None) if card["delta"] is None else upper(card["delta"], digits=6)


def sections(card: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, str]]]]:
    """Return the card as titled lists of (what, value), all text, for Markdown and HTML alike."""
    claim = [("epsilon", _epsilon(card)), ("delta", _delta(card))]
    if not card["stamps"]:
        for accountant in ("pld", "rdp"):
            if card.get(f"epsilon_{accountant}") is not None:
                claim.append((f"epsilon by {accountant.upper()}", upper(card[f"epsilon_{accountant}"])))
        claim.append(("recognised at 1 % false alarms", f"at most {percent_at_most(recognised(card))}"))
    claim.append(("relation", f"{card['relation']} ({_RELATIONS[Relation(card['relation'])]})"))
    claim += _rows(card, "unit", "record", "owner_column")
    claim.append(("accountant", plain(card["accountant"]).upper()))
    how = _rows(card, "mechanism", "sampling", "sampling_prob", "expected_batch_size", "presence", "swap", "noise_std")
    how += _rows(card, "noise_multiplier", "divisor", "steps_executed", "steps_charged", "steps_planned")
    how += [("attempts", _attempts(card["attempts"])), *_rows(card, "steps_by_attempt", "ledger_head", "model")]
    parts = [("The claim", claim), ("How it was reached", how), ("What is public", _items(card["public"]))]
    parts.append(("What the claim leaves out", _items(card["left_out"])))
    looks = [(f"look {number}", plain(look)) for number, look in enumerate(card["looks"], 1)]
    parts.append(("Unaccounted looks at the data", looks or [("looks", "none declared")]))
    parts.append(("Versions", _items(card["versions"])))
    return parts


def _attempts(attempts: Any) -> str:
    if not isinstance(attempts, list):
        return plain(attempts)
    each = [
        plain({k: v for k, v in one.items() if k != "number"}) if isinstance(one, dict) else plain(one)
        for one in attempts
    ]
    return f"{len(attempts)} ({' / '.join(each)})"


def _rows(card: Mapping[str, Any], *names: str) -> list[tuple[str, str]]:
    return [(name.replace("_", " "), plain(card[name])) for name in names if name in card]


def _items(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(name.replace("_", " "), plain(value)) for name, value in facts.items()] or [("facts", "none declared")]


def markdown(card: Mapping[str, Any]) -> str:
    """Return the card as one Markdown page."""
    lines = [
        "# Privacy card",
        "",
        *(f"**{escaped(stamp)}**\n" for stamp in card["stamps"]),
        escaped(card["sentence"]),
        "",
        escaped(card["statement"]),
    ]
    lines += ["", *(f"Warning: {escaped(warning)}\n" for warning in card["warnings"])]
    for title, rows in sections(card):
        table = markdown_table([{"fact": what, "value": value} for what, value in rows])
        lines += [f"## {title}", "", table, ""]
    return "\n".join(lines).rstrip() + "\n"


def write(card: Mapping[str, Any], folder: Path) -> tuple[Path, Path]:
    """Write `card.json` and `card.md` into `folder` and return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    as_json, as_markdown = folder / "card.json", folder / "card.md"
    with checksums.replacing(folder, as_json.name, as_markdown.name):
        write_whole(as_json, json.dumps(card, indent=2, ensure_ascii=False) + "\n")
        write_whole(as_markdown, markdown(card))
    return as_json, as_markdown


def read(path: Path) -> dict[str, Any]:
    """Return the card in a `card.json`, checked and with its sentences made anew from its facts.

    Raises:
        BadInput: the file is no card, is of another schema, or lacks a mandatory fact.
        FileNotFoundError: there is no such file.
    """
    try:
        facts = parsed(path.read_bytes())
    except ValueError as error:
        raise BadInput(f"{path} is not JSON: {error}.") from error
    if not isinstance(facts, dict) or facts.get("schema") != SCHEMA:
        raise BadInput(f"{path} is not a privacy card of schema {SCHEMA}.")
    try:
        card = build(facts)
        markdown(card)  # all that is said of it anywhere
    except BadInput as error:
        raise BadInput(f"{path}: {error}") from None
    except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError) as error:
        raise BadInput(
            f"{path} holds a fact of another kind than a card's ({type(error).__name__}): it was changed after it was "
            "written. Put it back from a copy; the command that trained the run writes it again."
        ) from error
    return card
