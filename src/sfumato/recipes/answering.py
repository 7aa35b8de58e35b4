"""A vision-language model that answers questions about pictures (or one public question: captions)."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import default_collate

from sfumato import data, losses, models
from sfumato.base import BadInput
from sfumato.recipes.adapters import adapter_of
from sfumato.recipes.exported import check_export
from sfumato.recipes.made import HeldOut, Made, public_test
from sfumato.recipes.run import Run
from sfumato.recipes.sets import Sets
from sfumato.recipes.words import check_own_words, tokenizer_of

QUESTION = "describe the picture"
_MADE_UP = (("what is this", "a word"), ("is it red", "no"), ("which shape is here", "that one is round"))
_SPELT = "vocabulary: "
_LOOKED_AT = 20_000  # public questions that a vocabulary is made from


def make_answering(run: Run, sets: Sets) -> Made:
    """Return what a vision-language model trains with.

    Raises:
        BadInput: a setting that does not fit; before anything is spent.
    """
    started = start_answering(run, sets.train)
    question = question_of(run, sets.train)
    rows = data.AskedRows(captioned=sets.train, encode=started.family.encode, question=question)
    loss = losses.AnswerLoss(started.family.logits)
    shown = public_test(sets)
    return Made(
        sets=sets,
        preprocess=None,
        rows=rows,
        plan=run.plan(sets.train.num_records),
        model=started.model,
        loss_fn=loss,
        training=started.training,
        notes=started.notes,
        export=started.export,
        held_out=None
        if shown is None
        else HeldOut(
            rows=data.AskedRows(captioned=shown, encode=started.family.encode, question=question),
            loss=loss,
            metric="answer loss on held-out questions",
            unit="nats per token",
        ),
        record=_record(run, sets.train),
        public={"vocabulary": _origin(started), "how a row is fed": f"{started.family.name}: {_facts(started.facts)}"},
        settings={"fed": dict(started.facts), "processor": started.digest, "question": question},
        said=f"{started.family.name}, {_facts(started.facts)}",
        synthetic=made_up(started),
    )


def start_answering(run: Run, train: data.Captioned) -> models.StartedVlm:
    """Return the model at its start: a small BLIP from scratch by size, else the model of a folder.

    Raises:
        BadInput: neither or both, or a folder that holds no vision-language model.
    """
    settings, asking = run.model, run.asking
    given: dict[str, Any] = {
        "max_question": asking.max_question,
        "max_answer": asking.max_answer,
        "prompt": asking.prompt,
        "train": settings.train,
        "adapter": adapter_of(run),
    }
    if settings.init is not None:
        if settings.vocabulary or settings.public_text:
            raise BadInput("a checkpoint brings its own words: leave out --vocabulary and --public-text.")
        check_own_words(run)
        return models.start_vlm(
            settings.init, **given, image_size=asking.image_size, gradient_checkpointing=settings.checkpointing
        )
    if settings.size is None:
        raise BadInput("name the folder of a vision-language model with --model, or a --size to start from scratch.")
    words, origin = answer_words(run, train)
    if settings.checkpointing:
        raise BadInput("a BLIP from scratch is small: leave out --checkpointing.")
    if settings.train in models.ADAPTERS:
        raise BadInput(f"--train {settings.train} puts an adapter on a checkpoint: name one with --model.")
    started = models.start_blip(
        settings.size, seed=settings.seed, tokenizer=words, image_size=asking.image_size or 64, **given
    )
    return replace(started, notes=(*started.notes, _SPELT + origin))


def made_up(started: models.StartedVlm) -> Callable[[int], Any]:
    """Return n -> a batch of n rows of noise and of public words: a model's own rows must hold its picture tokens."""

    def batch(count: int) -> Any:
        rng = np.random.default_rng(0)
        rows = [
            started.family.encode(rng.integers(0, 256, (48, 48, 3), dtype=np.uint8), *_MADE_UP[row % len(_MADE_UP)])
            for row in range(count)
        ]
        return default_collate(rows)

    return batch


def answer_words(run: Run, train: data.Captioned) -> tuple[models.Tokenizer, str]:
    """Return the words of a model from scratch, and where they come from: always public text."""
    if train.public and not run.model.vocabulary and not run.model.public_text:
        texts = islice(_spelt(run, train), _LOOKED_AT)
        return models.Tokenizer.from_public_text(
            texts, strip_accents=run.model.strip_accents or False
        ), "the words of the public questions and answers"
    return tokenizer_of(run, train)


def _spelt(run: Run, train: data.Captioned) -> Iterator[str]:
    if run.data.spec.partition(":")[0] == "shape-questions":
        yield from data.asked_vocabulary()
        return
    yield from train.to_spell()


def question_of(run: Run, train: data.Captioned) -> str | None:
    """Return the public question that is asked of every row, or None where rows bring their own.

    Raises:
        BadInput: --question beside data that has questions.
    """
    if train.has_questions:
        if run.asking.question is not None:
            raise BadInput(f"{train.name} has questions of its own: leave out --question.")
        return None
    return run.asking.question or QUESTION


def load_answering(run: Run, folder: Path) -> models.StartedVlm:
    """Return the model of the finished run in `folder`, as it was handed on.

    Raises:
        BadInput: no export, or the checkpoint under an adapter is gone.
    """
    asking = run.asking
    given: dict[str, Any] = {
        "max_question": asking.max_question,
        "max_answer": asking.max_answer,
        "prompt": asking.prompt,
        "image_size": asking.image_size if run.model.init else None,
    }
    if run.model.train not in models.ADAPTERS:
        return models.load_vlm(folder / "export", **given)
    assert run.model.init is not None
    check_export(Path(run.model.init))
    base = models.load_vlm(run.model.init, **given)
    return replace(base, model=models.load_adapter(base.model, folder / "export").eval())


def _origin(started: models.StartedVlm) -> str:
    told = [note.removeprefix(_SPELT) for note in started.notes if note.startswith(_SPELT)]
    return told[0] if told else "that of the checkpoint that training starts from"


def _record(run: Run, train: data.Captioned) -> str:
    rows = (
        "one of its questions" if run.privacy.views == 1 else f"{run.privacy.views} of its questions, clipped together"
    )
    if not train.has_questions:
        return "one picture with its text"
    return f"one picture with all its questions; a draw takes {rows}"


def _facts(facts: Any) -> str:
    told = {name: value for name, value in facts.items() if value is not None and name != "family"}
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in told.items())
