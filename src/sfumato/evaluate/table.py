"""Results as rows of text, for a terminal or a report."""

from typing import Any

COLUMNS = ("measure", "of", "value", "95 % interval", "n", "chance")
MAX_KINDS = 12  # question types of a set with more are left to the JSON file
Row = tuple[str, str, str, str, str, str]

_TITLES = {
    "probe": "linear probe",
    "fewshot": "few-shot probe",
    "knn": "nearest neighbours",
    "zeroshot": "zero-shot",
    "retrieval": "retrieval",
    "caption": "captions",
    "shapes": "scenes",
    "shapes_unseen": "scenes, unseen combinations",
    "aro": "hard negatives",
    "vqa": "visual questions",
    "vqa_baselines": "visual questions",
    "classify": "classifier",
}
_FEATURES = {
    "encoder": "trained encoder",
    "random_init": "untrained encoder",
    "pixels": "raw pixels",
    "hog": "HOG",
}
_ZERO_SHOT = {"prompt ensemble": "dual encoder", "class captions": "dual encoder"}
_WAYS = {"image_to_text": ("image to text", "captions"), "text_to_image": ("text to image", "pictures")}

_WAYS_TO_ANSWER = {
    "free": "model, own words",
    "ranked": "model, ranking given answers",
    "majority": "commonest answer",
    "majority_of_kind": "commonest answer of the question type",
    "question_only": "words of the question",
}


def table(results: dict[str, Any]) -> list[Row]:
    """Return the figures of `run_suite` as rows of `COLUMNS`; shares are in percent, few-shot intervals are +- std."""
    rows: list[Row] = []
    for name, found in results["suites"].items():
        title = _TITLES[name]
        if "skipped" in found:
            rows.append((title, f"skipped: {found['skipped']}", "", "", "", ""))
        else:
            rows += _WRITERS[name](title, found)
    return rows


def _share(title: str, of: str, found: dict[str, Any]) -> Row:
    interval = f"{_percent(found['low'])} - {_percent(found['high'])}"
    return (title, of, f"{_percent(found['accuracy'])} %", interval, str(found["n"]), _chance(found["chance"]))


def _probe(title: str, found: dict[str, Any]) -> list[Row]:
    of = {name: label if found[name]["converged"] else f"{label} (not converged)" for name, label in _FEATURES.items()}
    return [_share(title, of[name], found[name]) for name in _FEATURES]


def _few_shot(title: str, found: dict[str, Any]) -> list[Row]:
    return [
        (
            f"{title}, {shots}",
            label,
            f"{_percent(found[name][shots]['mean'])} %",
            f"+- {_percent(found[name][shots]['std'])}",
            str(found[name][shots]["n"]),
            _chance(found[name][shots]["chance"]),
        )
        for shots in found["encoder"]
        for name, label in _FEATURES.items()
    ]


def _neighbours(title: str, found: dict[str, Any]) -> list[Row]:
    return [_share(f"{title}, k = {found[name]['k']}", label, found[name]) for name, label in _FEATURES.items()]


def _zero_shot(title: str, found: dict[str, Any]) -> list[Row]:
    of = f"{_ZERO_SHOT.get(found['method'], 'captioner')}, {found['method']}"
    rows = [_share(title, of, found)]
    return [*rows, _share(f"{title}, top 5", of, found["top5"])] if "top5" in found else rows


def _retrieval(title: str, found: dict[str, Any]) -> list[Row]:
    rows: list[Row] = []
    for name, (way, candidates) in _WAYS.items():
        one, of = found[name], f"{way}, among {found[name]['num_candidates']} {candidates}"
        rows += [_share(f"{title}, R@{key[1:]}", of, one[key]) for key in one if key[1:].isdigit()]
        middle = one["median_rank"]
        interval = f"{middle['low']:g} - {middle['high']:g}"
        n = str(one["r1"]["n"])
        rows.append((f"{title}, median rank", of, f"{middle['value']:g}", interval, n, f"{middle['chance']:g}"))
    return rows


def _captions(title: str, found: dict[str, Any]) -> list[Row]:
    rows: list[Row] = []
    for name, label in (("captioner", "captioner"), ("shuffled", "same captions, other pictures")):
        scores, n = found[name], str(found["n"])
        interval = f"{scores['cider_low']:.2f} - {scores['cider_high']:.2f}"
        rows.append((f"{title}, BLEU-4", label, f"{scores['bleu4']:.3f}", "", n, ""))
        rows.append((f"{title}, CIDEr-D", label, f"{scores['cider']:.2f}", interval, n, ""))
    return rows


def _each(title: str, found: dict[str, Any]) -> list[Row]:
    return [_share(title, name.replace("_", " "), value) for name, value in found.items() if name != "private"]


def _answers(title: str, found: dict[str, Any]) -> list[Row]:
    rows: list[Row] = []
    if found.get("num_unfed"):
        rows.append((title, "rows that the model cannot be fed, wrong below", str(found["num_unfed"]), "", "", ""))
    for name, of in _WAYS_TO_ANSWER.items():
        if "skipped" in found.get(name, {}):
            rows.append((title, f"{of}, skipped: {found[name]['skipped']}", "", "", "", ""))
        elif name in found:
            rows += _asked(title, of, found[name])
    if "above_question_only" in found:
        above = found["above_question_only"]
        interval = f"{_percent(above['low'])} - {_percent(above['high'])}"
        of = "model less question-only, points"
        rows.append((title, of, _percent(above["difference"]), interval, str(above["n"]), ""))
    return rows


def _asked(title: str, of: str, found: dict[str, Any]) -> list[Row]:
    rows, exact = [_share(title, of, found)], found["exact_match"]
    if exact["accuracy"] != found["accuracy"]:  # with one answer to a question they are one figure
        rows.append(_share(f"{title}, exact match", of, exact))
    for key, kinds in (("by_answer_type", "answers"), ("by_kind", "type")):
        groups = found[key]
        if key == "by_kind" and groups == found["by_answer_type"]:  # VQA2.0's kinds are the types of its answers
            continue
        if 1 < len(groups) <= MAX_KINDS:  # one group is the whole; of VQA2.0's 65 types the JSON file tells
            rows += [_share(f"{title}, {kinds} {name}", of, one) for name, one in groups.items()]
    return rows


def _classes(title: str, found: dict[str, Any]) -> list[Row]:
    most_frequent = (title, "most frequent class", f"{_percent(found['majority'])} %", "", str(found["n"]), "")
    return [_share(title, "linear layer on frozen features", found), most_frequent]


_WRITERS = {
    "probe": _probe,
    "fewshot": _few_shot,
    "knn": _neighbours,
    "zeroshot": _zero_shot,
    "retrieval": _retrieval,
    "caption": _captions,
    "shapes": _each,
    "shapes_unseen": _each,
    "aro": _each,
    "vqa": _answers,
    "vqa_baselines": _answers,
    "classify": _classes,
}


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _chance(chance: float | None) -> str:
    """Return the share that guessing gets; below one percent to two digits, for "0.0 %" it never is."""
    if chance is None:
        return ""
    return f"{100 * chance:.2g} %" if 0 < chance < 0.01 else f"{_percent(chance)} %"
