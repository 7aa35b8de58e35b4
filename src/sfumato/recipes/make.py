"""From the settings of a run to what it trains with: sets, plan, model, loss. Fails before the first step."""

from collections.abc import Callable
from pathlib import Path

from sfumato.base import BadInput
from sfumato.recipes.answering import make_answering
from sfumato.recipes.captioner import make_captioner
from sfumato.recipes.classifier import make_classifier
from sfumato.recipes.contrastive import make_encoder, make_towers
from sfumato.recipes.exported import check_export
from sfumato.recipes.made import Made
from sfumato.recipes.run import Run
from sfumato.recipes.sets import Sets, sets_of
from sfumato.recipes.work import check_work

MAKERS: dict[str, Callable[[Run, Sets], Made]] = {
    "captioner": make_captioner,
    "towers": make_towers,
    "encoder": make_encoder,
    "classifier": make_classifier,
    "vlm": make_answering,
}


def make(run: Run) -> Made:
    """Make everything that the run trains with.

    Raises:
        BadInput: a setting, file or column that does not fit; before anything is spent.
        DamagedFile: a file of the run that it starts from is not what was written.
    """
    if run.model.kind not in MAKERS:
        raise BadInput(f"a model is one of {', '.join(MAKERS)}, got {run.model.kind!r}.")
    if run.model.init is not None:
        check_export(Path(run.model.init))
    check_work(run)
    sets = sets_of(run.data, run.model.image_size)
    if sets.train.has_questions and run.model.kind != "vlm":
        raise BadInput(f"{sets.train.name} holds questions and answers: train dp-vqa or dp-vlm on it.")
    return MAKERS[run.model.kind](run, sets)
