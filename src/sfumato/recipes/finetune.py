"""The second stage of Logit-DP (arXiv 2310.03104): a linear classifier on the frozen features of a run."""

from pathlib import Path

from sfumato.recipes.config import read_config
from sfumato.recipes.dp_cap import name_of
from sfumato.recipes.run import Data, Loss, Model, Privacy, Run, Training


def finetune(folder: Path, spec: str, out: Path | None = None) -> Run:
    """Return the run that trains a classifier of the pictures of `spec` on the encoder of the run in `folder`.

    Raises:
        BadInput: `folder` holds no run.
    """
    encoder = read_config(folder)
    alike = spec.partition(":")[0] == encoder.data.spec.partition(":")[0]  # other data reads no scenes, or other ones
    return Run(
        recipe="finetune",
        out=out or Path("runs") / f"finetune-{name_of(spec)}",
        data=Data(spec=spec, scenes=encoder.data.scenes if alike else Data.scenes),
        model=Model(
            kind="classifier", init=str(folder), image_size=encoder.model.image_size, channels=encoder.model.channels
        ),
        loss=Loss(kind="classes"),
        privacy=Privacy(usual_batch_size=4096, steps=200, clip_norm=1.0),
        training=Training(
            optimizer="adam",
            learning_rate=0.1,
            weight_decay=0.0,
            beta2=0.999,
            warmup_steps=0,
            micro_batch_size=1024,
            augment="none",
            flip=False,
        ),
    )
