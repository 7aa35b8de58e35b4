"""`sfumato study NAME`: repeat a paper's experiment, as a table, a JSON file and a plot."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from rich.console import Console

from sfumato.base import BadInput, limits
from sfumato.base.files import write_whole
from sfumato.base.ranges import Whole, flag
from sfumato.cli._screen import say, screen, show

EXAMPLES = """
sfumato study accounting-grid
sfumato study batch-scaling
sfumato study batch-scaling --quick
sfumato study contrastive --jobs 2
sfumato study contrastive --data fashion-mnist --epsilons 8 --seeds 1
sfumato study vqa --jobs 2
"""


@dataclass(frozen=True, kw_only=True)
class StudyCommand:
    """Repeat an experiment on public data.

    accounting-grid (DP-Cap): epsilon over batch size and noise, no data. batch-scaling (DP-Cap): held-out loss of a
    captioner on procedural scenes at fixed noise-to-batch ratio, for four batch sizes. contrastive: without privacy,
    DP-CLIP, DP-GCL, Logit-DP and captioner side by side. batch-and-clip (DP-CLIP): privacy against utility over batch
    size and clip norm. vqa (DP-BLIP): answers on easy-vqa and scenes, from scratch and from a synthetic start. Finished
    parts are kept and not repeated.
    """

    study: Annotated[
        Literal["accounting-grid", "batch-scaling", "contrastive", "batch-and-clip", "vqa"], tyro.conf.Positional
    ]
    """Which experiment."""

    data: tuple[str, ...] | None = None
    """Of contrastive: fashion-mnist and emoji, or some of what sfumato train takes."""

    epsilons: Annotated[tuple[float, ...] | None, limits.EPSILON] = None
    """Of contrastive, batch-and-clip and vqa. Default: 1 3 8."""

    seeds: Annotated[int | None, Whole(1, 1000)] = None
    """Of contrastive and vqa: runs of each cell. Default: 3 and 1."""

    jobs: Annotated[int, limits.JOBS] = 1
    """Of contrastive, batch-and-clip and vqa: processes, one thread each."""

    out: Path = Path("runs/studies")
    """Folder for the figures."""

    quick: bool = False
    """A small version, in seconds."""


def run(command: StudyCommand) -> int:
    """Run the study, write its files, and show the table."""
    from sfumato.recipes.config import check_no_run
    from sfumato.report import tables

    _refuse_unread(command)
    out = command.out / (command.study + ("-quick" if command.quick else ""))
    check_no_run(out)
    console = screen()
    rows, shown, plots = _STUDIES[command.study](command, out, console)
    write_whole(out / "rows.json", json.dumps(rows, indent=1) + "\n")
    for title, some in shown.items():
        show(console, tables.table(some, title=title))
    say(console, f"{out / 'rows.json'}  {'  '.join(map(str, plots))}")
    return 0


def _refuse_unread(command: StudyCommand) -> None:
    """Raise BadInput for a flag that the study would ignore."""
    given = {"data": command.data, "epsilons": command.epsilons, "seeds": command.seeds}
    given["jobs"] = command.jobs if command.jobs != StudyCommand.jobs else None
    for name, value in given.items():
        if value is not None and name not in _READS[command.study]:
            raise BadInput(f"study {command.study} has no setting {flag(name)}: remove it.")


Rows = list[dict[str, Any]]
Shown = tuple[Rows, dict[str, Rows], list[Path]]  # what is kept, tables by title, plots


def _accounting_grid(command: StudyCommand, out: Path, console: Console) -> Shown:
    from sfumato.recipes import study

    sizes, noises = ((4096, 65536), (0.6, 1.2)) if command.quick else (_SIZES, _NOISES)
    rows = study.accounting_grid(233_804_767, sizes, noises, 5708, 1 / 233_804_767)
    return rows, {command.study: rows}, [study.plot_grid(rows, out / "plot.svg")]


def _batch_scaling(command: StudyCommand, out: Path, console: Console) -> Shown:
    from sfumato.recipes import study

    small = {"largest": 64, "steps": 6, "num_records": 2000, "points": 2, "factors": (1, 2)}
    rows = study.batch_scaling(out, **(small if command.quick else {}))
    last = max(row["step"] for row in rows)
    say(console, f"largest difference of the final losses: {study.spread(rows):.4f}")
    shown = {command.study: [row for row in rows if row["step"] == last]}
    return rows, shown, [study.plot_scaling(rows, out / "plot.svg")]


def _contrastive(command: StudyCommand, out: Path, console: Console) -> Shown:
    from sfumato.recipes import compare, compare_table

    data = command.data or (("emoji",) if command.quick else compare.DATA)
    cells = compare.compare(
        out,
        data=data,
        epsilons=command.epsilons or ((8.0,) if command.quick else compare.EPSILONS),
        seeds=command.seeds or (1 if command.quick else 3),
        scale=compare.QUICK if command.quick else compare.FULL,
        jobs=command.jobs,
        on_cell=_progress(console),
    )
    plots = [
        compare_table.plot(cells, spec, figure, out / f"{spec}-{figure}.svg")
        for spec in data
        for figure in ("zeroshot", "probe", "t2i_r10")
    ]
    return cells, {command.study: compare_table.rows(cells)}, plots


def _batch_and_clip(command: StudyCommand, out: Path, console: Console) -> Shown:
    from sfumato.recipes import compare, compare_table

    cells = compare.batch_and_clip(
        out,
        epsilons=command.epsilons or ((8.0,) if command.quick else compare.EPSILONS),
        scale=compare.QUICK if command.quick else compare.FULL,
        jobs=command.jobs,
        on_cell=_progress(console),
    )
    return cells, {command.study: compare_table.grid(cells)}, [compare_table.plot_grid(cells, out / "plot.svg")]


def _vqa(command: StudyCommand, out: Path, console: Console) -> Shown:
    from sfumato.recipes import vqa_start, vqa_study, vqa_table

    found = vqa_study.study(
        out,
        epsilons=command.epsilons or ((0.5,) if command.quick else vqa_study.EPSILONS),
        seeds=command.seeds or 1,
        scale=vqa_study.QUICK if command.quick else vqa_study.FULL,
        jobs=command.jobs,
        on_start=_start_progress(console),
        on_cell=_progress(console, "accuracy"),
    )
    shown = {spec: vqa_table.rows(found, spec) for spec in (vqa_start.EASY, vqa_start.SCENES)}
    plots = [vqa_table.plot(found, spec, out / f"{spec}.svg") for spec in shown]
    return [{"data": spec, **row} for spec, rows in shown.items() for row in rows], shown, plots


def _start_progress(console: Console) -> Callable[[int, int], None]:
    begun, first = time.monotonic(), [0]

    def tell(done: int, total: int) -> None:
        first[0] = first[0] or done - 1  # stages that are there are not trained again
        if done % 200 == 0:
            left = (time.monotonic() - begun) / (done - first[0]) * (total - done)
            say(console, f"start: step {done}/{total}  {left / 60:.0f} min left")

    return tell


def _progress(console: Console, figure_name: str = "zeroshot") -> Callable[[int, int, dict[str, Any]], None]:
    begun, first = time.monotonic(), [0]

    def tell(done: int, total: int, cell: dict[str, Any]) -> None:
        if time.monotonic() - begun < 5 and not first[0]:
            return  # kept ones are read at once: they say nothing about the pace
        first[0] = first[0] or done - 1
        left = (time.monotonic() - begun) / (done - first[0]) * (total - done)
        figure = cell["figures"][figure_name]
        told = "" if figure is None else f"  {figure_name} {100 * figure:.1f} %"
        say(
            console,
            f"{done}/{total}  {left / 60:.0f} min left  {cell['data']} {cell['method']} "
            f"epsilon {'none' if cell['epsilon'] is None else format(cell['epsilon'], 'g')}{told}",
        )

    return tell


_STUDIES: dict[str, Callable[[StudyCommand, Path, Console], Shown]] = {
    "accounting-grid": _accounting_grid,
    "batch-scaling": _batch_scaling,
    "contrastive": _contrastive,
    "batch-and-clip": _batch_and_clip,
    "vqa": _vqa,
}
_READS = {
    "accounting-grid": (),
    "batch-scaling": (),
    "contrastive": ("data", "epsilons", "seeds", "jobs"),
    "batch-and-clip": ("epsilons", "jobs"),
    "vqa": ("epsilons", "seeds", "jobs"),
}
_SIZES = (40_000, 160_000, 640_000, 1_310_720)
_NOISES = (0.5, 0.728, 1.18, 2.0)
