"""`sfumato evaluate RUN`: measure what a run learned, always beside features that learned nothing."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from sfumato.base import BadInput, limits
from sfumato.cli._screen import screen, show, working

EXAMPLES = """
sfumato evaluate runs/x
sfumato evaluate runs/x --suite probe,fewshot,zeroshot
sfumato evaluate runs/towers --suite zeroshot,retrieval,knn
sfumato evaluate runs/shapes --suite shapes,aro --limit 1000
sfumato evaluate runs/vqa --suite vqa
"""


@dataclass(frozen=True, kw_only=True)
class EvaluateCommand:
    """Measure a run's encoder (probe, fewshot, knn), what it makes of words (zeroshot, retrieval) and its captions
    (caption, shapes, aro) on held-out data; of a classifier its accuracy, of a model of questions its answers (vqa).

    Raw pixels, HOG and the same encoder at random initialisation always stand beside. The table goes to the screen, the
    figures to RUN/export/metrics.json, those that rest on private pictures to RUN/private/metrics.json only.
    """

    run: Annotated[Path, tyro.conf.Positional]
    """The folder of a run."""

    suite: str | None = None
    """Comma-separated: probe, fewshot, knn, zeroshot, retrieval, caption, shapes, aro, vqa.
    Default: what suits the model. Figures of an earlier evaluation are replaced."""

    limit: Annotated[int | None, limits.RECORDS] = None
    """Use at most so many pictures of each set."""

    max_pixels: Annotated[int | None, limits.PIXELS] = None
    """Public limit on the pixels of a picture; larger ones count as unreadable. Default: that of the run."""


def run(command: EvaluateCommand) -> int:
    """Evaluate, write the figures and show the table."""
    from sfumato import evaluate
    from sfumato.recipes.measure import evaluate_run
    from sfumato.report import tables

    suites = None if command.suite is None else [name.strip() for name in command.suite.split(",") if name.strip()]
    if suites == []:
        raise BadInput("--suite names nothing: list suites with commas between them, or leave it out.")
    with working(screen(error=True), "evaluating") as update:

        def progress(what: str, done: int, total: int) -> None:
            update(f"{what}: {done:,} of {total:,}")

        results = evaluate_run(
            command.run, suites=suites, limit=command.limit, max_pixels=command.max_pixels, progress=progress
        )
    rows = [dict(zip(evaluate.COLUMNS, row, strict=True)) for row in evaluate.table(results)]
    show(screen(), tables.table(rows, list(evaluate.COLUMNS), title=str(command.run)))
    return 0
