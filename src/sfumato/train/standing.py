"""What a folder holds already, looked at before a run writes into it: one folder is one run.

A private run may go on only where `private/` knows all that `export/` shows: whoever takes the ledger away and trains
again publishes a second model on the same records, with an epsilon that counts from zero.
"""

from pathlib import Path
from typing import Any

from sfumato.base import BadInput
from sfumato.base.files import read_log
from sfumato.base.history import BrokenLedger, History
from sfumato.base.ledger import read
from sfumato.base.parse import parsed
from sfumato.base.places import check_places
from sfumato.plan.spent import explained
from sfumato.train import checkpoint
from sfumato.train.folder import RunFolder
from sfumato.train.log import last_step


def check_folder(out: str | Path, *, private: bool) -> None:
    """Refuse a folder that a run of this kind may not write into. Nothing is written.

    Raises:
        BadInput: as `check_private` and `check_baseline` say; a missing seed is left to the run itself.
    """
    folder = RunFolder(Path(out))
    if not private:
        check_baseline(folder)
        return
    try:
        check_private(folder, new_seed=True)
    except BrokenLedger as error:
        raise explained(error) from None


def check_private(folder: RunFolder, *, new_seed: bool = False) -> None:
    """Refuse to go on with a private run in a folder that shows more than its ledger knows. Nothing is written.

    Args:
        folder: of the run; it need not exist.
        new_seed: a seed that is missing may be replaced.

    Raises:
        BadInput: links lead out of it; it holds a model trained without privacy; or the ledger, or lines of it, or the
            seed are missing.
        BrokenLedger: lines of the ledger were changed.
    """
    check_places(folder.root)
    if folder.baseline.is_file():
        raise BadInput(
            f"{folder.root} holds a model that was trained without privacy ({folder.baseline.name}): one folder is one "
            "run. Name another folder with --out."
        )
    shown = _shown(folder)  # before the ledger is read: of a run that is being written the ledger is always ahead
    history = read(folder.ledger) if folder.ledger.is_file() else History()
    unknown = [what for what, known in shown if not known(history)]
    if unknown:
        gone = "is missing" if not folder.ledger.is_file() else "does not know of it"
        raise BadInput(
            f"{folder.root} holds {unknown[0]}, but its ledger ({folder.ledger}) {gone}: training here would count "
            f"epsilon anew for records that were used before. Put private/ back as it was, or {_start_over(folder)}"
        )
    if history.steps and not (folder.seed.is_file() or new_seed):
        secret = str(history.attempts[-1].fields.get("seed", "")).startswith("secret")
        if secret:
            raise BadInput(
                f"{folder.seed} is missing: without it no charged step can be computed again. Put it back, or pass "
                f"--new-attempt (in Python accept_new_attempt=True) to go on with a new seed and charge steps again, "
                f"or {_start_over(folder)}"
            )


def check_baseline(folder: RunFolder) -> None:
    """Refuse to train without privacy in a folder where a private run was begun.

    Raises:
        BadInput: naming what it holds.
    """
    check_places(folder.root)
    held = [folder.ledger, folder.seed, folder.checkpoints, folder.card, folder.progress]
    for path in held:
        if path.exists():
            raise BadInput(
                f"{folder.root} holds a private run ({path.relative_to(folder.root)}): one folder is one run, and a "
                "model trained without privacy may not stand where a privacy claim does. Name another folder with "
                "--out."
            )


def _start_over(folder: RunFolder) -> str:
    return (
        f"start over in another folder (--out), or after removing {folder.root} as a whole. What was shared of the "
        "former run stays spent: for a person in both, the epsilons add up."
    )


def _shown(folder: RunFolder) -> list[tuple[str, Any]]:
    """Return what was found of a run, each with a function that says whether a ledger knows of it."""
    found: list[tuple[str, Any]] = []
    if folder.card.is_file():
        head, steps = _claim(folder)
        name = f"a privacy card ({folder.card.relative_to(folder.root)})"
        found.append((name, lambda history: _knows_claim(history, head, steps)))
    if next(folder.export.glob("**/*.safetensors"), None) is not None:
        found.append(("a trained model (export/)", lambda history: bool(history.steps)))
    if progress := [entry for entry in read_log(folder.progress) if entry is not None]:
        done = max(map(last_step, progress))
        found.append((f"the progress of {done} steps ({folder.progress.name})", lambda h: _reached(h) >= done))
    if checkpoint.complete(folder.checkpoints):
        found.append(("checkpoints", lambda history: bool(history.steps)))
    if (last := _last_logged(folder)) is not None:
        found.append((f"the log of {folder.log.name}", lambda history: last in history.steps))
    return found


def _last_logged(folder: RunFolder) -> tuple[int, int] | None:
    """Return attempt and step of the last line of the private log that names both; other lines are damaged."""
    for entry in reversed(read_log(folder.log)):
        attempt, step = (entry or {}).get("attempt"), (entry or {}).get("step")
        if isinstance(attempt, int) and isinstance(step, int):
            return attempt, step
    return None


def _claim(folder: RunFolder) -> tuple[str | None, int]:
    """Return ledger head and steps of the card; (None, 1) of one that cannot be read: something was trained."""
    try:
        card = parsed(folder.card.read_bytes())
        return str(card["ledger_head"]), int(card["steps_executed"])
    except (ValueError, KeyError, TypeError, OverflowError):
        return None, 1


def _knows_claim(history: History, head: str | None, steps: int) -> bool:
    return len(history.steps) >= steps and (head is None or head in history.hashes)


def _reached(history: History) -> int:
    return max((step + 1 for _, step in history.steps), default=0)
