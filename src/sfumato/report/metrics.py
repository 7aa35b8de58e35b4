"""Measurements of a run, arranged for a reader: one chapter per metric, the run beside its baselines."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

from sfumato.report.numbers import can_be_drawn
from sfumato.report.plots import Series
from sfumato.report.tables import cell

Row = Mapping[str, Any]
_SYSTEM = ("features", "system", "model")  # the column that says what was measured, in the order of preference
_KNOWN = {"metric", "value", "spread", "low", "high", "n", "chance", "step", "unit", *_SYSTEM}


@dataclass(frozen=True, kw_only=True)
class Line:
    """One measured system: its name, its figure as text, its bar and the bar's mark of chance (0..1, None: no bar)."""

    system: str
    value: str
    share: float | None = None
    chance: float | None = None
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Chapter:
    """One metric: the latest figure of each system, and its course over the steps where there are several."""

    title: str
    lines: Sequence[Line]
    series: Sequence[Series] = ()
    is_share: bool = False


def chapters(rows: Sequence[Row]) -> list[Chapter]:
    """Return one chapter per metric, in the order of first appearance.

    A row is {"metric", "value"} with, where it has them, "features" (what was measured: the run or a baseline), "step",
    "spread" (half the width of an interval) or "low" and "high", "chance" (what guessing gets), "n" and "unit"; the
    unit "share" is shown in percent. Other columns become a note.
    """
    by_metric: dict[str, list[Row]] = {}
    for row in rows:
        if "value" in row:
            by_metric.setdefault(str(row.get("metric", "metric")), []).append(row)
    return [_chapter(title, found) for title, found in by_metric.items()]


def _system(row: Row) -> str:
    return next((str(row[name]) for name in _SYSTEM if row.get(name) is not None), "this run")


def _is_number(value: Any) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _chapter(title: str, rows: Sequence[Row]) -> Chapter:
    latest: dict[tuple[str, str], Row] = {}
    for row in sorted(rows, key=lambda row: row.get("step") or 0):
        latest[_system(row), _note(row)] = row
    order = dict.fromkeys((_system(row), _note(row)) for row in rows)
    numbers = [row["value"] for row in latest.values() if _is_number(row["value"])]
    full = max([1.0 if all(0 <= number <= 1 for number in numbers) else 0.0, *numbers], default=1.0)
    lines = [_line(key, latest[key], full) for key in order]
    return Chapter(title=title, lines=lines, series=_series(rows), is_share=all(_is_share(row) for row in rows))


def _line(key: tuple[str, str], row: Row, full: float) -> Line:
    value = row["value"]
    if not _is_number(value):
        return Line(system=key[0], value=cell(value), note=key[1])
    if full <= 0 or row.get("unit") not in (None, "share"):  # a bar would say that more is better
        return Line(system=key[0], value=_figure(row), note=key[1])
    chance = row.get("chance")
    return Line(
        system=key[0],
        value=_figure(row),
        share=max(0.0, value / full),
        chance=min(1.0, chance / full) if _is_number(chance) else None,
        note=key[1],
    )


def _figure(row: Row) -> str:
    if _is_share(row):
        show, end = lambda number: f"{100 * number:.1f}", " %"
    else:
        show, end = _decimal, f" {cell(row['unit'])}" if row.get("unit") else ""
    text = show(row["value"])
    if _is_number(row.get("spread")):
        text += f" ± {show(row['spread'])}"
    elif _is_number(row.get("low")) and _is_number(row.get("high")):
        text += f" ({show(row['low'])} to {show(row['high'])})"
    return text + end


def _decimal(number: float) -> str:
    return f"{number:.3f}" if isinstance(number, float) else cell(number)


def _is_share(row: Row) -> bool:
    return row.get("unit") == "share"


def _note(row: Row) -> str:
    return ", ".join(f"{name} {cell(value)}" for name, value in row.items() if name not in _KNOWN and cell(value))


def _series(rows: Sequence[Row]) -> list[Series]:
    """Return a line per system that was measured at two steps or more, and a dashed level for those without a step."""
    courses: dict[str, dict[float, float]] = {}
    levels: dict[str, float] = {}
    for row in rows:
        if not can_be_drawn(row["value"]):
            continue
        name = ", ".join(part for part in (_system(row), _note(row)) if part)
        value = 100 * row["value"] if _is_share(row) else row["value"]
        if can_be_drawn(row.get("step")):
            courses.setdefault(name, {})[row["step"]] = value
        else:
            levels[name] = value
    found = [
        Series(name=name, x=sorted(course), y=[course[step] for step in sorted(course)])
        for name, course in courses.items()
        if len(course) > 1
    ]
    if not found:
        return []
    ends = [min(line.x[0] for line in found), max(line.x[-1] for line in found)]
    return found + [Series(name=name, x=ends, y=[level] * 2, dashed=True) for name, level in levels.items()]
