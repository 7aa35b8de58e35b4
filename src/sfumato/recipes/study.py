"""Experiments of the papers, repeated on public data: rows, a JSON file and a plot each.

`accounting_grid`: epsilon over batch size and noise (DP-Cap, figure on privacy accounting). No data.
`batch_scaling`: loss at fixed noise-to-batch ratio for four batch sizes (DP-Cap's claim that captioning keeps its
course from 40,000 to 1.3 million; TAN, Sander et al. 2023, uses it to tune at small cost). Procedural scenes, so that
un-noised loss may be shown.
"""

import json
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from sfumato import report, train
from sfumato.base import BadInput
from sfumato.base.files import write_whole
from sfumato.base.parse import parsed
from sfumato.plan import Example, Plan, epsilon_grid
from sfumato.recipes.course import course_of
from sfumato.recipes.dp_cap import dp_cap
from sfumato.recipes.execute import optimizer_of
from sfumato.recipes.make import make
from sfumato.sampling import Poisson

log = logging.getLogger(__name__)

Rows = list[dict[str, Any]]


def accounting_grid(
    num_records: int, batch_sizes: Sequence[int], noise_multipliers: Sequence[float], steps: int, delta: float
) -> Rows:
    """Return one row per (expected batch size, noise multiplier); see `plan.epsilon_grid`."""
    sampler = Poisson(num_records=num_records, expected_batch_size=batch_sizes[0])
    plan = Plan(unit=Example(clip_norm=1.0), sampler=sampler, steps=steps, delta=delta)
    return epsilon_grid(plan, batch_sizes, noise_multipliers)


def plot_grid(rows: Rows, path: Path) -> Path:
    """Draw epsilon over the batch size, one line per noise multiplier."""
    series = [
        report.plots.Series(
            name=f"noise {sigma:g}",
            x=[row["batch_size"] for row in rows if row["noise_multiplier"] == sigma],
            y=[row["epsilon_pld"] for row in rows if row["noise_multiplier"] == sigma],
        )
        for sigma in sorted({row["noise_multiplier"] for row in rows})
    ]
    chart = report.plots.Chart(
        title="Epsilon by batch size and noise",
        x_label="expected batch size",
        y_label="epsilon (PLD)",
        description="Epsilon grows with the batch size and falls with the noise multiplier.",
        x_log=True,
        y_log=True,
    )
    return report.plots.save(chart, series, path)


def batch_scaling(
    out: Path,
    *,
    largest: int = 2048,
    noise_multiplier: float = 2.0,
    steps: int = 120,
    num_records: int = 200_000,
    points: int = 12,
    factors: Sequence[int] = (1, 2, 4, 8),
) -> Rows:
    """Train the same captioner at batch sizes largest / k with noise multipliers divided by the same k.

    Each is the TAN twin of the first plan: sigma / B and the number of steps stay. The loss is that on held-out scenes.

    Returns:
        rows of batch size, noise multiplier, step, loss; each run is kept in `out` and not repeated.
    """
    base = dp_cap(f"shapes:{num_records}", out / "run")
    plan = Plan(
        unit=Example(clip_norm=base.privacy.clip_norm),
        sampler=Poisson(num_records=num_records, expected_batch_size=largest),
        steps=steps,
        noise_multiplier=noise_multiplier,
    )
    rows: Rows = []
    for factor in factors:
        if largest % factor:
            raise BadInput(f"the batch size {largest} is not divisible by {factor}.")
        kept = out / f"batch-{largest // factor}.json"
        if not kept.is_file():
            _scaled_run(base, plan if factor == 1 else plan.twin(factor), points, kept)
        rows += _kept(kept)
    return rows


def _kept(file: Path) -> Rows:
    try:
        rows = parsed(file.read_bytes())
        if rows and all({"batch size", "noise multiplier", "step", "loss"} <= row.keys() for row in rows):
            return rows
    except (ValueError, TypeError, AttributeError):
        pass
    raise BadInput(
        f"{file} holds no rows of a finished run: remove it together with {file.with_suffix('.run')}, and the same "
        "command makes both again."
    )


def _scaled_run(base: Any, plan: Plan, points: int, kept: Path) -> None:
    batch = round(plan.batch_size)
    run = replace(base, privacy=replace(base.privacy, epsilon=None, noise_multiplier=plan.noise_multiplier))
    made = make(replace(run, privacy=replace(run.privacy, expected_batch_size=batch, steps=plan.steps)))
    model: Any = made.model
    optimizer = optimizer_of(base.training, model)
    course = course_of(made, kept.with_suffix(".run"))
    assert course is not None, "scenes are public, and some are held out"
    rows: Rows = []

    def record(progress: train.Progress) -> None:
        point = {"batch size": batch, "noise multiplier": plan.noise_multiplier, "step": progress.step}
        rows.append({**point, "loss": progress.measured})
        log.info("batch %d, step %d of %d: loss %.4f", batch, progress.step, progress.total, progress.measured)

    train.Trainer(
        model=model,
        loss_fn=made.loss_fn,
        dataset=made.rows,
        plan=plan,
        out=kept.with_suffix(".run"),
        optimizer=optimizer,
        scheduler=train.warmup_cosine(optimizer, warmup_steps=plan.steps // 10, total_steps=plan.steps),
        micro_batch_size=min(base.training.micro_batch_size, batch),
        report_every=max(1, plan.steps // points),
        measure=course.measure,
        on_progress=record,
    ).fit()
    kept.parent.mkdir(parents=True, exist_ok=True)
    write_whole(kept, json.dumps(rows, indent=1) + "\n")


def plot_scaling(rows: Rows, path: Path) -> Path:
    """Draw held-out loss over steps, one line per batch size."""
    series = []
    for batch in sorted({row["batch size"] for row in rows}):
        own = [row for row in rows if row["batch size"] == batch]
        series.append(
            report.plots.Series(
                name=f"batch {batch}, noise {own[0]['noise multiplier']:g}",
                x=[row["step"] for row in own],
                y=[row["loss"] for row in own],
            )
        )
    chart = report.plots.Chart(
        title="Same noise on the mean, four batch sizes",
        x_label="step",
        y_label="held-out loss (nats per token)",
        description="Loss over steps at a fixed ratio of noise to batch size.",
    )
    return report.plots.save(chart, series, path)


def spread(rows: Rows) -> float:
    """Return the largest difference of the final losses between batch sizes: zero if scaling holds exactly."""
    last = max(row["step"] for row in rows)
    final = [row["loss"] for row in rows if row["step"] == last]
    return float(np.ptp(final))
