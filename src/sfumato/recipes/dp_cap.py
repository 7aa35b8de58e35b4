"""DP-Cap (arXiv 2403.02506): representation learning by private image captioning.

`dp_cap` returns the run for a data set; built-in data has settings of its own, found by experiment (docs/results.md),
other data starts from the paper's.
"""

from dataclasses import replace
from pathlib import Path

from sfumato.recipes.run import Data, Model, Privacy, Run, Training

_PAPER = Run(
    recipe="dp-cap",
    out=Path("runs/dp-cap"),
    data=Data(spec=""),
    model=Model(size="nano", image_size=224),
    privacy=Privacy(usual_batch_size=4096, steps=2000),
    training=Training(
        learning_rate=5e-4,
        weight_decay=0.005,
        warmup_steps=200,
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
    ),
)
_SMALL = replace(
    _PAPER,
    model=Model(size="micro", image_size=28, channels=1),
    privacy=Privacy(epsilon=8.0, usual_batch_size=8192, steps=300, clip_norm=1.0),
    training=Training(
        optimizer="adam",
        learning_rate=1e-2,
        weight_decay=0.0,
        beta2=0.999,
        warmup_steps=10,
        micro_batch_size=256,
        augment="none",  # at a few hundred noisy steps augmentation and many templates cost more than they give
        flip=False,
        vary_captions=False,
    ),
)
_SHAPES = replace(
    _SMALL,
    data=Data(spec="", scenes="single"),
    model=Model(size="pico", image_size=32, channels=3),
    privacy=Privacy(epsilon=8.0, usual_batch_size=2048, steps=150),
    training=replace(_SMALL.training, final_rate=0.3),  # so few steps are better used than cooled down
)
_EMOJI = replace(
    _SHAPES,
    data=Data(spec="", holdout=0.2),
    model=Model(size="pico", image_size=48, channels=3),
    privacy=replace(_SHAPES.privacy, usual_batch_size=512),
)
_BUILT_IN = {"fashion-mnist": _SMALL, "mnist": _SMALL, "shapes": _SHAPES, "emoji": _EMOJI}


def dp_cap(spec: str, out: Path | None = None) -> Run:
    """Return the run that trains a captioner on `spec` (a built-in name or anything that `data.load` reads)."""
    kind = spec.partition(":")[0]
    base = _BUILT_IN.get(kind, _PAPER)
    return replace(base, out=out or Path("runs") / f"dp-cap-{name_of(spec)}", data=replace(base.data, spec=spec))


def name_of(spec: str) -> str:
    """A folder name for a data set: the last part of its path, without what a file system would not take.

    >>> name_of("hf:owner/x-rays"), name_of("data/images/"), name_of("shapes:5000")
    ('x-rays', 'images', 'shapes-5000')
    """
    last = Path(spec.removeprefix("hf:")).name.replace(":", "-")
    return "".join(c if c.isalnum() or c in "-_." else "-" for c in last) or "data"
