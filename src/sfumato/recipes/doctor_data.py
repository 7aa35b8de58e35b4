"""Rows on which the doctor measures the signal: made up, or of declared-public pictures, the only ones it reads."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import default_collate

from sfumato import data
from sfumato.base import BadInput
from sfumato.data.load import BUILT_IN
from sfumato.recipes.answering import QUESTION
from sfumato.recipes.doctor_case import Case
from sfumato.recipes.run import Data
from sfumato.recipes.sets import sets_of

MADE_UP = "made-up"
_HALF = 0.5
_ROWS, _GROUPS = 32, 16  # that are read
_FEWEST = 8  # of a small public set
_LARGEST = 64  # rows of a group: two groups are in memory at once
_MADE = ("shapes", "shape-questions")  # drawn by the program: what follows the colon is a number, no folder


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Rows on which the signal is measured.

    Attributes:
        case: its `batch` gives them.
        number: how many; whole groups, an even number of them, where the unit is the group.
        inputs: "made-up", or the public set in words.
        real: whether words, labels and answers belong to the pictures, or there are none.
    """

    case: Case
    number: int
    inputs: str
    real: bool


def rows_of(case: Case, settings: Data | None, group_size: int) -> Rows:
    """Return public rows, or made-up ones where `settings` is None.

    Raises:
        BadInput: groups that are too large, or as `public_rows`.
        UndecodableRow: one of the rows cannot be fed.
    """
    size = group_size if case.unit == "group" else 1
    if size > _LARGEST:
        raise BadInput(
            f"--group-size {size}: the signal is measured on groups of at most {_LARGEST} rows. Leave --records out, "
            "or give a smaller one."
        )
    number = size * (_GROUPS if case.unit == "group" else _ROWS)
    if settings is None:
        return Rows(case=case, number=number, inputs=MADE_UP, real=False)
    return public_rows(case, settings, number, size)


def public_rows(case: Case, settings: Data, number: int, size: int = 1) -> Rows:
    """Return rows of public pictures, drawn at random: `number`, or as many as the set has.

    Captions are read where the model has a tokenizer, else the words stay made up, as do the labels of a classifier.
    Two views are two random crops. A model that answers is asked the set's questions, or one public question of
    captions.

    Args:
        size: rows of a unit; there are whole ones, and an even number of them.

    Raises:
        BadInput: the set is not declared public, has too few rows, or questions for a model that is asked none.
        UndecodableRow: one of the rows cannot be fed.
    """
    captioned = _public_set(settings, case.image_size)
    if captioned.has_questions and case.answer is None:
        raise BadInput(f"{captioned.name} holds questions: the doctor asks them of whole vision-language checkpoints.")
    number = min(number, len(captioned)) // (2 * size) * 2 * size
    if number < _FEWEST * size:
        raise BadInput(f"{captioned.name} has {len(captioned)} rows; the doctor reads at least {_FEWEST * size}.")
    drawn = [int(index) for index in np.random.default_rng(0).choice(len(captioned), number, replace=False)]
    if case.answer is not None:
        return Rows(
            case=replace(case, batch=_answers(case, captioned, drawn)), number=number, inputs=captioned.name, real=True
        )
    batch, made = _pictures(case, [_seen(case, captioned[index]) for index in drawn])
    inputs = f"pictures of {captioned.name}, {made} made up" if made else captioned.name
    return Rows(case=replace(case, batch=batch), number=number, inputs=inputs, real=not made)


def _pictures(case: Case, rows: list[Any]) -> tuple[Callable[[int], Any], str]:
    """Return n -> the first n rows as the model reads them, and what of them stays made up."""
    preprocess = data.Preprocess(image_size=case.image_size, mean=(_HALF,), std=(_HALF,), channels=case.channels)
    pixels = torch.stack([preprocess.evaluate(row["image"]) for row in rows])

    def batch(count: int) -> dict[str, Tensor]:
        found = dict(case.batch(count))
        found["pixel_values"] = pixels[:count]
        if "other_view" in found:
            found |= _views(preprocess, rows[:count])
        if case.encode is not None:
            found[case.text_name] = case.encode(
                [row["caption"] for row in rows[:count]], found[case.text_name].shape[1]
            )
        return found

    if case.encode is not None or "other_view" in case.batch(1):
        return batch, ""
    return batch, "words" if "input_ids" in case.batch(1) or case.text_name else "labels"


def _seen(case: Case, row: dict[str, Any]) -> dict[str, Any]:
    """Return a row whose picture is no larger than random crops of it need: all rows are in memory at once."""
    return {**row, "image": data.reduced(row["image"], 2 * case.image_size)}


def _answers(case: Case, captioned: data.Captioned, drawn: list[int]) -> Callable[[int], Any]:
    """Return n -> the first n rows as the model's own family encodes them; captions answer a public question."""
    assert case.answer is not None
    question = None if captioned.has_questions else QUESTION
    asked = data.AskedRows(captioned=captioned, encode=case.answer, question=question)
    rows = [asked[index] for index in drawn]
    return lambda count: default_collate(rows[:count])


def _public_set(settings: Data, image_size: int) -> data.Captioned:
    kind, _, rest = settings.spec.partition(":")
    public_by_nature = kind in BUILT_IN and (not rest or kind in _MADE)  # what a named folder holds nobody knows
    if public_by_nature or settings.public:  # else nothing is opened
        found = sets_of(settings, image_size).train
        if found.public:
            return found
    raise BadInput(
        f"{settings.spec}: the doctor reads no private rows. Declare the pictures public with --public, or leave "
        "--data out."
    )


def _views(preprocess: data.Preprocess, rows: list[Any]) -> dict[str, Tensor]:
    crop = replace(preprocess, augment="crop")
    generators = (np.random.default_rng(0), np.random.default_rng(1))
    views = [torch.stack([crop.train(row["image"], rng, None) for row in rows]) for rng in generators]
    return {"pixel_values": views[0], "other_view": views[1]}
