"""Rows of declared-public pictures for the doctor: the only rows that it ever reads."""

from collections.abc import Callable
from dataclasses import replace
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

_HALF = 0.5


def public_case(case: Case, settings: Data, num_rows: int) -> tuple[Case, str]:
    """Return the case with rows of public pictures in the place of made-up ones, and the set's name.

    Captions are read where the model has a tokenizer, else the words stay made up. Two views are two random crops. A
    model that answers is asked the set's questions, or one public question of captions.

    Raises:
        BadInput: the set is not declared public, has too few rows, or questions for a model that is asked none.
        UndecodableRow: one of the rows cannot be fed.
    """
    captioned = _public_set(settings, case.image_size)
    if captioned.has_questions and case.answer is None:
        raise BadInput(f"{captioned.name} holds questions: the doctor asks them of whole vision-language checkpoints.")
    if len(captioned) < num_rows:
        raise BadInput(f"{captioned.name} has {len(captioned)} rows; the doctor reads {num_rows}.")
    if case.answer is not None:
        return replace(case, batch=_answers(case, captioned, num_rows)), captioned.name
    preprocess = data.Preprocess(image_size=case.image_size, mean=(_HALF,), std=(_HALF,), channels=case.channels)
    rows = [captioned[index] for index in _spread(captioned, num_rows)]
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

    return replace(case, batch=batch), captioned.name


def _spread(captioned: data.Captioned, num_rows: int) -> list[int]:
    return [int(index) for index in np.linspace(0, len(captioned) - 1, num_rows)]


def _answers(case: Case, captioned: data.Captioned, num_rows: int) -> Callable[[int], Any]:
    """Return n -> the first n rows as the model's own family encodes them; captions answer a public question."""
    assert case.answer is not None
    question = None if captioned.has_questions else QUESTION
    asked = data.AskedRows(captioned=captioned, encode=case.answer, question=question)
    rows = [asked[index] for index in _spread(captioned, num_rows)]
    return lambda count: default_collate(rows[:count])


def _public_set(settings: Data, image_size: int) -> data.Captioned:
    kind = settings.spec.partition(":")[0]
    if kind in BUILT_IN or settings.public:  # else nothing is opened
        found = sets_of(settings, image_size).train
        if found.public:
            return found
    raise BadInput(
        f"{kind}: the doctor reads no private rows. Declare the pictures public with --public, or leave --data out."
    )


def _views(preprocess: data.Preprocess, rows: list[Any]) -> dict[str, Tensor]:
    crop = replace(preprocess, augment="crop")
    generators = (np.random.default_rng(0), np.random.default_rng(1))
    views = [torch.stack([crop.train(row["image"], rng, None) for row in rows]) for rng in generators]
    return {"pixel_values": views[0], "other_view": views[1]}
