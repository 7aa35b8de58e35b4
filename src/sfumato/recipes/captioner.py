"""The captioner of DP-Cap: pictures to words, one loss per example."""

from dataclasses import replace
from typing import Any

from sfumato import data, losses, models
from sfumato.recipes.made import HeldOut, Made, public_test
from sfumato.recipes.run import Run
from sfumato.recipes.sets import Sets, preprocess_of
from sfumato.recipes.words import words_of


def make_captioner(run: Run, sets: Sets) -> Made:
    """Return what a captioner trains with.

    Raises:
        BadInput: a setting that does not fit; before anything is spent.
    """
    words = words_of(run, sets.train)
    tokenizer, settings = words.tokenizer, run.model
    preprocess = preprocess_of(run, sets.train)
    rows = data.PairRows(
        captioned=sets.train,
        preprocess=preprocess,
        encode=lambda captions: tokenizer.encode(captions, words.max_tokens),
        max_tokens=words.max_tokens,
        vary_captions=run.training.vary_captions,
        jitter=data.Jitter.suited(settings.image_size, channels=settings.channels, captions=True)
        if run.training.jitter
        else None,
    )
    plan = run.plan(sets.train.num_records)
    started = models.start(
        tokenizer=tokenizer,
        image_size=settings.image_size,
        max_tokens=words.max_tokens,
        channels=settings.channels,
        size=settings.size,
        init=settings.init,
        train=settings.train,
        dropout=settings.dropout,
        seed=settings.seed,
    )
    model: Any = started.model
    if settings.checkpointing:
        models.recompute_activations(model)
    shown = public_test(sets)
    return Made(
        sets=sets,
        preprocess=preprocess,
        rows=rows,
        plan=plan,
        model=model,
        loss_fn=losses.caption_loss,
        training=started.training,
        notes=started.notes,
        export=lambda folder: models.export(model, tokenizer, preprocess.to_dict(), folder),
        held_out=None
        if shown is None
        else HeldOut(
            rows=replace(rows, captioned=shown),
            loss=losses.caption_loss,
            metric="caption loss on held-out pictures",
            unit="nats per token",
        ),
        public={"vocabulary": words.vocabulary},
        settings={"tokenizer": tokenizer.digest},
        said=str(words),
    )
