"""Runs that were trained, for the doctor: what it would take to train their model on."""

from dataclasses import replace
from pathlib import Path

from sfumato import models
from sfumato.base import BadInput
from sfumato.models.bare import Bare
from sfumato.recipes.config import read_config
from sfumato.recipes.doctor_answers import answering_case
from sfumato.recipes.doctor_captioners import captioner_case
from sfumato.recipes.doctor_case import Asked, Case, only
from sfumato.recipes.doctor_pictures import two_views_case
from sfumato.recipes.doctor_towers import TEXT, dual_case, pair_case
from sfumato.recipes.exported import check_export
from sfumato.recipes.run import Run
from sfumato.recipes.trained import open_trained


def run_case(asked: Asked, folder: Path) -> Case:
    """Return the model that a run handed on.

    Raises:
        BadInput: no export, a classifier, or an adapter, which lies on a checkpoint of another folder.
    """
    run = read_config(folder)
    check_export(folder)
    if run.model.kind == "vlm":
        return replace(_answering(asked, run, folder), source=f"vision-language model of the run {folder}")
    source = f"{run.model.kind} of the run {folder}"
    trained = open_trained(folder)
    loaded = trained.loaded
    loaded.model.train()
    if run.model.kind == "towers" and loaded.embed.kind == "pair":
        return pair_case(asked, loaded, source)
    size, channels = int(loaded.preprocess["image_size"]), int(loaded.preprocess["channels"])
    if run.model.kind == "encoder":
        only(asked, "the encoder of a run")
        return replace(two_views_case(asked, loaded, size, channels), source=f"{source}, two views of each picture")
    only(asked, f"the {run.model.kind} of a run", "max_tokens")
    bare = Bare(
        kind=run.model.kind, model=loaded.model, source=source, is_random=False, image_size=size, channels=channels
    )
    if run.model.kind == "captioner":
        asked = replace(asked, max_tokens=asked.max_tokens or run.model.max_tokens)
        return captioner_case(asked, bare, loaded.tokenizer)
    length = run.model.max_tokens or models.text_positions(loaded.model) or TEXT
    return dual_case(asked, bare, loaded.embed, length, loaded.tokenizer.vocab_size, loaded.tokenizer)


def _answering(asked: Asked, run: Run, folder: Path) -> Case:
    if run.model.train in models.ADAPTERS:
        raise BadInput(
            f"{folder} holds an adapter ({run.model.train}) on {run.model.init}: look at that folder with --train "
            f"{run.model.train}, or merge the adapter into it."
        )
    usual = run.asking if run.model.init else replace(run.asking, image_size=None)  # BLIP from scratch knows its own
    return answering_case(asked, folder / "export", usual)
