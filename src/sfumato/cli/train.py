"""`sfumato train RECIPE`: train under the plan's guarantee; the same command again resumes."""

import difflib
import inspect
import sys
from collections.abc import Sequence
from dataclasses import dataclass, make_dataclass, replace
from pathlib import Path
from typing import Any, Literal

import tyro

from sfumato.base import BadInput
from sfumato.base.ranges import flag
from sfumato.cli import _training
from sfumato.cli._flags import SECTIONS, OnceFlags, TrainFlags, hint_of
from sfumato.recipes.capabilities import RECIPES, reads, refuse_unread
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
class TrainCommand(OnceFlags, TrainFlags):
    """Train a model under differential privacy. Flags left out take the recipe's value for the data set.

    The same command again resumes where it was interrupted. What may be shared is in OUT/export/; OUT/private/ holds
    seed, ledger and logs and stays with you.
    """

    recipe: Literal["dp-cap", "dp-clip", "dp-gcl", "logit-dp", "dp-vqa", "dp-vlm"]


def parse(arguments: Sequence[str]) -> TrainCommand:
    """Return the command of `sfumato train RECIPE ...`; of each recipe the flags that it reads.

    Raises:
        BadInput: no recipe, one that there is not, or a flag of other recipes.
        SystemExit: for --help, and for what is no flag.
    """
    recipe, rest = _split(arguments)
    if recipe is None:
        sys.stdout.write(_overview())
        raise SystemExit(0 if arguments else 2)
    run = _recipe(
        recipe, _value(rest, "data") or "", contrast=_value(rest, "contrast"), model=_value(rest, "model") or ""
    )
    for name in _named(rest):
        if not reads(recipe, name):
            raise BadInput(f"{recipe} of {run.model.kind} has no setting {flag(name)}: remove it.")
    kept = {section: [one for one in flags if reads(recipe, one.name)] for section, (_, flags) in SECTIONS.items()}
    parts = []
    for section, flags in kept.items():
        if flags:
            bases = (OnceFlags,) if section == "output" else ()
            made = make_dataclass(
                section, [one.field(hint_of(one, run)) for one in flags], bases=bases, kw_only=True, frozen=True
            )
            made.__doc__ = SECTIONS[section][0]
            parts.append((section, made))
    command = make_dataclass("Command", parts, kw_only=True, frozen=True)
    command.__doc__ = f"{RECIPES[recipe].capitalize()}.\n\n{inspect.getdoc(TrainCommand)}"
    options = (tyro.conf.OmitArgPrefixes, tyro.conf.DisallowNone)
    found = tyro.cli(command, prog=f"sfumato train {recipe}", args=rest, config=options)
    flat = {name: value for section, _ in parts for name, value in vars(getattr(found, section)).items()}
    return TrainCommand(recipe=recipe, **flat)


def _split(arguments: Sequence[str]) -> tuple[Any, list[str]]:
    """Return the recipe, which is the first argument or else stands between flags, and the others."""
    given = list(arguments)
    if not given or given[0] in ("-h", "--help"):
        return None, given
    place = next((place for place, one in enumerate(given) if one in RECIPES), None)
    if given[0].startswith("-") and place is not None:
        return given[place], given[:place] + given[place + 1 :]
    if given[0] not in RECIPES:
        near = difflib.get_close_matches(given[0], RECIPES, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise BadInput(f"sfumato train needs a recipe first, one of {', '.join(RECIPES)}; got {given[0]!r}.{hint}")
    return given[0], given[1:]


def _named(arguments: Sequence[str]) -> list[str]:
    """Return the settings that are named as flags."""
    known = {one.name for _, flags in SECTIONS.values() for one in flags}
    said = (one[2:].partition("=")[0].replace("-", "_") for one in arguments if one.startswith("--"))
    return [name for name in said if name in known]


def _value(arguments: Sequence[str], name: str) -> str | None:
    """Return the value of a flag, without parsing the others."""
    for place, one in enumerate(arguments):
        said, equals, value = one.partition("=")
        if said == flag(name):
            return value if equals else next(iter(arguments[place + 1 : place + 2]), None)
    return None


def _overview() -> str:
    width = max(map(len, RECIPES))
    lines = "\n".join(f"  {name:<{width}}  {about}" for name, about in RECIPES.items())
    return (
        f"usage: sfumato train RECIPE --data DATA [OPTIONS]\n\n{inspect.getdoc(TrainCommand)}\n\nrecipes:\n{lines}\n\n"
        "  sfumato train RECIPE --help   the flags of a recipe, with its values; with --data, those for a data set\n"
    )


def run_of(command: TrainCommand) -> Run:
    """Return the recipe's run with the flags that were given.

    Raises:
        BadInput: flags that contradict one another, or that the recipe would ignore.
    """
    from sfumato.recipes.override import check_pairs, given, override

    run = _recipe(command.recipe, command.data, command.out, contrast=command.contrast, model=command.model)
    loss = command.loss or run.loss.kind
    named = frozenset(given(command)) - {"recipe"}
    refuse_unread(command.recipe, run.model.kind, command.train or run.model.train, loss, named)
    if run.model.kind == "vlm":
        _check_unit(command)
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


def _check_unit(command: TrainCommand) -> None:
    if command.unit != "group" and (command.num_groups, command.group_size) != (None, None):
        raise BadInput("--num-groups and --group-size are settings of --unit group: leave them out, or give it.")
    if command.model is not None and command.size is not None:
        raise BadInput("give one of --model (a folder) and --size (from scratch).")


def _recipe(recipe: str, data: str, out: Path | None = None, *, contrast: Any = None, model: str | None = None) -> Run:
    from sfumato.recipes import dp_cap, dp_clip, dp_gcl, dp_vlm, dp_vqa, logit_dp
    from sfumato.recipes.logit_dp import with_views

    if recipe == "dp-cap":
        return dp_cap(data, out)
    if recipe == "logit-dp":
        return logit_dp(data, out, contrast or "views")
    if recipe == "dp-vqa":
        return dp_vqa(data, out, model or None)
    if recipe == "dp-vlm":
        if model is None:
            raise BadInput("dp-vlm needs --model FOLDER: a local vision-language model.")
        return dp_vlm(data, model, out)
    run = (dp_clip if recipe == "dp-clip" else dp_gcl)(data, out)
    return with_views(run) if contrast == "views" else run


def run(command: TrainCommand) -> int:
    """Train, show progress, and say where the result is."""
    settings = run_of(command)
    return _training.carry_out(settings, new_attempt=command.new_attempt, reveal=command.reveal, seed=command.seed)
