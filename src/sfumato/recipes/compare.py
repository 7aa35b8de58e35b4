"""The methods beside one another on public data (`sfumato study contrastive`), in cells that are kept, never repeated.

A cell is a data set, a method, an epsilon and a seed: one run, trained and measured. Every method gets the same number
of tuning trials, on procedural scenes at one epsilon, and the best by zero-shot accuracy there is what it is compared
with; the data sets of the comparison are never tuned on. A cell is kept as one JSON file together with its settings: if
these change, it is made again.
"""

import logging
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from sfumato import evaluate
from sfumato.recipes import compare_figures, frozen
from sfumato.recipes.config import write_config
from sfumato.recipes.dp_cap import dp_cap
from sfumato.recipes.dp_clip import dp_clip, dp_gcl
from sfumato.recipes.execute import train_run, train_twin
from sfumato.recipes.kept import carried_out, keep, told
from sfumato.recipes.logit_dp import logit_dp
from sfumato.recipes.make import make
from sfumato.recipes.run import Run
from sfumato.recipes.trained import open_trained

log = logging.getLogger(__name__)

METHODS = ("non-private", "dp-clip", "dp-gcl", "logit-dp", "dp-cap")
EPSILONS = (1.0, 3.0, 8.0)
DATA = ("fashion-mnist", "emoji")
TUNED_ON, TUNED_AT = "shapes:60000", 3.0
BASELINE = "untrained"
_PUBLIC_SEED = 20_000  # of noise and draws: these are public data, and a figure should be repeatable
Settings = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How much is spent on a cell.

    Attributes:
        steps, batch: of the runs; pairs take a quarter of the batch, as their step costs more.
        micro_batch: rows of one pass; None: the recipe's.
        train_limit, limit: pictures that features are fitted on and reported on.
        tuned_on: data of the tuning runs.
        trials: of each method, the first of its list.
        pretrained: towers of emoji start from EfficientNet-Lite0 and MiniLM, of which heads train; else at random.
    """

    steps: int = 80
    batch: int = 1024
    micro_batch: int | None = None
    train_limit: int = 10_000
    limit: int = 2_000
    tuned_on: str = TUNED_ON
    trials: int = 4
    pretrained: bool = True


FULL = Scale()
QUICK = Scale(
    steps=2, batch=16, micro_batch=8, train_limit=60, limit=40, tuned_on="shapes:600", trials=1, pretrained=False
)

TRIALS: dict[str, tuple[Settings, ...]] = {
    "non-private": tuple({"learning_rate": rate} for rate in (1e-3, 2e-3, 5e-3, 1e-2)),
    "dp-clip": tuple({"learning_rate": rate, "temperature": tau} for rate in (2e-3, 5e-3) for tau in (0.1, 0.3)),
    "dp-gcl": tuple({"learning_rate": rate, "group_size": size} for rate in (2e-3, 5e-3) for size in (4.0, 16.0)),
    "logit-dp": tuple({"learning_rate": rate, "temperature": tau} for rate in (2e-3, 5e-3) for tau in (0.5, 1.0)),
    "dp-cap": tuple({"learning_rate": rate} for rate in (2e-3, 4e-3, 8e-3, 1.6e-2)),
}


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One run of a comparison. `epsilon` None: without privacy; `trial`: a tuning run's number; `batch` and `clip_norm`
    where they are what is compared.
    """

    data: str
    method: str
    epsilon: float | None
    seed: int = 0
    trial: int | None = None
    batch: int | None = None
    clip_norm: float | None = None

    @property
    def name(self) -> str:
        """The file name of the cell.

        >>> Cell(data="emoji", method="dp-gcl", epsilon=3.0, seed=1).name
        'emoji_dp-gcl_eps3_seed1'
        """
        epsilon = "none" if self.epsilon is None else f"{self.epsilon:g}"
        which = f"seed{self.seed}" if self.trial is None else f"trial{self.trial}"
        which += "" if self.batch is None else f"_batch{self.batch}_clip{self.clip_norm:g}"
        return f"{self.data.partition(':')[0]}_{self.method}_eps{epsilon}_{which}"


def cells(data: Sequence[str] = DATA, epsilons: Sequence[float] = EPSILONS, seeds: int = 3) -> list[Cell]:
    """Return the cells of the comparison, first seeds first."""
    found = []
    for seed in range(seeds):
        for spec in data:
            if seed == 0:
                found.append(Cell(data=spec, method=BASELINE, epsilon=None))
            found.append(Cell(data=spec, method="non-private", epsilon=None, seed=seed))
            found += [
                Cell(data=spec, method=method, epsilon=epsilon, seed=seed)
                for epsilon in epsilons
                for method in METHODS[1:]
            ]
    return found


def trials(count: int, tuned_on: str = TUNED_ON) -> list[Cell]:
    """Return the tuning runs: `count` for each method."""
    return [
        Cell(data=tuned_on, method=method, epsilon=None if method == "non-private" else TUNED_AT, trial=number)
        for method, settings in TRIALS.items()
        for number in range(min(count, len(settings)))
    ]


def settings_of(cell: Cell, best: dict[str, int]) -> Settings:
    """Return the tuned settings of a cell's method, or those of its own trial; none for what is not tuned."""
    if cell.trial is None and cell.method not in best:
        return {}
    return TRIALS[cell.method][cell.trial if cell.trial is not None else best[cell.method]]


def run_of(cell: Cell, settings: Settings, scale: Scale, out: Path) -> Run:
    """Return the run of a cell: the recipe at the comparison's size, with the method's settings."""
    recipes: dict[str, Callable[[], Run]] = {
        "non-private": lambda: dp_gcl(cell.data, out),
        BASELINE: lambda: dp_gcl(cell.data, out),
        "dp-clip": lambda: dp_clip(cell.data, out),
        "dp-gcl": lambda: dp_gcl(cell.data, out),
        "logit-dp": lambda: logit_dp(cell.data, out, "captions"),
        "dp-cap": lambda: dp_cap(cell.data, out),
    }
    run = recipes[cell.method]()
    of_pairs = cell.method == "logit-dp"
    privacy = replace(
        run.privacy,
        epsilon=8.0 if cell.epsilon is None else cell.epsilon,
        steps=scale.steps,
        expected_batch_size=cell.batch,
        usual_batch_size=scale.batch // 4 if of_pairs else scale.batch,
        clip_norm=cell.clip_norm or run.privacy.clip_norm,
        group_size=settings.get("group_size", run.privacy.group_size),
    )
    model = replace(run.model, seed=cell.seed, embed_dim=8 if of_pairs else run.model.embed_dim)
    if cell.data == "emoji" and cell.method != "dp-cap" and scale.pretrained:
        model = replace(model, size=None, init="lit", train="heads", image_size=224, channels=3)
        model = replace(model, embed_dim=16 if of_pairs else None)
    if cell.method == "dp-cap":
        model = replace(model, size="pico")
    training = replace(
        run.training,
        learning_rate=settings.get("learning_rate", run.training.learning_rate),
        micro_batch_size=scale.micro_batch or run.training.micro_batch_size,
    )
    return replace(
        run,
        private=cell.epsilon is not None,
        model=model,
        privacy=privacy,
        loss=replace(run.loss, temperature=settings.get("temperature", run.loss.temperature)),
        training=training,
    )


def make_cell(cell: Cell, settings: Settings, scale: Scale, kept: Path) -> dict[str, Any]:
    """Train and measure one cell, or read it where it is kept with these settings.

    Args:
        cell: which.
        settings: of its method.
        scale: how much is spent.
        kept: folder of the cells' files.
    """
    settings_told = {**told(run_of(cell, settings, scale, Path("x"))), "scale": asdict(scale)}

    def make_it() -> dict[str, Any]:
        with tempfile.TemporaryDirectory(prefix="sfumato-cell-") as folder:
            return {
                **asdict(cell),
                "figures": _figures(cell, run_of(cell, settings, scale, Path(folder) / "run"), scale),
            }

    return keep(kept / f"{cell.name}.json", settings_told, make_it)


def _figures(cell: Cell, run: Run, scale: Scale) -> dict[str, float | None]:
    """Train a run and return its figures; what a model cannot be asked is None."""
    made = make(run)
    if cell.method == BASELINE:
        made.export(run.out / "export")
        write_config(run)
    elif run.private:
        train_run(run, made=made, seed=_PUBLIC_SEED + cell.seed)
    else:
        train_twin(run, made=made)
    trained = open_trained(run.out)
    subject = trained.subject(made.sets)
    asked = [name for name in ("zeroshot", "retrieval") if name in evaluate.suites_for(subject)]
    test = compare_figures.held_out(made.sets)
    found = evaluate.run_suite(
        subject, trained.preprocess, made.sets.train, test, suites=asked, limit=scale.limit, seed=0
    )["suites"]
    of_features = (
        {}
        if cell.trial is not None
        else compare_figures.of_features(
            subject, trained.preprocess, made.sets, train_limit=scale.train_limit, limit=scale.limit
        )
    )
    return {**of_features, **compare_figures.of_texts(found)}


def best_trials(found: Iterable[dict[str, Any]]) -> dict[str, int]:
    """Return each method's best trial: the highest zero-shot accuracy on scenes, the first of equals."""
    best: dict[str, tuple[float, int]] = {}
    for cell in found:
        score = cell["figures"]["zeroshot"]
        if cell["method"] not in best or score > best[cell["method"]][0]:
            best[cell["method"]] = (score, cell["trial"])
    return {method: trial for method, (_, trial) in best.items()}


def compare(
    out: Path,
    *,
    data: Sequence[str] = DATA,
    epsilons: Sequence[float] = EPSILONS,
    seeds: int = 3,
    scale: Scale = FULL,
    jobs: int = 1,
    on_cell: Callable[[int, int, dict[str, Any]], None] | None = None,
) -> list[dict[str, Any]]:
    """Make all cells that are not kept yet, tuning runs first, and return those of the comparison.

    Args:
        out: folder; cells are kept in out/cells.
        data, epsilons, seeds: what is compared.
        scale: how much is spent on a cell.
        jobs: processes, one thread each.
        on_cell: called with (cells done, cells in all, the cell) as each is done.
    """
    kept = out / "cells"
    tuning, compared = trials(scale.trials, scale.tuned_on), cells(data, epsilons, seeds)
    total, done = len(tuning) + len(compared), 0

    def carry_out(work: list[Cell], best: dict[str, int]) -> list[dict[str, Any]]:
        nonlocal done
        found = {}
        for cell, result in _in_processes(work, best, scale, kept, jobs):
            found[cell] = result
            done += 1
            if on_cell is not None:
                on_cell(done, total, result)
        return [found[cell] for cell in work]

    best = best_trials(carry_out(tuning, {}))
    return carry_out(compared, best)


def batch_and_clip(
    out: Path,
    *,
    data: str = DATA[0],
    epsilons: Sequence[float] = EPSILONS,
    clip_norms: Sequence[float] = (0.1, 1.0, 10.0),
    scale: Scale = FULL,
    jobs: int = 1,
    on_cell: Callable[[int, int, dict[str, Any]], None] | None = None,
) -> list[dict[str, Any]]:
    """Return the cells of DP-CLIP over epsilon, batch size and clip norm (the second experiment of its paper)."""
    work = [
        Cell(data=data, method="dp-clip", epsilon=epsilon, batch=batch, clip_norm=clip_norm)
        for batch in (scale.batch // 8, scale.batch // 2, scale.batch * 2)
        for clip_norm in clip_norms
        for epsilon in epsilons
    ]
    found = {}
    for done, (cell, result) in enumerate(_in_processes(work, {}, scale, out / "cells", jobs), 1):
        found[cell] = result
        if on_cell is not None:
            on_cell(done, len(work), result)
    return [found[cell] for cell in work]


def _in_processes(
    work: list[Cell], best: dict[str, int], scale: Scale, kept: Path, jobs: int
) -> Iterable[tuple[Cell, dict[str, Any]]]:
    if jobs > 1:
        _warm([cell for cell in work if not (kept / f"{cell.name}.json").is_file()], scale)
    make = partial(_made, best=best, scale=scale, kept=kept)
    yield from carried_out(work, make, jobs=jobs, begin=_begin, shared=(frozen.known(),) if jobs > 1 else ())


def _made(cell: Cell, *, best: dict[str, int], scale: Scale, kept: Path) -> dict[str, Any]:
    return make_cell(cell, settings_of(cell, best), scale, kept)


def _warm(work: Sequence[Cell], scale: Scale) -> None:
    """Compute the features of pretrained towers once, for all processes: they are most of such a cell's time."""
    heads = [cell for cell in work if cell.data == "emoji" and cell.method != "dp-cap"]
    if heads and scale.pretrained:
        make(run_of(replace(heads[0], method=BASELINE, epsilon=None), {}, scale, Path("x")))


def _begin(features: dict[bytes, torch.Tensor]) -> None:
    torch.set_num_threads(1)
    logging.getLogger("sfumato").setLevel(logging.WARNING)
    frozen.know(features)
