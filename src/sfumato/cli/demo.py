"""`sfumato demo`: the whole way on built-in data, in minutes on a laptop."""

import time
from dataclasses import dataclass
from pathlib import Path

from sfumato.cli._screen import say, screen, show

EXAMPLES = """
sfumato demo
sfumato demo --out runs/my-demo
"""


@dataclass(frozen=True, kw_only=True)
class DemoCommand:
    """Train a private captioner on procedural scenes, evaluate it beside its baselines, and write the report."""

    out: Path = Path("runs/demo")
    """Folder of the run; a former demonstration in it is replaced."""


def run(command: DemoCommand) -> int:
    """Show the table, five captions and the report's path."""
    from sfumato import evaluate
    from sfumato.base.rounding import upper
    from sfumato.cli._training import show_progress
    from sfumato.recipes.demo import demo
    from sfumato.report import tables

    begun = time.monotonic()
    shown = demo(command.out, on_progress=show_progress(screen(error=True)))
    console = screen()
    rows = [dict(zip(evaluate.COLUMNS, row, strict=True)) for row in evaluate.table(shown["results"])]
    show(console, tables.table(rows, list(evaluate.COLUMNS), title=f"epsilon {upper(shown['epsilon'])}"))
    for sample in shown["samples"][:5]:
        say(console, "  says ", (sample["generated"], "bold"), f"  (is: {sample['reference']})")
    minutes = (time.monotonic() - begun) / 60
    say(console, f"{minutes:.1f} minutes; report: {shown['report']}")
    return 0
