"""Models that answer questions about pictures, for the doctor: whole checkpoints as training opens them, and bare
configurations with rows of noise in the place of their processor's.
"""

from pathlib import Path
from typing import Any

from torch import Tensor

from sfumato import losses, models
from sfumato.base import BadInput
from sfumato.models.bare import Looked, bare_folder
from sfumato.models.families.coca import is_coca
from sfumato.models.vlm_train import choose_parameters, synthetic_logits
from sfumato.recipes.answering import made_up
from sfumato.recipes.doctor_case import OF_QUESTIONS, Asked, Case, Choices, adapter_of, only, row_unit
from sfumato.recipes.doctor_feed import feed_of
from sfumato.recipes.doctor_train import PARTS, adapted, choices_of, per_rank
from sfumato.recipes.run import Asking

TEXT = 16  # tokens of a text where nothing says how many


def is_checkpoint(folder: Path) -> bool:
    """Whether the folder holds open_clip's CoCa, which has no config.json."""
    return is_coca(folder)


def answering_folder(asked: Asked, looked: Looked) -> Case:
    """Return a transformers model that answers: as training opens it, or from its configuration alone.

    Raises:
        BadInput: naming what the folder lacks, or a setting that does not fit.
    """
    if looked.has_weights:
        return answering_case(asked, looked.path)
    return _configuration(asked, looked)


def answering_case(asked: Asked, folder: Path, usual: Asking | None = None) -> Case:
    """Return the checkpoint of a folder as `sfumato train dp-vlm` opens it.

    Args:
        usual: lengths where nothing else is asked.

    Raises:
        BadInput: naming what the folder lacks, or a setting that does not fit.
    """
    if asked.max_tokens is not None:
        raise BadInput("this model reads a question and an answer: give --max-question and --max-answer.")
    only(asked, "a model that answers questions", "image_size", *OF_QUESTIONS)
    usual = usual or Asking()
    started = models.start_vlm(
        folder,
        train=asked.train,
        adapter=adapter_of(asked),
        **{name: _either(getattr(asked, name), getattr(usual, name)) for name in (*OF_QUESTIONS, "image_size")},
    )
    return started_case(asked, started)


def _either(asked: Any, usual: Any) -> Any:
    return usual if asked is None else asked


def started_case(asked: Asked, started: models.StartedVlm) -> Case:
    """Return a started vision-language model with made-up rows of its own family."""
    model, family = started.model, started.family
    source, *notes = started.notes

    def train(what: str) -> models.Training:
        return choose_parameters(model, family, what, None).training

    def reach(module: Any) -> Tensor:
        return synthetic_logits(module, family)

    rows = made_up(started)
    return Case(
        source=source,
        model=model,
        loss_fn=losses.AnswerLoss(family.logits),
        batch=rows,
        synthetic=rows,
        training=started.training,
        unit=row_unit(asked),
        choices=Choices(names=PARTS, choose=train, lora=lambda: (0, per_rank(model, reach))),
        answer=family.encode,
        notes=(*notes, _lengths(started.facts)),
        image_size=int(started.facts["image_size"]),
        channels=3,
    )


def _lengths(facts: dict[str, Any]) -> str:
    return "fed with " + ", ".join(
        f"{name.replace('_', ' ')} {value!r}" for name, value in facts.items() if value is not None
    )


def _configuration(asked: Asked, looked: Looked) -> Case:
    if any(getattr(asked, name) is not None for name in OF_QUESTIONS):
        raise BadInput(
            f"{looked.path} has no processor, so its rows are {asked.max_tokens or TEXT} words of noise "
            "(--max-tokens): leave out --max-question, --max-answer and --prompt."
        )
    only(asked, "a configuration", "image_size", "max_tokens")
    bare = bare_folder(looked)
    size = asked.image_size or bare.image_size
    feed, loss = feed_of(bare.model, image_size=size, channels=bare.channels, max_tokens=asked.max_tokens or TEXT)

    def reach(model: Any) -> Tensor:
        return loss(model, feed(1)).sum()

    found = adapted(asked, bare.model, reach)
    return Case(
        source=bare.source,
        model=found.model,
        loss_fn=loss,
        batch=feed,
        synthetic=feed,
        training=found.training,
        unit=row_unit(asked),
        choices=choices_of(found.model, reach),
        notes=(
            *bare.said,
            "no processor is looked at: rows are noise in the shapes of the configuration",
            *found.notes,
        ),
        image_size=size,
        channels=bare.channels,
    )
