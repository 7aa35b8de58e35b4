"""One self-contained HTML page of a run: no script, no link to anywhere, every text escaped."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sfumato.base import checksums
from sfumato.base.files import write_whole
from sfumato.base.places import check_places
from sfumato.base.rounding import percent_at_most, upper
from sfumato.base.text import visible
from sfumato.report.card import charged_steps, recognised, sections
from sfumato.report.folder import RunFiles, read_run
from sfumato.report.metrics import Chapter, chapters
from sfumato.report.numbers import plain
from sfumato.report.plots import Chart, Series, svg

_PAGE = Path(__file__).parent / "page"
# What is shown of run.json, as (words, path to the value); a path to private pictures is not among them.
_SHOWN = (
    ("recipe", ("recipe",)),
    ("data", ("data", "spec")),
    ("model size", ("model", "size")),
    ("image size", ("model", "image_size")),
)
_MAX_PICTURES = 60


def write(run: Path) -> Path:
    """Write `export/report.html` of the run in folder `run` and return its path.

    Raises:
        BadInput: `run` is no run folder, links lead out of it, or one of its public files cannot be read; the message
            names the file.
    """
    check_places(run)
    page = render(read_run(run))
    path = run / "export" / "report.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    with checksums.replacing(path.parent, path.name):
        write_whole(path, page)
    return path


def render(files: RunFiles) -> str:
    """Return the page of a run whose files are read."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader(_PAGE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: visible(value, keep="\n") if type(value) is str else value,  # markup is our own
    )
    found = chapters(files.metrics)
    return environment.get_template("page.html").render(
        style=Markup((_PAGE / "style.css").read_text(encoding="utf-8")),
        name=files.name,
        about=_about(files.config),
        card=files.card,
        tiles=[] if files.card is None else _tiles(files.card),
        card_sections=[] if files.card is None else sections(files.card),
        epsilon_chart=Markup(_epsilon_chart(files)),
        chapters=[(chapter, Markup(_metric_chart(chapter, f"metric-{n}"))) for n, chapter in enumerate(found)],
        has_chance=any(line.chance is not None for chapter in found for line in chapter.lines),
        samples=files.samples[:_MAX_PICTURES],
        attention=files.attention[:_MAX_PICTURES],
        is_empty=not (files.card or files.progress or files.metrics or files.samples),
    )


def _about(config: Mapping[str, Any]) -> list[tuple[str, str]]:
    found = []
    for words, path in _SHOWN:
        value: Any = config
        for key in path:
            value = value.get(key) if isinstance(value, Mapping) else None
        # "/" or "\\" tells a path, which may name a clinic or a person
        if isinstance(value, str | int) and len(str(value)) <= 60 and not {"/", "\\"} & set(str(value)):
            found.append((words, plain(value)))
    return found


def _tiles(card: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the few figures at the head of the page; none that is not proved."""
    steps = ("steps charged", f"{charged_steps(card):,}")
    if card["stamps"]:
        return [steps]
    return [
        ("epsilon", upper(card["epsilon"])),
        ("delta", upper(card["delta"])),
        ("recognised, at most", percent_at_most(recognised(card))),
        steps,
    ]


def _epsilon_chart(files: RunFiles) -> str:
    if len(files.progress) < 2 or (files.card is not None and files.card["stamps"]):
        return ""
    steps, epsilons = zip(*files.progress)
    chart = Chart(
        title="Privacy spent",
        x_label="step",
        y_label="epsilon",
        description=f"Epsilon grows over the steps to {upper(epsilons[-1])} at step {steps[-1]}.",
        y_from_zero=True,
    )
    return svg(chart, [Series(name="epsilon", x=steps, y=epsilons)], key="epsilon")


def _metric_chart(chapter: Chapter, key: str) -> str:
    if not chapter.series:
        return ""
    ends = ", ".join(f"{line.name} {line.y[-1]:.3g}" for line in chapter.series)
    chart = Chart(
        title=chapter.title,
        x_label="step",
        y_label=f"{chapter.title} (%)" if chapter.is_share else chapter.title,
        description=f"{chapter.title} over the steps; last values: {ends}.",
    )
    return svg(chart, chapter.series, key=key)
