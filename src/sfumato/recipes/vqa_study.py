"""What privacy costs a model that answers questions (`sfumato study vqa`): easy-vqa and questions about scenes.

A small BLIP from scratch, and one that was trained on public scenes before (which share no question template with
easy-vqa): alone, fine-tuned without privacy, and at several epsilons, beside what needs no picture.
"""

import logging
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from sfumato import evaluate
from sfumato.recipes import vqa_start
from sfumato.recipes.answering import start_answering
from sfumato.recipes.dp_vqa import dp_vqa
from sfumato.recipes.execute import train_run, train_twin
from sfumato.recipes.kept import carried_out, is_kept, keep, told
from sfumato.recipes.make import make
from sfumato.recipes.run import Run
from sfumato.recipes.trained import open_trained
from sfumato.recipes.vqa_start import EASY, SCENES, Start

SCRATCH, START, ALONE = "from scratch", "synthetic start", "start alone"
EPSILONS = (1.0, 3.0, 8.0)
_START_RATE = 5e-4  # of runs from the start
_PUBLIC_SEED = 30_000  # of noise and draws: these are public data, and a figure should be repeatable
_BLIND = {"majority": "majority answer", "majority_of_kind": "majority of the type", "question_only": "question only"}


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How much is spent.

    Attributes:
        start: what the start is trained with.
        steps, batch: of each run, in records.
        limit: test questions.
    """

    start: Start = vqa_start.FULL
    steps: int = 60
    batch: int = 1_000
    limit: int = 2_000


FULL = Scale()
QUICK = Scale(start=vqa_start.QUICK, steps=4, batch=16, limit=40)


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


def run_of(cell: Cell, scale: Scale, words: Path, start: Path, out: Path) -> Run:
    """Return the run of a cell."""
    spec = cell.data if cell.data == EASY else f"{SCENES}:{scale.start.scenes}"
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


def study(
    out: Path,
    *,
    epsilons: Sequence[float] = EPSILONS,
    seeds: int = 1,
    scale: Scale = FULL,
    jobs: int = 1,
    on_start: Callable[[int, int], None] | None = None,
    on_cell: Callable[[int, int, dict[str, Any]], None] | None = None,
) -> list[dict[str, Any]]:
    """Make the start and all cells that are not kept yet, and return the cells.

    Args:
        out: folder; cells are kept in out/cells, the start in out/start.
        epsilons, seeds: what is compared.
        scale: how much is spent.
        jobs: processes, one thread each.
        on_start: called with (steps done, steps in all) while the start is trained.
        on_cell: called with (cells done, cells in all, the cell) as each is done.
    """
    work = cells(epsilons, seeds)
    words = out / "words.txt"
    words.parent.mkdir(parents=True, exist_ok=True)
    words.write_text("\n".join(vqa_start.vocabulary()) + "\n", encoding="utf-8")
    start = out / "start"
    if any(cell.method != SCRATCH and not is_kept(*_file_and_settings(cell, scale, words, out)) for cell in work):
        start = vqa_start.trained(scale.start, words, start, on_step=on_start)
    found = {}
    make_one = partial(make_cell, scale=scale, words=words, start=start, out=out)
    for done, (cell, result) in enumerate(carried_out(work, make_one, jobs=jobs, begin=_begin), 1):
        found[cell] = result
        if on_cell is not None:
            on_cell(done, len(work), result)
    return [found[cell] for cell in work]


def make_cell(cell: Cell, *, scale: Scale, words: Path, start: Path, out: Path) -> dict[str, Any]:
    """Train and measure one cell, or read it where it is kept with these settings.

    Args:
        cell: which.
        scale: how much is spent.
        words: file of the vocabulary.
        start: the start's run, which cells from scratch do not read.
        out: the study's folder.
    """

    def make_it() -> dict[str, Any]:
        with tempfile.TemporaryDirectory(prefix="sfumato-cell-") as folder:
            run = run_of(cell, scale, words, start, Path(folder) / "run")
            return {**asdict(cell), **_figures(cell, run, scale)}

    return keep(*_file_and_settings(cell, scale, words, out), make_it)


def _file_and_settings(cell: Cell, scale: Scale, words: Path, out: Path) -> tuple[Path, dict[str, Any]]:
    settings = told(run_of(cell, scale, Path("words.txt"), Path("start"), Path("x"))) | {"limit": scale.limit}
    if cell.method != SCRATCH:
        settings |= vqa_start.told_of(scale.start, words)
    return out / "cells" / f"{cell.name}.json", settings


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
