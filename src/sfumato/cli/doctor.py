"""`sfumato doctor MODEL`: whether a model can be trained privately, what it costs, and whether there is hope."""

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from sfumato.base import limits
from sfumato.base.ranges import Real, Whole
from sfumato.cli import _doctor_text
from sfumato.cli._flags import AdapterFlags, LengthFlags
from sfumato.cli._screen import screen, working, write_line

if TYPE_CHECKING:  # importing torch takes seconds, which --help need not wait for
    from sfumato.recipes.doctor import Wish
    from sfumato.recipes.doctor_case import Asked

EXAMPLES = """
sfumato doctor clip-folder/ --records 200000 --epsilon 3
sfumato doctor open_clip:ViT-B-32 --train heads --micro-batch-size 16 --check
sfumato doctor timm:resnet50                               # BatchNorm: refused, with what works
sfumato doctor timm:resnet50 --batch-norm group
sfumato doctor small-conv --image-size 28 --channels 1 --records 60000 --epsilon 8 --data fashion-mnist
sfumato doctor llava/ --train lora --rank 4 --frozen-dtype bfloat16 --max-answer 16 --records 20000 --epsilon 3
sfumato doctor runs/dp-vqa-easy-vqa --data easy-vqa --records 4000
sfumato doctor blip-folder/ --memory 16 --json
"""
_NOT_TRAINABLE = 1
_OF_PLAN = ("epsilon", "delta", "expected_batch_size", "steps", "clip_norm")
_OF_DATA = ("public", "captions", "image_column", "caption_column", "question_column", "answer_column", "max_pixels")


@dataclass(frozen=True, kw_only=True)
class DoctorCommand(AdapterFlags, LengthFlags):
    """Look at a model before any budget is spent: which parameters train and which rule measures each, what is refused
    and the nearest thing that works, time and memory of a step, the signal beside the noise. Touches no private rows.

    Returns 0 where the model can be trained as it is, 1 with one sentence where it cannot.
    """

    model: Annotated[str, tyro.conf.Positional]
    """A transformers folder (captioner, dual encoder, vision-language model), CoCa's, a run's, open_clip:NAME[:FILE],
    timm:NAME[:FILE], lit (towers of packages), or a built-in size. Random weights where there are none."""

    kind: Literal["captioner", "towers", "encoder"] | None = None
    """Of a built-in size: captioner (default), towers, or encoder (two views). timm: encoder, else its classifier."""

    train: str = "all"
    """What trains: all, heads or last-K; of vision-language models and of timm also bias, lora, dora."""

    unit: Literal["example", "group"] | None = None
    """What is clipped. Default: the example, a group where the loss couples rows."""

    group_size: Annotated[int, Whole(1, 10**6)] = 16
    """Rows of a group."""

    image_size: Annotated[int | None, limits.IMAGE_SIZE] = None
    """Pixels of a side. Default: the model's own."""

    channels: Annotated[int | None, limits.CHANNELS] = None
    """Of pictures: 3, or 1 for gray."""

    max_tokens: Annotated[int | None, limits.TOKENS] = None
    """Text length. Default: the model's own, at most 77. Of questions: --max-question, --max-answer."""

    batch_norm: Literal["keep", "frozen", "group"] | None = None
    """Of timm: leave BatchNorm (usual), hold its statistics, or put GroupNorm in its place (usual with --kind encoder).
    """

    micro_batch_size: Annotated[int | None, limits.MICRO_BATCH] = None
    """Rows in memory at once, for which time and memory are estimated from smaller ones. Default: 32."""

    memory: Annotated[float | None, Real(1e-3, 1e6)] = None
    """GB that may be used. Default: what this machine has left."""

    no_measure: bool = False
    """Leave time and memory out."""

    check: bool = False
    """Also take a step at --micro-batch-size, and print how the estimate compares."""

    records: Annotated[int | None, limits.RECORDS] = None
    """Number of records N: with it the first step's signal is set beside its noise."""

    epsilon: float | None = None
    """The epsilon to meet. Default: 8."""

    delta: float | None = None
    """The delta of the claim. Default: 1 / (10 N)."""

    expected_batch_size: int | None = None
    """Records of a step, in expectation. Default: 2048."""

    steps: int | None = None
    """Number of steps. Default: 400."""

    clip_norm: float | None = None
    """Largest norm of what is clipped. Default: 1."""

    data: str | None = None
    """Pictures on which the signal is measured instead of made-up ones: shapes, fashion-mnist, easy-vqa, a folder, ...;
    they must be public."""

    public: bool = False
    """The pictures of --data are declared public. What the program draws or a package brings is public by itself."""

    captions: str | None = None
    """Of --data: CSV, TSV or JSONL table of a picture folder. Default: a .txt file beside each picture."""

    image_column: str | None = None
    """Of --data: column with the picture's file name."""

    caption_column: str | None = None
    """Of --data: column with the caption."""

    question_column: str | None = None
    """Of --data: column with the question."""

    answer_column: str | None = None
    """Of --data: column with the answer."""

    max_pixels: int | None = None
    """Of --data: limit on the pixels of a picture; larger ones count as unreadable."""

    json: bool = False
    """Print one JSON object."""


def run(command: DoctorCommand) -> int:
    """Diagnose, show what was found, and return whether the model can be trained as it is."""
    from sfumato.recipes.doctor import diagnose, facts

    wish, console = _wish(command), screen(error=True)
    with working(console, "looking at the model"):
        found = diagnose(_asked(command), wish)
    if command.json:
        sys.stdout.write(json.dumps(facts(found), indent=1, allow_nan=False) + "\n")
    else:
        _doctor_text.show(screen(), found, wish.micro_batch_size, wish.privacy.batch_size)
    if found.trainable:
        return 0
    write_line(f"sfumato: {_doctor_text.one_sentence(found)}", error=True)
    return _NOT_TRAINABLE


def _asked(command: DoctorCommand) -> "Asked":
    from sfumato.recipes.doctor_case import Asked
    from sfumato.recipes.override import given
    from sfumato.recipes.run import Adapter

    flags = given(command)
    return Asked(
        **{f.name: flags[f.name] for f in fields(Asked) if f.name in flags},
        adapter=Adapter(**{f.name: flags[f.name] for f in fields(Adapter) if f.name in flags}),
    )


def _wish(command: DoctorCommand) -> "Wish":
    from sfumato.recipes.doctor import Wish
    from sfumato.recipes.override import given
    from sfumato.recipes.run import Data, Privacy

    flags = given(replace(command, public=command.public or None))
    _refuse_unread(flags, measure=not command.no_measure)
    of_data = {name: flags[name] for name in _OF_DATA if name in flags}
    return Wish(
        **{name: flags[name] for name in ("micro_batch_size", "check", "records") if name in flags},
        memory_gb=command.memory,
        measure=not command.no_measure,
        privacy=Privacy(**{name: flags[name] for name in _OF_PLAN if name in flags}),
        data=None if command.data is None else Data(spec=command.data, **of_data),
    )


def _refuse_unread(flags: Mapping[str, Any], *, measure: bool) -> None:
    """Raise BadInput for a flag that nothing would read; `Wish` refuses others."""
    from sfumato.base import BadInput
    from sfumato.recipes.doctor_case import flag

    unread: dict[str, str] = {}
    if "records" not in flags:
        unread |= dict.fromkeys(("data", *_OF_PLAN), "with --records")
    if "data" not in flags:
        unread |= dict.fromkeys(_OF_DATA, "with --data")
    if measure:
        unread.pop("expected_batch_size", None)  # a step of that size is timed
    else:
        unread["micro_batch_size"] = "without --no-measure"
    for name, how in unread.items():
        if name in flags:
            raise BadInput(f"{flag(name)} is read only {how}.")
