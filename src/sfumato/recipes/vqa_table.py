"""What the study of visual questions shows: a row per data set, method and epsilon, and accuracy over epsilon."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sfumato import report
from sfumato.recipes.compare_table import line, spread
from sfumato.recipes.vqa_study import ALONE


def rows(found: Sequence[dict[str, Any]], spec: str) -> list[dict[str, Any]]:
    """Return a row for what needs no picture, and each method and epsilon: percent over seeds, by type of question."""
    own = [cell for cell in found if cell["data"] == spec]
    kinds = list(dict.fromkeys(name for cell in own for name in cell["figures"] if name not in ("low", "high")))
    shown = [_row(title, None, [figures], kinds) for title, figures in own[0]["blind"].items()]
    for method, epsilon in dict.fromkeys((cell["method"], cell["epsilon"]) for cell in own):
        shown.append(_row(method, epsilon, _figures(own, method, epsilon), kinds))
    return shown


def _row(method: str, epsilon: float | None, figures: list[dict[str, float]], kinds: list[str]) -> dict[str, Any]:
    values = {kind: spread([own[kind] for own in figures if kind in own]) for kind in kinds}
    return {"method": method, "epsilon": "none" if epsilon is None else f"{epsilon:g}", **values}


def _figures(cells: Sequence[dict[str, Any]], method: str, epsilon: float | None) -> list[dict[str, float]]:
    return [cell["figures"] for cell in cells if (cell["method"], cell["epsilon"]) == (method, epsilon)]


def plot(found: Sequence[dict[str, Any]], spec: str, path: Path) -> Path:
    """Draw accuracy over epsilon for each method; what has no epsilon is a dashed line across."""
    own = [cell for cell in found if cell["data"] == spec]
    epsilons = sorted({cell["epsilon"] for cell in own if cell["epsilon"] is not None})

    def across(name: str, values: list[float]) -> report.plots.Series:
        return line(name, epsilons, [values] * len(epsilons), across=True)

    series = []
    for method in dict.fromkeys(cell["method"] for cell in own):
        if method != ALONE:
            series.append(line(method, epsilons, [_accuracies(own, method, epsilon) for epsilon in epsilons]))
        series.append(across(method if method == ALONE else f"{method}, no privacy", _accuracies(own, method, None)))
    series.append(across("question only", [100 * own[0]["blind"]["question only"]["accuracy"]]))
    chart = report.plots.Chart(
        title=f"Answers on {spec}",
        x_label="epsilon",
        y_label="accuracy, %",
        description=f"Accuracy of answers on {spec} over epsilon, beside models without privacy and without pictures.",
        x_log=True,
    )
    return report.plots.save(chart, series, path)


def _accuracies(cells: Sequence[dict[str, Any]], method: str, epsilon: float | None) -> list[float]:
    return [100 * own["accuracy"] for own in _figures(cells, method, epsilon)]
