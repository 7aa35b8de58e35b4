"""Classes as texts for a dual encoder: each class is the mean of its prompts' embeddings.

Shapes: K classes, T prompts of a class, d the width of the embeddings.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from sfumato.base import BadInput
from sfumato.data.labelled import filled
from sfumato.evaluate.bench import NotApplicableError
from sfumato.evaluate.cosine import ROUNDING, unit

PROMPTS = (
    "{a} {label}",
    "a photo of {a} {label}",
    "a picture of {a} {label}",
    "a small picture of {a} {label}",
    "a close view of {a} {label}",
    "a drawing of {a} {label}",
    "this picture shows {a} {label}",
)


@dataclass(frozen=True, kw_only=True)
class Prompts:
    """The texts of each class, as many for every class, with what a result says of them."""

    texts: tuple[tuple[str, ...], ...]
    told: dict[str, Any]


def prompts_of(dataset: Any) -> Prompts:
    """Return the prompts of a set's classes: its own `templates`, else its `class_captions`, else `PROMPTS`.

    Templates hold {label}, and may hold {a} for its article.

    Raises:
        NotApplicableError: the set has neither class names nor class captions.
        BadInput: a template that cannot be filled.
    """
    names, captions = getattr(dataset, "class_names", None), getattr(dataset, "class_captions", None)
    templates = getattr(dataset, "templates", None)
    if captions is not None and (names is None or templates is None):
        told = {"method": "class captions", "captions": list(captions)}
        return Prompts(texts=tuple((text,) for text in captions), told=told)
    if names is None:
        raise NotApplicableError("the test set has no class names")
    chosen = tuple(PROMPTS if templates is None else templates)
    return Prompts(texts=filled(chosen, names), told={"method": "prompt ensemble", "prompts": list(chosen)})


def class_embeddings(texts: np.ndarray) -> np.ndarray:
    """Return the unit mean of each class's unit text embeddings, float32 (K, d).

    Args:
        texts: (K, T, d) float, T >= 1.

    Raises:
        BadInput: values that are not finite, or prompts that cancel each other.
    """
    num_classes, num_prompts, width = texts.shape
    rows = unit(texts.reshape(num_classes * num_prompts, width), "text embeddings")
    means = rows.reshape(texts.shape).mean(1)
    if (np.linalg.norm(means, axis=1) < ROUNDING).any():
        raise BadInput("the prompts of a class cancel each other: their mean embedding has no direction.")
    return unit(means, "text embeddings")
