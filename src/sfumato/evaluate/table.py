"""Results as rows of text, for a terminal or a report."""

from typing import Any

COLUMNS = ("measure", "of", "value", "95 % interval", "n", "chance")
Row = tuple[str, str, str, str, str, str]

_TITLES = {
    "probe": "linear probe",
    "fewshot": "few-shot probe",
    "zeroshot": "zero-shot",
    "caption": "captions",
    "shapes": "scenes",
    "shapes_unseen": "scenes, unseen combinations",
    "aro": "hard negatives",
}
_FEATURES = {
    "encoder": "trained encoder",
    "random_init": "untrained encoder",
    "pixels": "raw pixels",
    "hog": "HOG",
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


def _zero_shot(title: str, found: dict[str, Any]) -> list[Row]:
    return [_share(title, f"captioner, {found['method']}", found)]


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


_WRITERS = {
    "probe": _probe,
    "fewshot": _few_shot,
    "zeroshot": _zero_shot,
    "caption": _captions,
    "shapes": _each,
    "shapes_unseen": _each,
    "aro": _each,
}


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _chance(chance: float | None) -> str:
    return "" if chance is None else f"{_percent(chance)} %"
