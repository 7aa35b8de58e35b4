"""DP-CLIP (arXiv 2306.08173) and DP-GCL (arXiv 2604.26467): two towers, the gradient of the batch or of groups clipped.

`dp_clip` clips the gradient of the whole batch, `dp_gcl` that of many small groups; everything else is the same. Small
pictures from random weights have settings of their own, found on `shapes` (docs/results.md).
"""

from dataclasses import replace
from pathlib import Path

from sfumato.recipes.dp_cap import name_of
from sfumato.recipes.run import Data, Loss, Model, Privacy, Run, Training

_PAPER = Run(
    recipe="dp-gcl",
    out=Path("runs/dp-gcl"),
    data=Data(spec=""),
    model=Model(kind="towers", size="tiny", image_size=224),
    loss=Loss(kind="infonce", temperature=0.07),
    privacy=Privacy(unit="group", usual_batch_size=2048, steps=1000, group_size=16.0),
    training=Training(
        learning_rate=5e-4,
        weight_decay=0.005,
        warmup_steps=50,
        micro_batch_size=64,
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
    ),
)
_SMALL = replace(
    _PAPER,
    model=Model(kind="towers", size="micro", image_size=28, channels=1),
    loss=Loss(kind="infonce", temperature=0.2),
    privacy=Privacy(unit="group", epsilon=8.0, usual_batch_size=2048, steps=150, group_size=8.0),
    training=Training(
        optimizer="adam",
        learning_rate=5e-3,
        weight_decay=0.0,
        beta2=0.999,
        warmup_steps=10,
        final_rate=0.3,
        micro_batch_size=256,
        augment="none",
        flip=False,
        vary_captions=False,
    ),
)
_COLOURED = replace(_SMALL, model=replace(_SMALL.model, image_size=32, channels=3))
_BUILT_IN = {
    "fashion-mnist": _SMALL,
    "mnist": _SMALL,
    "shapes": replace(_COLOURED, data=Data(spec="", scenes="single")),
    "cifar10": _COLOURED,
    "cifar100": _COLOURED,
    "emoji": replace(_COLOURED, data=Data(spec="", holdout=0.2), model=replace(_COLOURED.model, image_size=48)),
}


def dp_gcl(spec: str, out: Path | None = None) -> Run:
    """Return the run that trains two towers on `spec` under group clipping."""
    base = _BUILT_IN.get(spec.partition(":")[0], _PAPER)
    return replace(base, out=out or Path("runs") / f"dp-gcl-{name_of(spec)}", data=replace(base.data, spec=spec))


def dp_clip(spec: str, out: Path | None = None) -> Run:
    """Return the same run with one group: the whole batch's gradient is clipped. It is also the baseline Naive-DP."""
    base = dp_gcl(spec, out or Path("runs") / f"dp-clip-{name_of(spec)}")
    return replace(base, recipe="dp-clip", privacy=replace(base.privacy, num_groups=1))
