"""The synthetic start of `sfumato study vqa`: a small BLIP, trained without privacy on public scenes, in stages.

All kinds of question at once, a small model stays at guessing yes or no. It learns to name colours and shapes first
(shapes are harder, so they are asked more often), and from stage to stage whether a colour or a shape is there, or is
missing; what is new is asked most.
"""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sfumato import data
from sfumato.recipes.config import CONFIG, read_config
from sfumato.recipes.dp_vqa import dp_vqa
from sfumato.recipes.execute import train_twin
from sfumato.recipes.kept import keep, told, unusual
from sfumato.recipes.run import Run

SCENES, EASY = "shape-questions", "easy-vqa"
_SPELT = 4_000  # questions of easy-vqa whose words the vocabulary has: all of its templates and answers


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A part of the start's training: kinds of question, as often as they are named, and steps."""

    kinds: tuple[str, ...]
    steps: int


@dataclass(frozen=True, kw_only=True)
class Start:
    """How the start is trained: `scenes` public scenes, `batch` questions in a step, in stages."""

    scenes: int
    batch: int
    stages: tuple[Stage, ...]


_COURSE = (
    Stage(kinds=(*3 * ("shape",), "color", *2 * ("has color",)), steps=1200),
    Stage(kinds=(*2 * ("shape",), "color", "has color", *4 * ("has shape",)), steps=1200),
    Stage(kinds=("shape", "color", "has color", *2 * ("has shape",), *3 * ("lacks color",)), steps=800),
    Stage(kinds=("shape", "color", "has color", "has shape", *2 * ("lacks color",), *3 * ("lacks shape",)), steps=1200),
)
FULL = Start(scenes=40_000, batch=64, stages=_COURSE)
QUICK = Start(scenes=300, batch=16, stages=tuple(replace(stage, steps=2) for stage in _COURSE[:2]))


def vocabulary() -> list[str]:
    """Return the words of both public data sets, so that one vocabulary spells them."""
    easy = data.easy_vqa("train")
    asked = [easy.asked(row) for row in range(min(_SPELT, len(easy)))]
    texts = (text for question in asked for text in (question.question, *question.answers))
    return [*data.asked_vocabulary(), *dict.fromkeys(word for text in texts for word in text.split())]


def runs(start: Start, words: Path, folder: Path) -> Iterator[Run]:
    """Yield the run of each stage, in folder/0, folder/1, ...: public scenes, no privacy, on from the one before."""
    before, usual = None, dp_vqa(SCENES)
    for number, stage in enumerate(start.stages):
        run = dp_vqa(f"{SCENES}:{start.scenes}", folder / str(number), before)
        model = replace(run.model, size=usual.model.size, public_text=str(words)) if before is None else run.model
        yield replace(
            run,
            private=False,
            data=replace(usual.data, spec=run.data.spec, kinds=stage.kinds),
            model=replace(model, image_size=usual.model.image_size),
            asking=usual.asking,
            privacy=replace(usual.privacy, steps=stage.steps, expected_batch_size=start.batch, views=1),
            training=replace(
                usual.training,
                learning_rate=5e-4,  # twice as much, and yes or no is not learned with some seeds
                beta2=0.99,
                warmup_steps=min(100, stage.steps),
                final_rate=0.05 if number == len(start.stages) - 1 else 1.0,
                micro_batch_size=max(start.batch // 2, 1),  # sizes of batches vary: less of the last one is padding
            ),
        )
        before = str(run.out)


def trained(start: Start, words: Path, folder: Path, on_step: Callable[[int, int], None] | None = None) -> Path:
    """Train the stages that `folder` does not hold with these settings, and return the run's folder of the last one.

    Args:
        start: how.
        words: file of the vocabulary.
        folder: of the stages.
        on_step: called with (steps done, steps in all) after each step.
    """
    total, done, last = sum(stage.steps for stage in start.stages), 0, folder
    for number, run in enumerate(runs(start, words, folder)):

        def train(run: Run = run, before: int = done) -> dict[str, Any]:
            if (run.out / CONFIG).is_file() and not read_config(run.out).private:
                shutil.rmtree(run.out)  # a stage of other settings, or one that was not finished
            train_twin(run, on_step=lambda step, _: on_step(before + step, total) if on_step else None)
            return {}

        if not (run.out / "export").is_dir():
            (run.out / "kept.json").unlink(missing_ok=True)
        so_far = replace(start, stages=start.stages[: number + 1])
        keep(run.out / "kept.json", told_of(so_far, words), train)
        done, last = done + start.stages[number].steps, run.out
    return last


def told_of(start: Start, words: Path) -> dict[str, Any]:
    """Return what a start is made with, wherever its folder lies."""
    stages = [unusual(told(run)) for run in runs(start, Path("words.txt"), Path("start"))]
    return {"stages": stages, "words": words.read_text(encoding="utf-8")}
