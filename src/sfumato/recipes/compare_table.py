"""What the comparison shows: a row per data set, method and epsilon, and a plot of privacy against utility."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sfumato import report

FIGURES = {
    "knn": "kNN",
    "probe": "probe",
    "zeroshot": "zero-shot",
    "i2t_r1": "image to text R@1",
    "i2t_r10": "R@10",
    "t2i_r1": "text to image R@1",
    "t2i_r10": "R@10 ",
}
Cells = Sequence[dict[str, Any]]


def rows(cells: Cells) -> list[dict[str, Any]]:
    """Return mean and standard deviation over seeds of every figure, in percent; "n/a" where it is not defined."""
    keys = list(dict.fromkeys((cell["data"], cell["method"], cell["epsilon"]) for cell in cells))
    return [
        {
            "data": data,
            "method": method,
            "epsilon": "none" if epsilon is None else f"{epsilon:g}",
            **{title: spread(_values(cells, (data, method, epsilon), name)) for name, title in FIGURES.items()},
        }
        for data, method, epsilon in keys
    ]


def _values(cells: Cells, key: tuple[str, str, float | None], figure: str) -> list[float]:
    found = [cell["figures"][figure] for cell in cells if (cell["data"], cell["method"], cell["epsilon"]) == key]
    return [value for value in found if value is not None]


def spread(values: Sequence[float]) -> str:
    """Return mean and standard deviation of shares in percent; "n/a" where there is none."""
    if not values:
        return "n/a"
    mean = f"{100 * float(np.mean(values)):.1f}"
    return mean if len(values) == 1 else f"{mean} +- {100 * float(np.std(values, ddof=1)):.1f}"


def plot(cells: Cells, data: str, figure: str, path: Path) -> Path:
    """Draw a figure over epsilon, a line per private method; what has no epsilon is a dashed line across."""
    own = [cell for cell in cells if cell["data"] == data and cell["figures"][figure] is not None]
    epsilons = sorted({cell["epsilon"] for cell in own if cell["epsilon"] is not None})
    series = []
    for method in dict.fromkeys(cell["method"] for cell in own):
        private = any(cell["epsilon"] is not None for cell in own if cell["method"] == method)
        values = [
            [100 * v for v in _values(own, (data, method, epsilon if private else None), figure)]
            for epsilon in epsilons
        ]
        series.append(line(method, epsilons, values, across=not private))
    chart = report.plots.Chart(
        title=f"{FIGURES[figure].strip()} on {data}",
        x_label="epsilon",
        y_label="%",
        description=f"{FIGURES[figure].strip()} of each method on {data} over epsilon; error bars over seeds.",
        x_log=True,
    )
    return report.plots.save(chart, series, path)


def line(name: str, epsilons: list[float], values: list[list[float]], *, across: bool = False) -> report.plots.Series:
    """Return a line of means over epsilon with error bars over seeds; `across` is dashed, for what has no epsilon."""
    spreads = None if across else [float(np.std(v, ddof=1)) if len(v) > 1 else 0.0 for v in values]
    means = [float(np.mean(v)) for v in values]
    return report.plots.Series(name=name, x=epsilons, y=means, spread=spreads, dashed=across)


def grid(cells: Cells) -> list[dict[str, Any]]:
    """Return a row per batch size and clip norm with zero-shot accuracy in percent at each epsilon."""
    keys = list(dict.fromkeys((cell["batch"], cell["clip_norm"]) for cell in cells))
    return [
        {
            "batch": batch,
            "clip norm": clip_norm,
            **{
                f"epsilon {cell['epsilon']:g}": f"{100 * cell['figures']['zeroshot']:.1f}"
                for cell in cells
                if (cell["batch"], cell["clip_norm"]) == (batch, clip_norm)
            },
        }
        for batch, clip_norm in keys
    ]


def plot_grid(cells: Cells, path: Path) -> Path:
    """Draw zero-shot accuracy over epsilon, a line per batch size and clip norm."""
    series = []
    for batch, clip_norm in dict.fromkeys((cell["batch"], cell["clip_norm"]) for cell in cells):
        own = [cell for cell in cells if (cell["batch"], cell["clip_norm"]) == (batch, clip_norm)]
        series.append(
            report.plots.Series(
                name=f"batch {batch}, clip {clip_norm:g}",
                x=[cell["epsilon"] for cell in own],
                y=[100 * cell["figures"]["zeroshot"] for cell in own],
            )
        )
    chart = report.plots.Chart(
        title=f"DP-CLIP on {cells[0]['data']}: privacy against utility",
        x_label="epsilon",
        y_label="zero-shot, %",
        description="Zero-shot accuracy over epsilon for several batch sizes and clip norms.",
        x_log=True,
    )
    return report.plots.save(chart, series, path)
