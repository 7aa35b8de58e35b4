"""Train a run and hand on what may be shared: weights, tokenizer, card. The same call again resumes."""

import logging
import os
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

from sfumato import report, train
from sfumato.base import BadInput, checksums
from sfumato.base.rounding import upper
from sfumato.recipes.config import CONFIG, changes, check_folder, write_config
from sfumato.recipes.course import FILE, course_of
from sfumato.recipes.exported import mark_not_private, write_export
from sfumato.recipes.made import Made
from sfumato.recipes.make import make
from sfumato.recipes.run import Run, Training
from sfumato.report.claim import card_of
from sfumato.train import Progress

log = logging.getLogger(__name__)

_PRECISIONS = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}


def train_run(
    run: Run,
    *,
    on_progress: Callable[[Progress], None] | None = None,
    accept_new_attempt: bool = False,
    reveal: str | None = None,
    seed: int | None = None,
    made: Made | None = None,
) -> float | None:
    """Train under the run's plan, write `export/`, and return epsilon for what the ledger holds.

    Args:
        run: its `out` is the run's folder; if it holds an unfinished run of the same settings, that is resumed.
        on_progress: called now and then on rank 0.
        accept_new_attempt: go on with changed settings; steps done again are charged again.
        reveal: "debug" shows un-noised losses and stamps the card.
        seed: makes the run reproducible and stamps the card; None takes a secret one.
        made: what `make(run)` returned, if the caller has it already.

    Raises:
        BadInput, Refused: before the first step, naming what does not fit.
    """
    check_folder(run)
    made = made or make(run)
    model: Any = made.model
    model.to(_device())
    optimizer = optimizer_of(run.training, model)
    course = course_of(made, run.out)
    precision = _PRECISIONS.get(run.training.precision, "unknown")
    if precision == "unknown":
        raise BadInput(f"--precision is one of {', '.join(_PRECISIONS)}, got {run.training.precision!r}.")
    trainer = train.Trainer(
        model=model,
        loss_fn=made.loss_fn,
        dataset=made.rows,
        plan=made.plan,
        out=run.out,
        optimizer=optimizer,
        scheduler=_schedule(run.training, optimizer, made.plan.steps),
        micro_batch_size=run.training.micro_batch_size,
        num_workers=run.training.num_workers,
        ema_decay=run.training.ema_decay,
        autocast=precision,  # pyright: ignore[reportArgumentType]
        loss_scale=run.training.loss_scale,
        checkpoint_every=max(1, min(50, made.plan.steps // 10)),
        seed=seed,
        reveal=reveal,
        accept_new_attempt=accept_new_attempt,
        settings={"training": _of_bits(run), **made.settings},
        synthetic=made.synthetic,
        measure=course.measure if course else None,
        on_progress=on_progress,
    )
    report.build(facts(run, made, train.planned_facts, made.plan))  # whatever the card lacks shows before step 1
    first = train.join_world(_device()).first
    changed = changes(run)
    if first and changed is None:
        write_config(run)
    try:
        finished = trainer.fit()  # refuses to go on with an unfinished run of other settings, with what it would cost
    except train.OtherModelError:
        if not changed:
            raise
        raise BadInput(
            f"the run in {run.out} trains another model: {'; '.join(changed)}. Name another folder with --out."
        ) from None
    if changed and not finished.done_here:
        raise BadInput(
            f"the run in {run.out} is finished ({_words(finished.epsilon)}) with other settings: {'; '.join(changed)}. "
            "Name another folder with --out."
        )
    if first:
        write_config(run)
        if finished.average is not None:
            with finished.average.applied(model):
                hand_on(run, made)
        else:
            hand_on(run, made)
    return finished.epsilon


def train_twin(run: Run, *, on_step: Callable[[int, float], None] | None = None, made: Made | None = None) -> None:
    """Train the twin without clipping and noise: same model, draws and steps. NOT PRIVATE; no card is written."""
    check_folder(run)
    made = made or make(run)
    model: Any = made.model
    model.to(_device())
    optimizer = optimizer_of(run.training, model)
    average = train.WeightAverage(model, run.training.ema_decay) if run.training.ema_decay else None
    course, every = course_of(made, run.out), max(made.plan.steps // 20, 1)

    def after(step: int, loss: float) -> None:
        if average is not None:
            average.update(model)
        if course and (step % every == 0 or step == made.plan.steps):
            course.measure(step)
        if on_step is not None:
            on_step(step, loss)

    export = run.out / "export"
    write_config(run)
    mark_not_private(export)  # before the first weights
    with checksums.replacing(export, FILE):  # a twin does not resume: it starts again
        (export / FILE).unlink(missing_ok=True)
    with train.lost_workers():
        train.train_without_privacy(
            model,
            made.loss_fn,
            made.rows,
            made.plan,
            optimizer=optimizer,
            scheduler=_schedule(run.training, optimizer, made.plan.steps),
            micro_batch_size=run.training.micro_batch_size,
            num_workers=run.training.num_workers,
            on_step=after,
        )
    with average.applied(model) if average is not None else nullcontext():
        write_export(export, made.export)


def optimizer_of(settings: Training, model: torch.nn.Module) -> torch.optim.Optimizer:
    """Return the optimizer over the trainable parameters.

    Raises:
        BadInput: an unknown name.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    rate, decay = settings.learning_rate, settings.weight_decay
    if settings.optimizer == "sgd":
        return torch.optim.SGD(parameters, lr=rate, momentum=settings.beta1, weight_decay=decay)
    kinds = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}
    if settings.optimizer not in kinds:
        raise BadInput(f"--optimizer is adamw, adam or sgd, got {settings.optimizer!r}.")
    return kinds[settings.optimizer](parameters, lr=rate, betas=(settings.beta1, settings.beta2), weight_decay=decay)


def _schedule(settings: Training, optimizer: torch.optim.Optimizer, steps: int) -> Any:
    warmup = min(settings.warmup_steps, steps)
    return train.warmup_cosine(optimizer, warmup_steps=warmup, total_steps=steps, final=settings.final_rate)


def _device() -> torch.device:
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))


def hand_on(run: Run, made: Made) -> None:
    """Write export/: model, what goes with it, card, checksums. Everything in it is released or declared public."""
    write_export(run.out / "export", made.export, lambda: facts(run, made, train.card_facts, run.out))


def _of_bits(run: Run) -> dict[str, Any]:
    """Return the settings of training that the fingerprint speaks of: all that may change a bit of the result.

    How many processes make the rows does not: each row is made with one thread, under a key of its own.
    """
    return {name: value for name, value in run.to_json()["training"].items() if name != "num_workers"}


def facts(run: Run, made: Made, facts_of: Callable[..., dict[str, Any]], what: Any) -> dict[str, Any]:
    """Return the facts of the card: measured from the ledger (`card_facts` of a folder) or planned (of a plan), and
    declared.
    """
    owner = run.data.owner_column
    return facts_of(
        what,
        record=f"all rows of one value of the column {owner!r}" if owner else made.record,
        owner_column=owner,
        public={
            **made.public,
            "normalisation": _normalisation(made),
            "initialisation": "; ".join(made.notes),
        },
        left_out={
            "tuning": "the recipe's settings were found on public data sets; what its user tried on the private data "
            "before this run is not accounted",
            "evaluation": _evaluation(run, made),
            **_composition(run),
            "who_sees_what": "export/ is meant to be shared; private/ (seed, ledger, logs, checkpoints) is not",
        },
    )


def _words(epsilon: float | None) -> str:
    return "no epsilon" if epsilon is None else f"epsilon {upper(epsilon)}"


def _normalisation(made: Made) -> str:
    if made.preprocess is None:
        return "that of the model's own processor"
    return f"constants: mean {list(made.preprocess.mean)}, std {list(made.preprocess.std)}"


def _evaluation(run: Run, made: Made) -> str:
    if made.sets.test is None:
        return "none was held out"
    status = "declared public" if made.sets.test.public else "private: its figures stay in private/"
    return f"{made.sets.test.name}, {status}"


def _composition(run: Run) -> dict[str, str]:
    """Return what the claim of a run that starts from another one does not count: that one's own."""
    start = None if run.model.init is None else Path(run.model.init)
    if start is not None and not (start / CONFIG).is_file():
        start = start.parent  # its export was named
    if start is None or not (start / CONFIG).is_file():
        return {}
    claim = card_of(start)
    if claim is None:
        return {"start": f"training starts from {start.name}, which carries no card: NOT PRIVATE for its own records"}
    told = "an unproved claim" if claim["epsilon"] is None else f"epsilon {upper(claim['epsilon'], 4)}"
    at = "" if claim["delta"] is None else f" at delta {upper(claim['delta'])}"
    return {
        "start": f"training starts from {start.name}, whose own claim is {told}{at}: for a "
        "person whose records are in both, epsilons and deltas add up"
    }
