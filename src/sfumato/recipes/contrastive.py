"""Contrastive runs: two towers on captioned pictures, or one encoder on two views of a picture."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sfumato import data, losses, models
from sfumato.base import BadInput
from sfumato.losses.contrast import cosines
from sfumato.recipes.adapters import adapter_of
from sfumato.recipes.frozen import feature_rows, pictures_stay
from sfumato.recipes.made import HeldOut, Made, public_test
from sfumato.recipes.run import Run
from sfumato.recipes.sets import Sets, preprocess_of
from sfumato.recipes.words import Words, check_own_words, text_length, words_of

PRETRAINED = "lit"  # `--init lit`: the two pretrained towers that packages carry
_OPEN_CLIP = "open_clip:"
_LIT_DIM, _ENCODER_DIM = 128, 8  # usual widths of an embedding; 8 is the paper's


def make_towers(run: Run, sets: Sets) -> Made:
    """Return what two towers train with: pictures and captions in one space.

    Raises:
        BadInput: a setting that does not fit; before anything is spent.
    """
    _check(run)
    started, words = start_towers(run, sets.train)
    tokenizer = words.tokenizer
    expected = {name: value for name, value in started.preprocess.items() if name in ("image_size", "channels")}
    if expected != {"image_size": run.model.image_size, "channels": run.model.channels}:
        raise BadInput(f"the model reads pictures of {expected}: set --image-size and --channels to these.")
    preprocess = preprocess_of(run, sets.train)
    if run.model.init:  # a checkpoint is fed as it was trained
        preprocess = replace(preprocess, mean=tuple(started.preprocess["mean"]), std=tuple(started.preprocess["std"]))
    rows = data.PairRows(
        captioned=sets.train,
        preprocess=preprocess,
        encode=lambda captions: tokenizer.encode_texts(captions, words.max_tokens),
        max_tokens=words.max_tokens,
        vary_captions=run.training.vary_captions,
        jitter=_jitter(run, captions=True) if run.training.jitter else None,
        text_name="input_ids",
    )
    varied = preprocess.augment != "none" or preprocess.flip or rows.vary_captions or bool(rows.jitter)
    _check_views(run, varied=varied)
    shown = public_test(sets)
    embed, training_rows = started.embed, rows
    shown_rows = None if shown is None else replace(rows, captioned=shown)
    if not varied and pictures_stay(started):
        embed, training_rows = models.HeadTowers(), feature_rows(started, rows)
        shown_rows = None if shown_rows is None else feature_rows(started, shown_rows)
    loss_fn = losses.Contrast(embed=embed, loss=run.loss.of_pairs(), log_scale=started.log_scale)
    return Made(
        sets=sets,
        preprocess=preprocess,
        rows=training_rows,
        plan=run.plan(sets.train.num_records),
        model=started.model,
        loss_fn=loss_fn,
        training=started.training,
        notes=started.notes,
        export=lambda folder: write_towers(started, tokenizer, preprocess.to_dict(), folder),
        held_out=None if shown_rows is None else _held_out(shown_rows, loss_fn),
        public={"vocabulary": words.vocabulary},
        settings={"tokenizer": tokenizer.digest},
        said=str(words),
    )


def write_towers(
    towers: models.StartedTowers | models.LoadedTowers,
    tokenizer: models.Tokenizer,
    preprocess: dict[str, Any],
    folder: Path,
) -> Path:
    """Write two towers in the form of their own library; return the folder."""
    if isinstance(towers.model, models.TowerPair):
        return models.export_pair(towers.model, tokenizer, preprocess, folder)
    return models.export_dual(towers.model, towers.embed, tokenizer, preprocess, folder)


def read_towers(run: Run, folder: Path) -> models.LoadedTowers:
    """Return what `write_towers` wrote for a run."""
    return (models.load_pair if run.model.init == PRETRAINED else models.load_dual)(folder)


def start_towers(run: Run, train: data.Captioned) -> tuple[models.StartedTowers, Words]:
    """Return the towers at their start and their words; a checkpoint brings its own.

    Raises:
        BadInput: a setting or a checkpoint that does not fit.
    """
    settings = run.model
    if settings.init == PRETRAINED:
        if settings.size is not None or settings.dropout or settings.train_temperature:
            raise BadInput("towers of packages have no --size, --dropout or --train-temperature: leave these out.")
        started = models.lit_pair(
            train=settings.train,
            adapter=adapter_of(run),
            seed=settings.seed,
            embed_dim=settings.embed_dim or _LIT_DIM,
        )
        assert started.tokenizer is not None
        return started, _words_of_checkpoint(run, train, started.tokenizer)
    if settings.init is None:
        words = words_of(run, train, of_towers=True)
    elif settings.init.startswith(_OPEN_CLIP):
        words = _words_of_checkpoint(run, train, models.Tokenizer.of_open_clip())
    else:
        words = _words_of_checkpoint(run, train, models.Tokenizer.from_checkpoint(settings.init.split("+")[-1]))
    started = models.start_dual(
        tokenizer=words.tokenizer,
        image_size=settings.image_size,
        max_tokens=words.max_tokens,
        channels=settings.channels,
        size=settings.size,
        init=settings.init,
        train=settings.train,
        dropout=settings.dropout,
        embed_dim=settings.embed_dim,
        train_temperature=settings.train_temperature,
        seed=settings.seed,
    )
    return started, words


def _words_of_checkpoint(run: Run, train: data.Captioned, tokenizer: models.Tokenizer) -> Words:
    check_own_words(run)
    length = text_length(run, train, tokenizer, more=1)
    return Words(tokenizer=tokenizer, max_tokens=length, vocabulary="that of the checkpoint that training starts from")


def make_encoder(run: Run, sets: Sets) -> Made:
    """Return what one encoder trains with: two views of each picture.

    Raises:
        BadInput: a setting that does not fit; before anything is spent.
    """
    _check(run)
    started = start_encoder(run)
    preprocess = preprocess_of(run, sets.train)
    rows = data.TwoViews(captioned=sets.train, preprocess=preprocess, jitter=_jitter(run, captions=False))
    loss_fn = losses.Contrast(embed=started.embed, loss=run.loss.of_pairs())
    shown = public_test(sets)
    return Made(
        sets=sets,
        preprocess=preprocess,
        rows=rows,
        plan=run.plan(sets.train.num_records),
        model=started.model,
        loss_fn=loss_fn,
        training=started.training,
        notes=started.notes,
        export=lambda folder: models.export_encoder(started.model, preprocess.to_dict(), folder),
        held_out=None if shown is None else _held_out(replace(rows, captioned=shown), loss_fn),
        record="one picture",
        public={"vocabulary": "none: no words are read"},
        said="two views of each picture, no words",
    )


def start_encoder(run: Run) -> models.StartedTowers:
    """Return the encoder at its start. Raises BadInput for a setting or a checkpoint that does not fit."""
    settings = run.model
    return models.start_encoder(
        kind=settings.size or "small-conv",
        image_size=settings.image_size,
        channels=settings.channels,
        init=settings.init,
        train=settings.train,
        seed=settings.seed,
        width=settings.embed_dim or _ENCODER_DIM,
    )


def _check(run: Run) -> None:
    if run.privacy.unit == "example" and run.private:
        raise BadInput("a contrastive loss couples rows: its unit is group or pair, not example.")
    if run.model.checkpointing:
        raise BadInput("--checkpointing is for captioners.")
    if run.model.kind == "encoder" and run.model.dropout:
        raise BadInput("the encoders of two views have no --dropout.")


def _check_views(run: Run, *, varied: bool) -> None:
    if run.privacy.views > 1 and not varied:
        raise BadInput(
            f"--views {run.privacy.views} without augmentation is one row {run.privacy.views} times: choose --augment "
            "crop or shift, --jitter or --vary-captions."
        )


def _jitter(run: Run, *, captions: bool) -> data.Jitter:
    return data.Jitter.suited(run.model.image_size, channels=run.model.channels, captions=captions)


def _held_out(rows: Any, contrast: losses.Contrast) -> HeldOut:
    def loss(model: nn.Module, batch: Any) -> Tensor:
        u, v = contrast.embeddings(model, batch)
        similarity = u @ v.mT if contrast.log_scale else cosines(u, v)
        return contrast.rows(similarity, torch.ones_like(similarity, dtype=torch.bool))

    return HeldOut(
        rows=rows,
        loss=loss,
        metric="contrastive loss on held-out pictures, 128 at a time",
        unit="per picture",
    )
