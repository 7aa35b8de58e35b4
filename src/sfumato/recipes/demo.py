"""The whole way on built-in data: plan, private captioner, evaluation beside its baselines, report."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from sfumato import report
from sfumato.base import BadInput
from sfumato.recipes.config import CONFIG, holds_run, read_config
from sfumato.recipes.dp_cap import dp_cap
from sfumato.recipes.execute import train_run
from sfumato.recipes.measure import evaluate_run, write_samples
from sfumato.recipes.run import Run

SUITES = ("probe", "fewshot", "zeroshot", "caption", "shapes")


def demo_run(out: Path) -> Run:
    """Return the demonstration's run: a million procedural scenes, a pico captioner, epsilon 8."""
    run = dp_cap("shapes:1000000", out)
    drawn_ahead = replace(run.training, num_workers=1)  # drawing a scene costs nearly as much as learning from it
    return replace(run, privacy=replace(run.privacy, epsilon=8.0), training=drawn_ahead)


def demo(out: Path, *, on_progress: Callable[[Any], None] | None = None, fresh: bool = True) -> dict[str, Any]:
    """Train, evaluate and report; return results, samples, epsilon and the report's path.

    Args:
        out: folder of the run; emptied first where `fresh`, if it holds a run of the demonstration.

    Raises:
        BadInput: it holds another run.
    """
    run = demo_run(out)
    own = holds_run(out) and (out / CONFIG).is_file() and read_config(out).data == run.data
    if holds_run(out) and not own:
        raise BadInput(f"{out} holds a run that is not the demonstration's: name another folder with --out.")
    if fresh and own:
        shutil.rmtree(out)
    epsilon = train_run(run, on_progress=on_progress)
    results = evaluate_run(out, suites=SUITES, limit=3000)
    samples = write_samples(out)
    return {"epsilon": epsilon, "results": results, "samples": samples, "report": report.write_page(out)}
