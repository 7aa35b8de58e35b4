"""What the study of visual questions shows: a row per data set, method and epsilon, and accuracy over epsilon."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sfumato import report
from sfumato.recipes.vqa_study import ALONE


def rows(found: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return a row for each data set, method and epsilon: accuracy in percent over seeds, and by type of question."""
    shown = []
    for spec in dict.fromkeys(cell["data"] for cell in found):
        own = [cell for cell in found if cell["data"] == spec]
        kinds = list(dict.fromkeys(name for cell in own for name in cell["figures"] if name not in ("low", "high")))
        for title in own[0]["blind"]:
            shown.append(_row(spec, title, "none", [own[0]["blind"][title]], kinds))
        for method, epsilon in dict.fromkeys((cell["method"], cell["epsilon"]) for cell in own):
            same = [cell["figures"] for cell in own if (cell["method"], cell["epsilon"]) == (method, epsilon)]
            shown.append(_row(spec, method, "none" if epsilon is None else f"{epsilon:g}", same, kinds))
    return shown


def _row(spec: str, method: str, epsilon: str, figures: list[dict[str, float]], kinds: list[str]) -> dict[str, Any]:
    values = {kind: [100 * own.get(kind, float("nan")) for own in figures] for kind in kinds}
    spread = {kind: "" if len(v) == 1 else f" +- {np.std(v, ddof=1):.1f}" for kind, v in values.items()}
    return {"data": spec, "method": method, "epsilon": epsilon} | {
        kind: f"{np.mean(v):.1f}{spread[kind]}" for kind, v in values.items()
    }


def plot(found: Sequence[dict[str, Any]], spec: str, path: Path) -> Path:
    """Draw accuracy over epsilon for each method; what has no epsilon is a dashed line across."""
    own = [cell for cell in found if cell["data"] == spec]
    epsilons = sorted({cell["epsilon"] for cell in own if cell["epsilon"] is not None})

    def mean(method: str, epsilon: float | None) -> float:
        values = [c["figures"]["accuracy"] for c in own if (c["method"], c["epsilon"]) == (method, epsilon)]
        return 100 * float(np.mean(values))

    series = []
    for method in dict.fromkeys(cell["method"] for cell in own):
        if method != ALONE:
            private = [mean(method, epsilon) for epsilon in epsilons]
            series.append(report.plots.Series(name=method, x=epsilons, y=private))
        twin = method if method == ALONE else f"{method}, no privacy"
        series.append(_across(twin, epsilons, mean(method, None)))
    series.append(_across("question only", epsilons, 100 * own[0]["blind"]["question only"]["accuracy"]))
    chart = report.plots.Chart(
        title=f"Answers on {spec}",
        x_label="epsilon",
        y_label="accuracy, %",
        description=f"Accuracy of answers on {spec} over epsilon, beside models without privacy and without pictures.",
        x_log=True,
    )
    return report.plots.save(chart, series, path)


def _across(name: str, epsilons: list[float], value: float) -> Any:
    return report.plots.Series(name=name, x=epsilons, y=[value] * len(epsilons), dashed=True)
