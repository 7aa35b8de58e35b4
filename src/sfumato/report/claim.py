"""The card of a run beside its ledger: a card may claim what the ledger charges, or more, never less."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sfumato import accounting
from sfumato.base import BadInput, Refused
from sfumato.base.history import BrokenLedger, History
from sfumato.base.ledger import read as read_ledger
from sfumato.base.rounding import upper
from sfumato.plan.spent import EXACT, QUICK, Spent, explained, spent
from sfumato.report.card import read

_SLACK = 1e-3  # between versions of the accountants


def card_of(run: Path) -> dict[str, Any] | None:
    """Return the card in a run's export, compared with the ledger where that lies beside it; None where there is none.

    Raises:
        BadInput: the file is no card, or claims less than the ledger charges.
        BrokenLedger: lines of the ledger were changed.
    """
    card, ledger = run / "export" / "card.json", run / "private" / "ledger.jsonl"
    if not card.is_file():
        return None
    claim = read(card)
    if ledger.is_file() and not claim["stamps"]:
        for less in _less(claim, _history(ledger)):
            raise BadInput(
                f"{card} claims less than the ledger of its run ({ledger}): {less}. The command that trained the run "
                "writes the card again."
            )
    return claim


def _history(ledger: Path) -> History:
    try:
        return read_ledger(ledger)
    except BrokenLedger as error:
        raise explained(error) from None


def _less(claim: Mapping[str, Any], history: History) -> Iterator[str]:
    """Yield in what way a card without a stamp says less than the ledger."""
    charged = len(history.steps)
    if charged > claim["steps_executed"]:
        yield f"{claim['steps_executed']:,} steps were executed, where {charged:,} are charged"
    if any(look.what == "debug revealed" for look in history.looks):
        yield "it has no stamp, where un-noised losses were shown"
    seeds = [str(attempt.fields.get("seed", "")) for attempt, _ in history.charged_attempts()]
    if not all(seed.startswith("secret") for seed in seeds):
        yield "it has no stamp, where the seed is public"
    try:
        steps = spent(history).steps
    except Refused as error:
        yield f"it states an epsilon, where none is proved ({str(error).rstrip('.')})"
        return
    yield from _figures(claim, steps)


def _figures(claim: Mapping[str, Any], steps: Any) -> Iterator[str]:
    at = Spent(steps=steps, delta=claim["delta"])
    for discretization in (QUICK, EXACT):  # the first is no less than the second, and ten times faster
        epsilon = at.epsilon(discretization=discretization)
        if claim["epsilon"] >= epsilon * (1 - _SLACK):
            break
    else:
        yield f"epsilon {claim['epsilon']:g} at delta {claim['delta']:g}, where its steps come to {upper(epsilon)}"
    stated = claim.get("max_true_positive_rate")
    if stated is None:
        return
    try:
        rate = accounting.max_true_positive_rate(steps)
    except Refused:
        yield "a chance of being recognised, where none is proved"
        return
    if stated < rate * (1 - _SLACK):
        yield f"recognised with a chance of at most {stated:g}, where it is {upper(rate)}"
