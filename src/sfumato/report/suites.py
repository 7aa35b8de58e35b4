"""What `sfumato evaluate` writes, as rows for the report. A suite measured on private pictures is left out."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Row = dict[str, Any]
OWN = "this run"
_TITLES = {
    "probe": "linear probe",
    "fewshot": "few-shot probe",
    "knn": "nearest neighbours",
    "zeroshot": "zero-shot by caption likelihood",
    "retrieval": "retrieval",
    "caption": "captions",
    "shapes": "attributes named in captions",
    "shapes_unseen": "attributes named in captions, combinations never trained on",
    "aro": "caption against a hard negative",
    "vqa": "visual questions",
    "vqa_baselines": "visual questions",
}
_FEATURES = {"encoder": OWN, "random_init": "untrained encoder", "pixels": "raw pixels", "hog": "HOG"}
_WRITERS = {"captioner": OWN, "shuffled": "same captions, other pictures"}
_BY_PROMPTS = ("prompt ensemble", "class captions")  # methods of a dual encoder
_WAYS = {"image_to_text": ("image to text", "captions"), "text_to_image": ("text to image", "pictures")}
_RANDOM = "random order"
_INTERVAL = ("low", "high", "n", "chance")


def evaluations(metrics: Any) -> list[Mapping[str, Any]]:
    """Return the evaluations in a metrics file: one object with "suites", or a list of such, each with its "step"."""
    found = metrics if isinstance(metrics, list) else [metrics]
    return [entry for entry in found if isinstance(entry, Mapping) and isinstance(entry.get("suites"), Mapping)]


def suite_rows(evaluation: Mapping[str, Any]) -> list[Row]:
    """Return one row per figure: {"metric", "features", "value"} with interval, chance, unit and the step if known."""
    step = {} if evaluation.get("step") is None else {"step": evaluation["step"]}
    return [
        {**row, **step}
        for name, found in evaluation["suites"].items()
        if isinstance(found, Mapping) and not found.get("private", False)
        for row in _suite(str(name), found)
    ]


def _suite(name: str, found: Mapping[str, Any]) -> Iterator[Row]:
    title = _TITLES.get(name, name.replace("_", " "))
    if "skipped" in found:
        yield {"metric": title, "features": "skipped", "value": str(found["skipped"])}
    elif name == "fewshot":
        yield from _few_shot(title, found)
    elif name == "caption":
        yield from _captions(title, found)
    elif name == "zeroshot":
        yield from _zero_shot("zero-shot by prompts" if found.get("method") in _BY_PROMPTS else title, found)
    elif name == "retrieval":
        yield from _retrieval(title, found)
    elif "accuracy" in found:
        yield _share(title, OWN, found)
    else:
        for key, value in found.items():
            if isinstance(value, Mapping) and "accuracy" in value:
                yield _share(title, _FEATURES.get(key, str(key).replace("_", " ")), value)


def _share(title: str, features: str, found: Mapping[str, Any]) -> Row:
    rest = {key: found[key] for key in _INTERVAL if found.get(key) is not None}
    return {"metric": title, "features": features, "value": found["accuracy"], "unit": "share", **rest}


def _zero_shot(title: str, found: Mapping[str, Any]) -> Iterator[Row]:
    yield _share(title, OWN, found)
    if isinstance(found.get("top5"), Mapping):
        yield _share(f"{title}, right among the first five", OWN, found["top5"])


def _retrieval(title: str, found: Mapping[str, Any]) -> Iterator[Row]:
    """One chapter per direction and figure, the run beside random order."""
    for key, (way, candidates) in _WAYS.items():
        one = found.get(key)
        if not isinstance(one, Mapping):
            continue
        among = f"{title}, {way} among {one['num_candidates']:,} {candidates}"
        for name, value in one.items():
            if isinstance(value, Mapping) and "accuracy" in value:
                row = _share(f"{among}, R@{str(name).removeprefix('r')}", OWN, value)
                yield from _beside_random(row, _percent(value["chance"]))
        middle = one["median_rank"]
        row = {"metric": f"{among}, median rank", "features": OWN, "unit": f"of {one['num_candidates']:,}"}
        row |= {end: _whole(middle[end]) for end in ("value", "low", "high")}
        yield from _beside_random(row, f"{middle['chance']:g}")


def _beside_random(row: Row, chance: str) -> Iterator[Row]:
    """Yield a row, and what guessing gets as a row of its own: among many candidates a mark on a bar stands at zero."""
    yield row
    yield {"metric": row["metric"], "features": _RANDOM, "value": chance, "unit": row["unit"]}


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %" if 0 < share < 0.01 else f"{100 * share:.1f} %"


def _whole(number: float) -> int | float:
    return int(number) if number == int(number) else number


def _few_shot(title: str, found: Mapping[str, Any]) -> Iterator[Row]:
    """One chapter per number of shots, so that the run stands beside its baselines at equal shots."""
    numbers: Sequence[str] = list(dict.fromkeys(shots for key in _FEATURES for shots in found.get(key, {})))
    for shots in numbers:
        for key, features in _FEATURES.items():
            one = found.get(key, {}).get(shots)
            if one is not None:
                row = {"metric": f"{title}, {shots} per class", "features": features, "value": one["mean"]}
                chance = {} if one.get("chance") is None else {"chance": one["chance"]}
                yield {**row, "spread": one.get("std"), "unit": "share", **chance}


def _captions(title: str, found: Mapping[str, Any]) -> Iterator[Row]:
    for score, name in (("bleu4", "BLEU-4"), ("cider", "CIDEr-D")):
        for key, features in _WRITERS.items():
            one = found.get(key)
            if isinstance(one, Mapping) and score in one:
                ends = {end: one[f"{score}_{end}"] for end in ("low", "high") if f"{score}_{end}" in one}
                yield {"metric": f"{title}, {name}", "features": features, "value": one[score], **ends}
