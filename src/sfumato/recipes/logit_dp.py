"""Logit-DP (arXiv 2310.03104): contrastive pre-training with the gradient of every pairwise similarity clipped.

The paper's setting is one encoder and two views of each picture (`contrast="views"`); captioned pictures and two towers
are the other (`contrast="captions"`). The temperature decides how far one record can move the sum, so it is higher here
than where groups are clipped (PAPERS section 2: the bound is small beside the signal for n >> e^(2 / tau) only).
"""

from dataclasses import replace
from pathlib import Path
from typing import Literal

from sfumato.base import BadInput
from sfumato.recipes.dp_cap import name_of
from sfumato.recipes.dp_clip import dp_gcl
from sfumato.recipes.run import Data, Loss, Model, Privacy, Run, Training

Contrasted = Literal["captions", "views"]

_VIEWS = Run(
    recipe="logit-dp",
    out=Path("runs/logit-dp"),
    data=Data(spec=""),
    model=Model(kind="encoder", size="small-conv", image_size=32),
    loss=Loss(kind="infonce", temperature=0.5),
    privacy=Privacy(unit="pair", usual_batch_size=512, steps=300, clip_norm=1.0),
    training=Training(
        optimizer="adam",
        learning_rate=1e-3,
        weight_decay=0.0,
        beta2=0.999,
        warmup_steps=10,
        micro_batch_size=128,
    ),
)
_GREY = replace(_VIEWS, model=replace(_VIEWS.model, image_size=28, channels=1))
_BUILT_IN = {
    "fashion-mnist": _GREY,
    "mnist": _GREY,
    "shapes": replace(_VIEWS, data=Data(spec="", scenes="single")),
    "emoji": replace(_VIEWS, data=Data(spec="", holdout=0.2)),
}


def logit_dp(spec: str, out: Path | None = None, contrast: Contrasted = "views") -> Run:
    """Return the run that clips pairs on `spec`.

    Args:
        spec: a built-in name or anything that `data.load` reads.
        out: folder of the run.
        contrast: "views" of one picture (one encoder), or pictures and "captions" (two towers).
    """
    out = out or Path("runs") / f"logit-dp-{name_of(spec)}"
    if contrast == "views":
        base = _BUILT_IN.get(spec.partition(":")[0], _VIEWS)
        return replace(base, out=out, data=replace(base.data, spec=spec))
    towers = dp_gcl(spec, out)
    privacy = replace(towers.privacy, unit="pair", usual_batch_size=512, steps=300, group_size=16.0)
    loss = replace(towers.loss, temperature=_VIEWS.loss.temperature)
    return replace(towers, recipe="logit-dp", privacy=privacy, loss=loss)


def with_views(run: Run) -> Run:
    """Return a run of groups with one encoder and two views in place of two towers: DP-CLIP's clipping for SimCLR.

    Raises:
        BadInput: the run has no towers.
    """
    if run.model.kind != "towers":
        raise BadInput(f"{run.recipe} trains no towers.")
    own = logit_dp(run.data.spec, run.out)
    return replace(run, model=own.model, training=own.training, data=own.data)
