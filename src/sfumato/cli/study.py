"""`sfumato study NAME`: repeat a paper's experiment, as a table, a JSON file and a plot."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console

EXAMPLES = """
sfumato study accounting-grid
sfumato study batch-scaling
sfumato study batch-scaling --quick
"""


@dataclass(frozen=True, kw_only=True)
class StudyCommand:
    """Repeat an experiment of DP-Cap on public data.

    accounting-grid: epsilon over batch size and noise, no data. batch-scaling: held-out loss of a captioner on
    procedural scenes at fixed noise-to-batch ratio, for four batch sizes. Finished parts are kept and not repeated.
    """

    study: Annotated[Literal["accounting-grid", "batch-scaling"], tyro.conf.Positional]
    """Which experiment."""

    out: Path = Path("runs/studies")
    """Folder for the figures."""

    quick: bool = False
    """A small version, in seconds."""


def run(command: StudyCommand) -> int:
    """Run the study, write its files, and show the table."""
    from sfumato.recipes import study
    from sfumato.report import tables

    out = command.out / (command.study + ("-quick" if command.quick else ""))
    console = Console()
    if command.study == "accounting-grid":
        sizes, noises = ((4096, 65536), (0.6, 1.2)) if command.quick else (_SIZES, _NOISES)
        rows = study.accounting_grid(233_804_767, sizes, noises, 5708, 1 / 233_804_767)
        plot = study.plot_grid(rows, out / "plot.svg")
        shown = rows
    else:
        small = {"largest": 64, "steps": 6, "num_records": 2000, "points": 2, "factors": (1, 2)}
        rows = study.batch_scaling(out, **(small if command.quick else {}))
        plot = study.plot_scaling(rows, out / "plot.svg")
        last = max(row["step"] for row in rows)
        shown = [row for row in rows if row["step"] == last]
        console.print(f"largest difference of the final losses: {study.spread(rows):.4f}", highlight=False)
    (out / "rows.json").write_text(json.dumps(rows, indent=1) + "\n")
    console.print(tables.table(shown, title=command.study))
    console.print(f"{out / 'rows.json'}  {plot}", highlight=False)
    return 0


_SIZES = (40_000, 160_000, 640_000, 1_310_720)
_NOISES = (0.5, 0.728, 1.18, 2.0)
