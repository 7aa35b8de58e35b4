"""DP-BLIP (arXiv 2306.08173) and beyond: private fine-tuning of models that answer questions about pictures.

`dp_vqa` trains a BLIP, from scratch on built-in data; `dp_vlm` any vision-language model of a local folder, by default
through LoRA. The paper clips the gradient of the batch (`unit` group with one group). The loss is additive over
records, so each record's gradient can be clipped instead: its sum moves by C in place of 2C and adds up what the batch
averages, and one loud record does not silence the others. That is the default here.
"""

from dataclasses import replace
from pathlib import Path

from sfumato.recipes.dp_cap import name_of
from sfumato.recipes.run import Asking, Data, Loss, Model, Privacy, Run, Training

_PAPER = Run(
    recipe="dp-vqa",
    out=Path("runs/dp-vqa"),
    data=Data(spec=""),
    model=Model(kind="vlm", image_size=64),
    loss=Loss(kind="answer"),
    privacy=Privacy(usual_batch_size=1024, steps=500),
    training=Training(learning_rate=1e-4, weight_decay=0.0, warmup_steps=20, micro_batch_size=16),
)
_SMALL = replace(
    _PAPER,
    model=Model(kind="vlm", size="micro", image_size=64),
    privacy=Privacy(epsilon=8.0, usual_batch_size=1024, steps=200, views=4),
    training=Training(
        optimizer="adam",
        learning_rate=2e-3,
        weight_decay=0.0,
        beta2=0.999,
        warmup_steps=10,
        final_rate=0.1,
        micro_batch_size=256,
    ),
    asking=Asking(max_question=16, max_answer=4),
)
_BUILT_IN = {
    "easy-vqa": _SMALL,
    "shape-questions": replace(_SMALL, data=Data(spec="", scenes="lone")),
}


def dp_vqa(spec: str, out: Path | None = None, model: str | None = None) -> Run:
    """Return the run that trains a BLIP on `spec`: that of the folder `model`, else a small one from scratch."""
    base = _BUILT_IN.get(spec.partition(":")[0], _PAPER)
    made = replace(base, out=out or Path("runs") / f"dp-vqa-{name_of(spec)}", data=replace(base.data, spec=spec))
    return made if model is None else replace(made, model=Model(kind="vlm", init=model, image_size=64))


def dp_vlm(spec: str, model: str, out: Path | None = None) -> Run:
    """Return the run that fine-tunes the vision-language model in the folder `model` on `spec` by LoRA."""
    base = dp_vqa(spec, out or Path("runs") / f"dp-vlm-{name_of(spec)}", model)
    return replace(
        base,
        recipe="dp-vlm",
        model=replace(base.model, train="lora"),
        training=replace(base.training, learning_rate=1e-3),
    )
