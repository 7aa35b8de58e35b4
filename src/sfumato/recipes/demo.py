"""The whole way on built-in data: plan, private captioner, evaluation beside its baselines, report."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from sfumato import report
from sfumato.recipes.config import read_config
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
    """
    run = demo_run(out)
    if fresh and (out / "run.json").is_file() and read_config(out).recipe == run.recipe:
        shutil.rmtree(out)
    epsilon = train_run(run, on_progress=on_progress)
    results = evaluate_run(out, suites=SUITES, limit=3000)
    samples = write_samples(out)
    return {"epsilon": epsilon, "results": results, "samples": samples, "report": report.write_page(out)}
