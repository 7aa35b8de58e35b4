"""`sfumato train RECIPE`: train under the plan's guarantee; the same command again resumes."""

from dataclasses import dataclass, replace
from typing import Annotated, Literal

import tyro

from sfumato.base import BadInput
from sfumato.cli import _training
from sfumato.cli._flags import (
    AskingFlags,
    ContrastFlags,
    DataFlags,
    ModelFlags,
    OnceFlags,
    OptimizerFlags,
    PrivacyFlags,
)
from sfumato.recipes.run import Run

EXAMPLES = """
sfumato train dp-cap --data fashion-mnist --epsilon 8 --delta 1.6667e-6
sfumato train dp-cap --data images/ --captions reports.csv --image-column file --caption-column text \\
    --owner-column patient --window 0 4095 --vocabulary vocab.txt --max-tokens 40 --epsilon 8 --holdout 0.1
sfumato train dp-cap --data shapes:200000 --epsilon 4 --out runs/shapes
sfumato train dp-cap --data fashion-mnist --non-private --out runs/twin
sfumato train dp-gcl --data fashion-mnist --epsilon 8
sfumato train dp-clip --data images/ --captions products.csv --init clip/ --train last-2 --max-tokens 77 --epsilon 3
sfumato train dp-gcl --data emoji --init lit --holdout 0.2 --epsilon 8
sfumato train logit-dp --data fashion-mnist --temperature 0.5 --epsilon 8        # one encoder, two views
sfumato train logit-dp --data fashion-mnist --contrast captions --epsilon 8
sfumato train dp-vqa --data easy-vqa --epsilon 8
sfumato train dp-vqa --data vqa2:coco/ --model blip-vqa-base/ --unit batch --epsilon 8
sfumato train dp-vlm --model llava/ --train lora --data scans/ --captions questions.csv --question-column question \\
    --answer-column finding --owner-column patient --holdout 0.1 --epsilon 3
torchrun --nproc-per-node 4 -m sfumato train dp-cap --data hf:owner/name --vocabulary vocab.txt --max-tokens 40
"""


@dataclass(frozen=True, kw_only=True)
class TrainCommand(OnceFlags, OptimizerFlags, PrivacyFlags, ContrastFlags, AskingFlags, ModelFlags, DataFlags):
    """Train a model under differential privacy. Flags left out take the recipe's value for the data set.

    The same command again resumes where it was interrupted. What may be shared is in OUT/export/; OUT/private/ holds
    seed, ledger and logs and stays with you.
    """

    recipe: Annotated[Literal["dp-cap", "dp-clip", "dp-gcl", "logit-dp", "dp-vqa", "dp-vlm"], tyro.conf.Positional]
    """What to train: dp-cap (a captioner, clipped per example), or with a contrastive loss: dp-clip (the whole batch's
    gradient is clipped), dp-gcl (that of small groups), logit-dp (that of each pair's similarity). With questions and
    answers: dp-vqa (BLIP, also from scratch), dp-vlm (any vision-language model of a folder, by default through
    LoRA)."""


_OF_WORDS = (
    "vocabulary",
    "public_text",
    "strip_accents",
    "max_tokens",
    "vary_captions",
    "train_temperature",
    "templates",
    "jitter",
)
_OF_GROUPS = ("num_groups", "group_size")
_CONSTANTS = {"temperature", "bias", "symmetric"}
_CONSTANTS_OF = {"infonce": {"temperature", "symmetric"}, "sigmoid": {"temperature", "bias"}, "spread-out": set()}
_OF_CONTRAST = (*sorted(_CONSTANTS), "contrast", "loss", "embed_dim", "train_temperature", "norms")
_OF_ADAPTERS = ("rank", "alpha", "targets", "frozen_dtype")
_OF_ANSWERS = ("model", "max_question", "max_answer", "prompt", "question", "unit")
_OF_PICTURES = ("augment", "flip", "jitter", "vary_captions", "templates", "channels", "dropout", "max_tokens", "init")
_HAS_NO = {
    "dp-cap": (*_OF_CONTRAST, *_OF_GROUPS, *_OF_ADAPTERS, *_OF_ANSWERS),
    "dp-clip": ("norms", *_OF_GROUPS, *_OF_ANSWERS),
    "dp-gcl": ("norms", *_OF_ANSWERS),
    "logit-dp": ("clip", "views", "train_temperature", *_OF_GROUPS, *_OF_ADAPTERS, *_OF_ANSWERS),
    "dp-vqa": (*_OF_CONTRAST, *_OF_PICTURES),
    "dp-vlm": (*_OF_CONTRAST, *_OF_PICTURES, "size", "vocabulary", "public_text", "strip_accents"),
}
_ASKED = ("dp-vqa", "dp-vlm")


def run_of(command: TrainCommand) -> Run:
    """Return the recipe's run with the flags that were given.

    Raises:
        BadInput: flags that contradict one another, or that the recipe would ignore.
    """
    from sfumato.recipes.override import check_pairs, given, override

    run = _recipe(command)
    flags = given(command)
    for name in (*_HAS_NO[command.recipe], *(_OF_WORDS if run.model.kind == "encoder" else ())):
        if name in flags:
            raise BadInput(
                f"{command.recipe} of {run.model.kind} has no setting --{name.replace('_', '-')}: remove it."
            )
    if not _has_adapter(command.train or run.model.train):
        for name in _OF_ADAPTERS:
            if name in flags:
                raise BadInput(f"--{name.replace('_', '-')} is a setting of --train lora and dora: leave it out.")
    if command.recipe in _ASKED:
        _check_unit(command)
    elif command.recipe != "dp-cap":
        loss = command.loss or run.loss.kind
        for name in _CONSTANTS - _CONSTANTS_OF[loss]:
            if name in flags:
                raise BadInput(f"the loss {loss} has no --{name}: remove it.")
    check_pairs(command)
    run = override(replace(run, private=not command.non_private), command)
    if command.init is not None and command.size is None and run.model.kind != "captioner":
        run = replace(run, model=replace(run.model, size=None))
    if command.init == "lit":
        usual = {"image_size": command.image_size or 224, "channels": command.channels or 3}
        run = replace(run, model=replace(run.model, **usual, train=command.train or "heads"))
    if command.train_temperature and command.temperature is None:  # the checkpoint's own scale stands alone
        run = replace(run, loss=replace(run.loss, temperature=1.0))
    if command.loss is not None:
        run = replace(run, loss=replace(run.loss, kind=command.loss))
    if command.unit in ("group", "batch"):
        run = replace(run, privacy=replace(run.privacy, unit="group"))
    if command.unit == "batch":
        run = replace(run, privacy=replace(run.privacy, num_groups=1))
    return run


def _has_adapter(train: str) -> bool:
    return train in ("lora", "dora")


def _check_unit(command: TrainCommand) -> None:
    if command.unit != "group" and (command.num_groups, command.group_size) != (None, None):
        raise BadInput("--num-groups and --group-size are settings of --unit group: leave them out, or give it.")
    if command.model is not None and command.size is not None:
        raise BadInput("give one of --model (a folder) and --size (from scratch).")


def _recipe(command: TrainCommand) -> Run:
    from sfumato.recipes import dp_cap, dp_clip, dp_gcl, dp_vlm, dp_vqa, logit_dp
    from sfumato.recipes.logit_dp import with_views

    if command.recipe == "dp-cap":
        return dp_cap(command.data, command.out)
    if command.recipe == "logit-dp":
        return logit_dp(command.data, command.out, command.contrast or "views")
    if command.recipe == "dp-vqa":
        return dp_vqa(command.data, command.out, command.model)
    if command.recipe == "dp-vlm":
        if command.model is None:
            raise BadInput("dp-vlm needs --model FOLDER: a local vision-language model.")
        return dp_vlm(command.data, command.model, command.out)
    run = (dp_clip if command.recipe == "dp-clip" else dp_gcl)(command.data, command.out)
    return with_views(run) if command.contrast == "views" else run


def run(command: TrainCommand) -> int:
    """Train, show progress, and say where the result is."""
    settings = run_of(command)
    return _training.carry_out(settings, new_attempt=command.new_attempt, reveal=command.reveal, seed=command.seed)
