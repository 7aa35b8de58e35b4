"""The folder of a run: `private/` holds what must not be shared, `export/` what is meant to be."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class RunFolder:
    """Where the files of a run lie."""

    root: Path

    @property
    def private(self) -> Path:
        """Seed, ledger, logs, checkpoints (mode 0700)."""
        return self.root / "private"

    @property
    def export(self) -> Path:
        """Weights, card, metrics, public progress."""
        return self.root / "export"

    @property
    def ledger(self) -> Path:
        """The append-only ledger."""
        return self.private / "ledger.jsonl"

    @property
    def seed(self) -> Path:
        """The secret seed."""
        return self.private / "seed"

    @property
    def log(self) -> Path:
        """Un-noised losses and counts."""
        return self.private / "log.jsonl"

    @property
    def checkpoints(self) -> Path:
        """What a run resumes from."""
        return self.private / "checkpoints"

    @property
    def progress(self) -> Path:
        """Public: steps and epsilon."""
        return self.export / "progress.jsonl"

    @property
    def card(self) -> Path:
        """The privacy claim, for programs."""
        return self.export / "card.json"

    @property
    def baseline(self) -> Path:
        """Says of a model trained without privacy that it was."""
        return self.export / "NOT_PRIVATE.md"

    def make(self) -> None:
        """Make the folders that are missing; `private/` is closed to others, also if it was there."""
        self.export.mkdir(parents=True, exist_ok=True)
        self.private.mkdir(exist_ok=True, mode=0o700)
        self.private.chmod(0o700)
