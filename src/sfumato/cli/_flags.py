"""Flags, made from the dataclasses of settings: name, type, range and help of each stand there alone.

A flag that is left out is None, and takes the recipe's value for the data set.
"""

import ast
import inspect
import textwrap
from dataclasses import dataclass, fields, make_dataclass
from functools import lru_cache
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import tyro

from sfumato.base import limits
from sfumato.recipes.privacy import Loss, Privacy
from sfumato.recipes.run import Adapter, Asking, Data, Model, Run, Training

NOT_FLAGS = frozenset(
    ("spec", "num", "seed", "kind", "classes", "usual_batch_size", "beta1", "beta2", "crop_scale", "mean", "std")
)
"""Settings of a recipe that no flag gives, or that a flag of another name or another command does."""


@dataclass(frozen=True, kw_only=True)
class Flag:
    """One flag.

    Attributes:
        type: as tyro reads it, without None.
        help: what it means, with unit, range and what happens where it is left out.
        part: the part of a run that holds the setting; None where no part does.
        required: whether it has to be given.
    """

    name: str
    type: Any
    help: str
    part: str | None = None
    required: bool = False

    def field(self, hint: str = "") -> tuple:
        """Return what `make_dataclass` takes; `hint` stands behind the help, such as "(default: 8)"."""
        about = (
            tyro.conf.arg(help=self.help) if self.required else tyro.conf.arg(help=self.help, help_behavior_hint=hint)
        )
        if self.required:
            return self.name, Annotated[self.type, about]
        valued = (tyro.conf.FlagConversionOff,) if self.type is bool else ()  # --public True, not --public
        return self.name, Annotated[self.type | None, *getattr(self.type, "__metadata__", ()), *valued, about], None


@lru_cache(maxsize=32)
def helps(settings: type) -> dict[str, str]:
    """Return the docstrings behind the fields of a dataclass, by name."""
    body = ast.parse(textwrap.dedent(inspect.getsource(settings))).body[0]
    assert isinstance(body, ast.ClassDef)
    found = {}
    for one, following in zip(body.body, body.body[1:], strict=False):
        text = following.value if isinstance(following, ast.Expr) else None
        if isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name) and isinstance(text, ast.Constant):
            found[one.target.id] = " ".join(str(text.value).split())
    return found


def of_settings(part: str, settings: type) -> list[Flag]:
    """Return a flag for each field of a dataclass of settings that is one."""
    known = helps(settings)
    return [
        Flag(name=one.name, type=_without_none(one.type), help=known[one.name], part=part)
        for one in fields(settings)
        if one.name not in NOT_FLAGS
    ]


def _without_none(kind: Any) -> Any:
    """Return a type without None, its range as it was."""
    if get_origin(kind) is Annotated:
        inner, *about = get_args(kind)
        return Annotated[_without_none(inner), *about]
    if get_origin(kind) in (Union, UnionType):
        (only,) = [one for one in get_args(kind) if one is not type(None)]
        return only
    return kind


def _with(flags: list[Flag], *others: Flag, but: tuple[str, ...] = ()) -> list[Flag]:
    """Return flags with others in the place of those of the same name, or behind them."""
    known = {flag.name: flag for flag in (*flags, *others)}
    return [flag for name, flag in known.items() if name not in but]


def _apart(name: str, flags: list[Flag]) -> tuple[Flag, list[Flag]]:
    """Return the flag of a name, and the others."""
    return next(flag for flag in flags if flag.name == name), [flag for flag in flags if flag.name != name]


DATA = Flag(
    name="data",
    type=str,
    required=True,
    help="shapes[:NUM], shape-questions[:NUM], fashion-mnist, mnist, cifar10:FOLDER, cifar100:FOLDER, emoji, easy-vqa, "
    "vqa2:FOLDER, a folder of images, a .parquet file, or hf:NAME.",
)
UNIT = Flag(
    name="unit",
    type=Literal["example", "group", "batch"],
    part="privacy",
    help="What is clipped: the gradient of each record, of groups of records, or of the whole batch (the paper's).",
)
_CONTRAST = Flag(
    name="contrast",
    type=Literal["captions", "views"],
    help="What a contrastive loss compares: images with captions (two towers), or two views of an image (one encoder). "
    "Default: captions for dp-clip and dp-gcl, views for logit-dp.",
)
_LOSS = Flag(name="loss", type=Literal["infonce", "sigmoid", "spread-out"], help="Contrastive loss.")
_FOLDER = Flag(
    name="model",
    type=str,
    help="Folder of a vision-language model of transformers (BLIP, BLIP-2, GIT, LLaVA, PaliGemma, Qwen2-VL, SmolVLM, "
    "Idefics3), of open_clip's CoCa, or of a run of dp-vqa.",
)
_LEARNED, _MODEL = _apart("train_temperature", of_settings("model", Model))
_OUT = Flag(name="out", type=Path, help="Folder of the run. Default: runs/RECIPE-DATA.")

SECTIONS: dict[str, tuple[str, list[Flag]]] = {
    "data": ("Which images, texts and people.", [DATA, *of_settings("data", Data)]),
    "model": ("Which model, where it starts, and what of it trains.", [_FOLDER, *_MODEL]),
    "adapter": ("Small trained parts on frozen weights.", of_settings("adapter", Adapter)),
    "question": (
        "How a vision-language model is asked.",
        _with(of_settings("asking", Asking), but=("image_size",)),
    ),
    "loss": ("What a contrastive loss compares.", [_CONTRAST, _LOSS, *of_settings("loss", Loss), _LEARNED]),
    "privacy": ("Noise, sampling, clipping.", _with(of_settings("privacy", Privacy), UNIT)),
    "optimization": ("How released gradients are used, and how the work is cut up.", of_settings("training", Training)),
    "output": ("Where results go.", [_OUT]),
}
"""Section of a help text -> its heading, and the flags in it."""


def flags_of(name: str, *sections: str, but: tuple[str, ...] = ()) -> Any:
    """Return a dataclass with the flags of some sections, for commands to inherit."""
    found = [flag for section in sections for flag in SECTIONS[section][1] if flag.name not in but]
    return make_dataclass(name, [flag.field() for flag in found], kw_only=True, frozen=True)


DataFlags: Any = flags_of("DataFlags", "data", "output")
AdapterFlags: Any = flags_of("AdapterFlags", "adapter")
LengthFlags: Any = flags_of("LengthFlags", "question", but=("question",))
PrivacyFlags: Any = flags_of("PrivacyFlags", "privacy", but=("unit",))
UnitFlags: Any = make_dataclass("UnitFlags", [UNIT.field()], kw_only=True, frozen=True)
LossFlags: Any = flags_of("LossFlags", "loss")
OptimizerFlags: Any = flags_of("OptimizerFlags", "optimization")
TrainFlags: Any = flags_of("TrainFlags", *SECTIONS)


@dataclass(frozen=True, kw_only=True)
class OnceFlags:
    """What concerns this call alone."""

    non_private: bool = False
    """Train the twin without clipping and noise, to see what privacy costs. NOT PRIVATE."""

    new_attempt: bool = False
    """Go on with an interrupted run although settings changed; steps done again are charged again."""

    reveal: Annotated[Literal["debug"] | None, tyro.conf.arg(help_behavior_hint="")] = None
    """Show un-noised losses. The card will say so."""

    seed: Annotated[int | None, limits.SEED, tyro.conf.arg(help_behavior_hint="")] = None
    """Make the run reproducible. The card will say NOT PRIVATE: public seed."""


def hint_of(flag: Flag, run: Run) -> str:
    """Return what stands behind the help of a flag: the value that a run has for it, where it has one."""
    if flag.name == "loss" and run.loss.kind in get_args(_LOSS.type):
        return f"(default: {run.loss.kind})"
    if flag.part is None:
        return ""
    part = "asking" if flag.name == "image_size" and run.model.kind == "vlm" else flag.part
    value = getattr(getattr(run, part), flag.name)
    if value is None and flag.name == "expected_batch_size":
        value = run.privacy.usual_batch_size
    if value is None or value == ():
        return ""
    return f"(default: {value:g})" if isinstance(value, float) else f"(default: {value})"
