"""What privacy costs a model that answers questions (`sfumato study vqa`): easy-vqa and questions about scenes.

A small BLIP from scratch, and one that was trained on public scenes before (which share no question template with
easy-vqa): alone, fine-tuned without privacy, and at several epsilons, beside what needs no picture. Settings are
the recipe's, and not tuned yet.
"""

import logging
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sfumato import data, evaluate, report
from sfumato.recipes.answering import start_answering
from sfumato.recipes.dp_vqa import dp_vqa
from sfumato.recipes.execute import train_run, train_twin
from sfumato.recipes.kept import carried_out, keep, told, unusual
from sfumato.recipes.make import make
from sfumato.recipes.run import Run
from sfumato.recipes.trained import open_trained

SCENES, EASY = "shape-questions", "easy-vqa"
SCRATCH, START, ALONE = "from scratch", "synthetic start", "start alone"
EPSILONS = (1.0, 3.0, 8.0)
_PUBLIC_SEED = 30_000  # of noise and draws: these are public data, and a figure should be repeatable
_SPELT = 4_000  # questions of easy-vqa whose words the vocabulary has: all of its templates and answers
_BLIND = {"majority": "majority answer", "majority_of_kind": "majority of the type", "question_only": "question only"}


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A part of the start's training: kinds of question (() is all) and steps."""

    kinds: tuple[str, ...]
    steps: int


# All kinds at once, a small model stays at guessing yes or no. By itself, whether a colour is there it learns in
# minutes; after that what "missing" turns round, and then shapes.
_COLOURS = ("color", "has color")
_COURSE = (
    Stage(kinds=_COLOURS, steps=500),
    Stage(kinds=(*_COLOURS, "lacks color"), steps=400),
    Stage(kinds=("shape", *_COLOURS, "lacks color"), steps=1200),
    Stage(kinds=("shape", "has shape", "lacks shape", *_COLOURS, "lacks color"), steps=1000),
    Stage(kinds=(), steps=800),
)


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How much is spent.

    Attributes:
        scenes, stages, start_batch: public scenes that the start is trained on, in stages, and questions in a step.
        steps, batch: of each run, in records.
        limit: test questions.
    """

    scenes: int = 40_000
    stages: tuple[Stage, ...] = _COURSE
    start_batch: int = 64
    steps: int = 60
    batch: int = 1_000
    limit: int = 2_000


FULL = Scale()
_TWO = (Stage(kinds=_COLOURS, steps=2), Stage(kinds=(), steps=2))
QUICK = Scale(scenes=300, stages=_TWO, start_batch=16, steps=4, batch=16, limit=40)


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One run: `epsilon` None is without privacy, or the start alone, which is not trained."""

    data: str
    method: str
    epsilon: float | None
    seed: int = 0

    @property
    def name(self) -> str:
        """The file name of the cell.

        >>> Cell(data="easy-vqa", method="synthetic start", epsilon=3.0).name
        'easy-vqa_synthetic-start_eps3_seed0'
        """
        epsilon = "none" if self.epsilon is None else f"{self.epsilon:g}"
        return f"{self.data}_{self.method.replace(' ', '-')}_eps{epsilon}_seed{self.seed}"


def cells(epsilons: Sequence[float] = EPSILONS, seeds: int = 1) -> list[Cell]:
    """Return the cells of the study, first seeds first."""
    found = []
    for seed in range(seeds):
        if seed == 0:
            found.append(Cell(data=EASY, method=ALONE, epsilon=None))
        for spec, method in ((EASY, START), (EASY, SCRATCH), (SCENES, SCRATCH)):
            found += [Cell(data=spec, method=method, epsilon=epsilon, seed=seed) for epsilon in (None, *epsilons)]
    return found


def start_of(number: int, scale: Scale, words: Path, start: Path) -> Run:
    """Return the run of a stage of the start, in start/number: public scenes, no privacy, on from the one before."""
    stage, last = scale.stages[number], number == len(scale.stages) - 1
    before = str(start / str(number - 1)) if number else None
    run = dp_vqa(f"{SCENES}:{scale.scenes}", start / str(number), before)
    usual = dp_vqa(SCENES)
    model = replace(run.model, size=usual.model.size, public_text=str(words)) if before is None else run.model
    return replace(
        run,
        private=False,
        data=replace(usual.data, spec=run.data.spec, kinds=stage.kinds),
        model=replace(model, image_size=usual.model.image_size),
        asking=usual.asking,
        privacy=replace(usual.privacy, steps=stage.steps, expected_batch_size=scale.start_batch, views=1),
        training=replace(
            usual.training,
            learning_rate=1e-3,
            beta2=0.99,
            warmup_steps=min(100, stage.steps),
            final_rate=0.05 if last else 1.0,
            micro_batch_size=scale.start_batch,
        ),
    )


def run_of(cell: Cell, scale: Scale, words: Path, start: Path, out: Path) -> Run:
    """Return the run of a cell."""
    spec = cell.data if cell.data == EASY else f"{SCENES}:{scale.scenes}"
    run = dp_vqa(spec, out, str(start) if cell.method != SCRATCH else None)
    usual = dp_vqa(EASY)
    model = replace(run.model, seed=cell.seed, image_size=usual.model.image_size)
    if cell.method == SCRATCH:
        model = replace(model, size=usual.model.size, public_text=str(words))
    of_start = cell.method != SCRATCH
    return replace(
        run,
        private=cell.epsilon is not None,
        model=model,
        asking=usual.asking,
        privacy=replace(
            usual.privacy, epsilon=cell.epsilon or 8.0, steps=scale.steps, expected_batch_size=scale.batch, views=1
        ),
        training=replace(
            usual.training,
            learning_rate=_START_RATE if of_start else usual.training.learning_rate,
            micro_batch_size=min(usual.training.micro_batch_size, scale.batch),
        ),
    )


_START_RATE = 5e-4


def study(
    out: Path,
    *,
    epsilons: Sequence[float] = EPSILONS,
    seeds: int = 1,
    scale: Scale = FULL,
    jobs: int = 1,
    on_cell: Callable[[int, int, dict[str, Any]], None] | None = None,
) -> list[dict[str, Any]]:
    """Make the start and all cells that are not kept yet, and return the cells.

    Args:
        out: folder; cells are kept in out/cells, the start in out/start.
        epsilons, seeds: what is compared.
        scale: how much is spent.
        jobs: processes, one thread each.
        on_cell: called with (cells done, cells in all, the cell) as each is done.
    """
    work = cells(epsilons, seeds)
    words = out / "words.txt"
    words.parent.mkdir(parents=True, exist_ok=True)
    words.write_text("\n".join(public_words()) + "\n", encoding="utf-8")
    if not all((out / "cells" / f"{cell.name}.json").is_file() for cell in work):
        make_start(scale, words, out / "start")
    found = {}
    make_one = partial(make_cell, scale=scale, words=words, out=out)
    for done, (cell, result) in enumerate(carried_out(work, make_one, jobs=jobs, begin=_begin), 1):
        found[cell] = result
        if on_cell is not None:
            on_cell(done, len(work), result)
    return [found[cell] for cell in work]


def public_words() -> list[str]:
    """Return the words of both public data sets, so that one vocabulary spells them."""
    easy = data.easy_vqa("train")
    asked = [easy.asked(row) for row in range(min(_SPELT, len(easy)))]
    texts = (text for question in asked for text in (question.question, *question.answers))
    return [*data.asked_vocabulary(), *dict.fromkeys(word for text in texts for word in text.split())]


def make_start(scale: Scale, words: Path, start: Path) -> None:
    """Train the start, stage by stage, but for those that are there with these settings."""
    for number in range(len(scale.stages)):
        run = start_of(number, scale, words, start)

        def train(run: Run = run) -> dict[str, Any]:
            train_twin(run)
            return {}

        if not (run.out / "export").is_dir():
            (run.out / "kept.json").unlink(missing_ok=True)
        keep(run.out / "kept.json", told(run) | _told_of_start(scale, words, number + 1), train)


def _told_of_start(scale: Scale, words: Path, stages: int) -> dict[str, Any]:
    """Return what the start's first stages are made with, wherever their folder lies."""
    runs = [unusual(told(start_of(number, scale, Path("words.txt"), Path("start")))) for number in range(stages)]
    return {"stages": runs, "words": words.read_text(encoding="utf-8")}


def make_cell(cell: Cell, *, scale: Scale, words: Path, out: Path) -> dict[str, Any]:
    """Train and measure one cell, or read it where it is kept with these settings."""
    settings = told(run_of(cell, scale, Path("words.txt"), Path("start"), Path("x"))) | {"limit": scale.limit}
    if cell.method != SCRATCH:
        settings |= _told_of_start(scale, words, len(scale.stages))

    def make_it() -> dict[str, Any]:
        with tempfile.TemporaryDirectory(prefix="sfumato-cell-") as folder:
            run = run_of(cell, scale, words, finished(scale, out / "start"), Path(folder) / "run")
            return {**asdict(cell), **_figures(cell, run, scale)}

    return keep(out / "cells" / f"{cell.name}.json", settings, make_it)


def finished(scale: Scale, start: Path) -> Path:
    """Return the run's folder of the start's last stage."""
    return start / str(len(scale.stages) - 1)


def _figures(cell: Cell, run: Run, scale: Scale) -> dict[str, Any]:
    """Return accuracies of the model and of what needs no picture, by type of question too."""
    made = make(run)
    if cell.method == ALONE:
        started = start_answering(run, made.sets.train)
        subject = evaluate.answerer(started.model.eval(), started.family, max_new_tokens=run.asking.max_answer)
    else:
        if run.private:
            train_run(run, made=made, seed=_PUBLIC_SEED + cell.seed)
        else:
            train_twin(run, made=made)
        subject = open_trained(run.out).subject(made.sets)
    test = made.sets.test
    assert test is not None
    found = evaluate.run_suite(
        replace(subject, score_answers=None),
        None,
        made.sets.train,
        test,
        suites=["vqa"],
        limit=scale.limit,
        train_limit=5 * scale.limit,
        seed=0,
    )["suites"]
    blind = {title: _accuracies(found["vqa_baselines"][name]) for name, title in _BLIND.items()}
    return {"figures": _accuracies(found["vqa"]["free"]), "blind": blind}


def _accuracies(found: dict[str, Any]) -> dict[str, float]:
    kinds = {kind: own["accuracy"] for kind, own in found["by_kind"].items()}
    return {"accuracy": found["accuracy"], "low": found["low"], "high": found["high"], **kinds}


def _begin(*_: Any) -> None:
    torch.set_num_threads(1)
    logging.getLogger("sfumato").setLevel(logging.WARNING)


# ---------------------------------------------------------------- what is shown


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
