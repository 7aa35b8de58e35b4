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


def way(num: int, accuracy: float, middle: float) -> dict[str, Any]:
    chances = {k: {**share(accuracy), "chance": k / num} for k in (1, 5)}
    rank = {"value": middle, "low": middle - 1, "high": middle + 1, "chance": (num + 1) / 2}
    return {**{f"r{k}": found for k, found in chances.items()}, "median_rank": rank, "num_candidates": num}


def test_retrieval_stands_beside_random_order_in_figures() -> None:
    ways = {"image_to_text": way(3000, 0.5, 3.5), "text_to_image": way(20, 0.75, 2.0)}
    found = {"suites": {"retrieval": {**ways, "num_pictures": 20, "num_captions": 3000, "private": False}}}
    chapters_of = {chapter.title: [(line.system, line.value) for line in chapter.lines] for chapter in _chapters(found)}
    among = "retrieval, image to text among 3,000 captions"
    assert chapters_of[f"{among}, R@1"] == [("this run", "50.0 (49.0 to 51.0) %"), ("random order", "0.033 %")]
    assert chapters_of[f"{among}, R@5"][1] == ("random order", "0.17 %")
    assert chapters_of[f"{among}, median rank"] == [
        ("this run", "3.500 (2.500 to 4.500) of 3,000"),
        ("random order", "1500.5"),
    ]
    among = "retrieval, text to image among 20 pictures"
    assert chapters_of[f"{among}, R@1"] == [("this run", "75.0 (74.0 to 76.0) %"), ("random order", "5.0 %")]
    assert chapters_of[f"{among}, median rank"][0] == ("this run", "2 (1 to 3) of 20")
    assert len(chapters_of) == 6
    ranks = [line for chapter in _chapters(found) if "median" in chapter.title for line in chapter.lines]
    assert [line.share for line in ranks] == [None] * 4  # a bar would say that a larger rank is better


def test_zero_shot_says_how_it_was_asked_and_has_its_first_five() -> None:
    found = {**share(0.7), "method": "prompt ensemble", "prompts": ["a {label}"], "top5": {**share(0.9), "chance": 0.5}}
    titles = {chapter.title: chapter.lines[0].value for chapter in _chapters({"suites": {"zeroshot": found}})}
    assert titles == {
        "zero-shot by prompts": "70.0 (69.0 to 71.0) %",
        "zero-shot by prompts, right among the first five": "90.0 (89.0 to 91.0) %",
    }
    own = {**share(0.7), "method": "class captions"}
    assert [c.title for c in _chapters({"suites": {"zeroshot": own}})] == ["zero-shot by prompts"]
    skipped = {"skipped": "no texts", "private": False}
    assert _chapters({"suites": {"zeroshot": skipped}})[0].lines[0].value == "no texts"


def test_neighbours_stand_beside_the_baselines() -> None:
    found = {"encoder": {**share(0.8), "k": 3}, "random_init": share(0.6), "hog": share(0.7), "num_shared": 0}
    (chapter,) = _chapters({"suites": {"knn": found}})
    assert chapter.title == "nearest neighbours"
    assert [line.system for line in chapter.lines] == ["this run", "untrained encoder", "HOG"]


def test_a_course_of_retrieval_keeps_random_order_out_of_the_picture() -> None:
    steps = [
        {"step": step, "suites": {"retrieval": {"image_to_text": way(20, rate, 2.0), "private": False}}}
        for step, rate in ((100, 0.4), (200, 0.6))
    ]
    first = _chapters(steps)[0]
    assert [(line.system, line.value) for line in first.lines][1] == ("random order", "5.0 %")
    assert [[round(y) for y in line.y] for line in first.series] == [[40, 60]]
