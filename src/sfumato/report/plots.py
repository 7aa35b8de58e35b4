"""Line charts as inline SVG that follows the page's colours, or as a file. Matplotlib is imported on first use."""

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path
from typing import Any

from sfumato.base import BadInput
from sfumato.base.text import visible

# Matplotlib wants concrete colours; these stand for "the ink of the page" and are replaced in the SVG's text.
_INK = "#010203"
_FAINT = "#040506"
# Okabe and Ito's palette: told apart by readers with any colour vision, readable on white and on near-black.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
_FEW_TICKS = 6
_MARKERS = ("o", "s", "^", "D", "v", "P")


@dataclass(frozen=True, kw_only=True)
class Series:
    """One line: `x` and `y` of equal length; `spread` is half the height of an error bar; `dashed` for a baseline."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    spread: Sequence[float] | None = None
    dashed: bool = False

    def __post_init__(self) -> None:
        if len(self.x) != len(self.y) or (self.spread is not None and len(self.spread) != len(self.y)):
            raise BadInput(f"series {self.name!r} has {len(self.x)} x and {len(self.y)} y values.")


@dataclass(frozen=True, kw_only=True)
class Chart:
    """Words and scales of a line chart. `description` is what a screen reader says."""

    title: str
    x_label: str
    y_label: str
    description: str
    x_log: bool = False
    y_log: bool = False
    y_from_zero: bool = False
    width: float = 8.0
    height: float = 3.2


def _draw(chart: Chart, series: Sequence[Series], ink: str, faint: str):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(chart.width, chart.height), layout="constrained")
    axes = figure.subplots()
    for index, line in enumerate(series):
        few = len(line.x) <= 30
        axes.errorbar(
            line.x,
            line.y,
            yerr=line.spread,
            label=line.name,
            color=_COLOURS[index % len(_COLOURS)],
            linestyle="--" if line.dashed else "-",
            marker=_MARKERS[index % len(_MARKERS)] if few and not line.dashed else None,
            markersize=4.5,
            linewidth=1.8,
            capsize=3,
        )
    axes.set_xlabel(chart.x_label, color=ink)
    axes.set_ylabel(chart.y_label, color=ink)
    axes.set_xscale("log" if chart.x_log else "linear")
    axes.set_yscale("log" if chart.y_log else "linear")
    measured = sorted({x for line in series for x in line.x})
    if chart.x_log and len(measured) <= _FEW_TICKS:  # the values themselves say more than powers of ten
        axes.set_xticks(measured, [f"{x:,g}" for x in measured])
        axes.set_xticks([], minor=True)
    if chart.y_from_zero:
        axes.set_ylim(bottom=0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(faint)
    axes.tick_params(which="both", color=faint, labelcolor=ink)
    axes.grid(visible=True, color=faint, linewidth=0.5, alpha=0.5)
    if len(series) > 1:
        figure.legend(loc="outside lower center", ncols=min(4, len(series)), frameon=False, labelcolor=ink)
    return figure


def _visible(chart: Chart, series: Sequence[Series]) -> tuple[Chart, list[Series]]:
    texts = {name: visible(getattr(chart, name)) for name in ("title", "x_label", "y_label", "description")}
    return replace(chart, **texts), [replace(one, name=visible(one.name)) for one in series]


def svg(chart: Chart, series: Sequence[Series], key: str = "chart") -> str:
    """Return the chart as an SVG element to put into a page: text stays text, its ink is the page's `currentColor`.

    `key` prefixes every id, so that several charts fit on one page. Equal input gives equal text.
    """
    import matplotlib

    chart, series = _visible(chart, series)
    buffer = io.StringIO()
    metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    settings: Any = {"svg.fonttype": "none", "svg.hashsalt": key, "font.size": 10.0, "text.parse_math": False}
    with matplotlib.rc_context(settings):
        figure = _draw(chart, series, _INK, _FAINT)
        figure.savefig(buffer, format="svg", metadata=metadata, transparent=True)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = text.replace(_INK, "currentColor").replace(_FAINT, "var(--faint, #888)")
    text = re.sub(r"<style.*?</style>", "", text, flags=re.DOTALL)  # it would style the whole page
    text = re.sub(r"font-family: [^;\"]*", "font-family: var(--sans, sans-serif)", text)
    text = re.sub(r'\bid="', f'id="{key}-', text)
    text = re.sub(r'(href="#|url\(#)', rf"\g<1>{key}-", text)
    label = f'<svg role="img" aria-label="{escape(chart.description)}" stroke-linejoin="round" '
    return text.replace("<svg ", label, 1)


def save(chart: Chart, series: Sequence[Series], path: Path) -> Path:
    """Write the chart, with its title, black on white, as the kind of file that `path` ends in (.svg, .png, .pdf)."""
    import matplotlib

    chart, series = _visible(chart, series)
    path.parent.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context({"text.parse_math": False}):
        figure = _draw(chart, series, "black", "#888888")
        figure.axes[0].set_title(chart.title, loc="left")
        figure.savefig(path, dpi=160, facecolor="white")
    return path
