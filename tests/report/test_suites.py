from typing import Any

from sfumato.report.folder import metric_rows
from sfumato.report.metrics import chapters


def share(accuracy: float) -> dict[str, Any]:
    return {"accuracy": accuracy, "low": accuracy - 0.01, "high": accuracy + 0.01, "n": 100, "chance": 0.1, "x": [1]}


def shots(mean: float) -> dict[str, Any]:
    return {"1": {"num_shots": 1, "mean": mean, "std": 0.02, "n": 100, "chance": 0.1, "accuracies": [mean]}}


RESULTS: dict[str, Any] = {
    "private": False,
    "seed": 0,
    "num_test": 100,
    "suites": {
        "probe": {"encoder": share(0.8), "pixels": share(0.75), "num_shared": 0, "private": False},
        "fewshot": {"encoder": shots(0.5), "hog": shots(0.45), "skipped_shots": [], "private": False},
        "zeroshot": {**share(0.7), "method": "exact", "private": False},
        "caption": {"captioner": {"bleu4": 0.4, "cider": 2.0, "cider_low": 1.9, "cider_high": 2.1}, "n": 9},
        "shapes": {"colour": share(0.9), "private": False},
        "aro": {"skipped": "these pictures have no hard negatives", "private": False},
        "secret": {"encoder": share(0.123), "private": True},
    },
}


def test_every_suite_becomes_chapters() -> None:
    found = {chapter.title: [(line.system, line.value) for line in chapter.lines] for chapter in _chapters(RESULTS)}
    assert found == {
        "linear probe": [("this run", "80.0 (79.0 to 81.0) %"), ("raw pixels", "75.0 (74.0 to 76.0) %")],
        "few-shot probe, 1 per class": [("this run", "50.0 ± 2.0 %"), ("HOG", "45.0 ± 2.0 %")],
        "zero-shot by caption likelihood": [("this run", "70.0 (69.0 to 71.0) %")],
        "captions, BLEU-4": [("this run", "0.400")],
        "captions, CIDEr-D": [("this run", "2.000 (1.900 to 2.100)")],
        "attributes named in captions": [("colour", "90.0 (89.0 to 91.0) %")],
        "caption against a hard negative": [("skipped", "these pictures have no hard negatives")],
    }


def test_a_list_of_evaluations_is_a_course_over_the_steps() -> None:
    later = {**RESULTS, "step": 400, "suites": {"probe": {"encoder": share(0.85)}}}
    earlier = {**RESULTS, "step": 200, "suites": {"probe": {"encoder": share(0.8)}}}
    (chapter,) = _chapters([later, earlier])
    assert chapter.lines[0].value == "85.0 (84.0 to 86.0) %"
    assert chapter.is_share
    assert [(list(line.x), [round(y) for y in line.y]) for line in chapter.series] == [([200, 400], [80, 85])]


def _chapters(metrics: Any):
    return chapters(metric_rows(metrics))
