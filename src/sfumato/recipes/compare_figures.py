"""The figures of one cell of the comparison, from arrays and from the results of the suites."""

from typing import Any

import numpy as np

from sfumato import evaluate
from sfumato.base import BadInput
from sfumato.recipes.sets import Sets


def held_out(sets: Sets) -> Any:
    """Return what is reported on. Raises BadInput where nothing is held out."""
    if sets.test is None:
        raise BadInput("the comparison needs held-out pictures.")
    return sets.test


def of_features(
    subject: evaluate.Subject, preprocess: Any, sets: Sets, *, train_limit: int, limit: int
) -> dict[str, float | None]:
    """Return k nearest neighbours and linear probe of the encoder's features."""
    assert subject.encode is not None  # towers and encoders have one
    parts = []
    for dataset, most in ((sets.train, train_limit), (held_out(sets), limit)):
        rows = evaluate.subset(len(dataset), most, 0)
        found = evaluate.embed(dataset, preprocess, {"encoder": subject.encode}, rows=rows)
        parts += [found.features["encoder"], np.asarray(dataset.labels)[found.rows]]
    probe = evaluate.linear_probe(*parts, seed=0).to_json()["accuracy"]
    return {"knn": evaluate.knn(*parts).accuracy.rate, "probe": probe}


def of_texts(found: dict[str, Any]) -> dict[str, float | None]:
    """Return zero-shot accuracy and retrieval both ways."""
    figures: dict[str, float | None] = {"zeroshot": found.get("zeroshot", {}).get("accuracy")}
    for way, short in (("image_to_text", "i2t"), ("text_to_image", "t2i")):
        one = found.get("retrieval", {}).get(way)
        for k in ("r1", "r5", "r10"):
            figures[f"{short}_{k}"] = None if one is None else one[k]["accuracy"]
        figures[f"{short}_median_rank"] = None if one is None else one["median_rank"]["value"]
    return figures
