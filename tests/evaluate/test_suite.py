import dataclasses
import json

import numpy as np
import pytest
from tests.evaluate.stand_ins import Plain, Rows, looker, matcher, shades, watcher

from sfumato.base import BadInput
from sfumato.data import Preprocess, hard_negatives, shapes
from sfumato.evaluate import captioner, probe
from sfumato.evaluate.bench import Bench, subset
from sfumato.evaluate.embed import batches
from sfumato.evaluate.on_captions import label_captions, references_of
from sfumato.evaluate.suite import SUITES, check_suites, run_bench, run_suite, shareable, suites_for
from sfumato.evaluate.table import COLUMNS, table
from sfumato.models import Tokenizer, build


def bench_of(train_set, test_set, **more):
    settings = {
        "subject": looker(),
        "preprocess": Plain(),
        "train_set": train_set,
        "train_rows": np.arange(len(train_set)),
        "test_set": test_set,
        "test_rows": np.arange(len(test_set)),
        "batch_size": 7,
        "seed": 0,
        "progress": lambda *told: None,
    }
    return Bench(**(settings | more))


@pytest.fixture(scope="module")
def results():
    return run_bench(bench_of(shades(60, broken=frozenset({0})), shades(30, seed=1, broken=frozenset({4}))), SUITES)


def test_results_are_json_and_every_figure_has_its_count(results):
    assert json.loads(json.dumps(results, allow_nan=False)) == results
    suites = results["suites"]
    assert list(suites) == list(SUITES)
    assert suites["probe"]["encoder"]["n"] == suites["zeroshot"]["n"] == suites["caption"]["n"] == 29
    assert suites["probe"]["num_unreadable"] == 2
    assert (results["num_train"], results["num_test"], results["seed"]) == (60, 30, 0)


def test_a_subject_that_sees_gets_its_due(results):
    suites = results["suites"]
    assert suites["probe"]["encoder"]["accuracy"] == suites["probe"]["pixels"]["accuracy"] == 1.0
    assert suites["probe"]["random_init"]["accuracy"] < 1.0  # two pixels of noise
    assert suites["fewshot"]["encoder"]["10"]["mean"] == 1.0
    assert suites["zeroshot"]["accuracy"] == 1.0
    assert suites["zeroshot"]["captions"] == ["this is a photo of a dark", "this is a photo of a light"]
    captions = suites["caption"]
    assert captions["captioner"]["cider"] > 2 * captions["shuffled"]["cider"]
    assert captions["num_distinct"] == 2


def test_what_the_sets_do_not_hold_is_skipped_with_a_reason(results):
    assert "no scenes" in results["suites"]["shapes"]["skipped"]
    assert "no scenes" in results["suites"]["aro"]["skipped"]
    assert results["suites"]["vqa"]["skipped"] == "the model answers no questions"
    bare = Rows(images=shades(12, seed=2).images, labels=None, class_names=None)
    found = run_bench(bench_of(shades(10), bare), SUITES)["suites"]
    lacking = ("probe", "fewshot", "knn", "zeroshot", "caption")
    assert [name for name in lacking if "no c" in found[name]["skipped"]] == list(lacking)
    found = run_bench(bench_of(shades(10), bare, subject=matcher()), ["zeroshot", "retrieval"])["suites"]
    assert found["zeroshot"]["skipped"] == "the test set has no class labels"
    assert found["retrieval"]["skipped"] == "the test set has no captions"
    unreadable = shades(3, seed=5, broken=frozenset(range(3)))
    assert "none of 3" in run_bench(bench_of(shades(10), unreadable), ["zeroshot"])["suites"]["zeroshot"]["skipped"]
    strange = dataclasses.replace(shades(10, seed=3), labels=np.full(10, 5), class_names=tuple("abcdef"))
    assert (
        "no class of the test set" in run_bench(bench_of(shades(10), strange), ["probe"])["suites"]["probe"]["skipped"]
    )


def test_shots_that_a_class_cannot_give_are_left_out_and_listed():
    found = run_bench(bench_of(shades(8), shades(8, seed=1)), ["fewshot"])["suites"]["fewshot"]
    assert found["skipped_shots"] == [5, 10]
    assert list(found["hog"]) == ["1", "2"]


@pytest.mark.parametrize(("train_public", "test_public"), [(True, True), (False, True), (True, False)])
def test_private_suites_are_marked_and_not_shareable(train_public, test_public):
    train, test = shades(20, public=train_public), shades(10, seed=1, public=test_public)
    found = run_bench(bench_of(train, test), ["probe", "fewshot", "knn", "zeroshot"])
    assert found["private"] == (not (train_public and test_public))
    shared = shareable(found)
    assert shared["private"] is False
    assert ("num_test" in shared) == (train_public and test_public)
    for name in ("probe", "fewshot", "knn"):  # they look at the training pictures
        assert (name in shared["suites"]) == (train_public and test_public)
    assert ("zeroshot" in shared["suites"]) == test_public
    assert "probe" in found["suites"]


def test_what_does_not_say_that_it_is_public_is_private():
    class Silent:
        def __init__(self, rows):
            self.rows, self.labels, self.class_names = rows, rows.labels, rows.class_names

        def __len__(self):
            return len(self.rows)

        def __getitem__(self, index):
            return self.rows[index]

    found = run_bench(bench_of(Silent(shades(10)), Silent(shades(6, seed=1))), ["zeroshot"])
    assert found["private"]
    assert not shareable(found)["suites"]


def test_unknown_suites_are_refused_with_the_known():
    with pytest.raises(BadInput, match=r"unknown suite linear; there are probe, fewshot, knn, zeroshot, retrieval"):
        check_suites(["probe", "linear"])
    with pytest.raises(BadInput, match="none given"):
        check_suites([])


def test_subsets_are_seeded_sorted_and_bounded():
    assert subset(5, None, 0).tolist() == subset(5, 9, 0).tolist() == [0, 1, 2, 3, 4]
    rows = subset(1000, 10, 1)
    assert rows.tolist() == sorted(set(rows.tolist())) == subset(1000, 10, 1).tolist()
    assert rows.tolist() != subset(1000, 10, 2).tolist()
    with pytest.raises(BadInput, match="limit must be >= 1"):
        subset(5, 0, 0)


def test_label_captions_are_the_sets_own_or_the_template():
    dataset = shades(4)
    assert label_captions(dataset)[1] == "this is a photo of a light"
    assert len(label_captions(shapes(4, image_size=16))) == 36


def test_references_are_all_that_the_set_tells():
    dataset = shades(4)
    assert references_of(dataset, 1, dataset[1]) == ["a light one"]

    class Several:
        def references(self, row):
            return [f"caption {row}", "another"]

    assert references_of(Several(), 3, {"caption": "caption 3"}) == ["caption 3", "another"]


def test_grey_pictures_are_one_channel_to_the_baselines():
    train, test = shades(20), shades(10, seed=1)

    class Tripled:
        def evaluate(self, image):
            return np.repeat(Plain().evaluate(image), 3, 0)

    found = run_bench(bench_of(train, test, preprocess=Tripled()), ["probe"])["suites"]["probe"]
    assert found["pixels"]["num_features"] == 14 * 14
    colour = [dataclasses.replace(rows, images=np.repeat(rows.images, 3, 3)) for rows in (train, test)]
    found = run_bench(bench_of(*colour), ["probe"])["suites"]["probe"]
    assert found["pixels"]["num_features"] == 3 * 14 * 14


def test_hard_negatives_are_counted_by_kind_with_their_own_chance():
    scenes = shapes(30, seed=1, image_size=16)
    bench = bench_of(scenes, scenes, subject=dataclasses.replace(looker(), caption_losses=first_is_best))
    found = run_bench(bench, ["aro"])["suites"]["aro"]
    assert {kind: found[kind]["accuracy"] for kind in ("attribute", "relation", "order")} == {
        "attribute": 1.0,
        "relation": 1.0,
        "order": 1.0,
    }
    pairs = sum(scenes[i]["attributes"]["relation"] is not None for i in range(30))
    assert found["relation"]["n"] == pairs
    assert found["relation"]["chance"] == pytest.approx(1 / 3)
    assert found["order"]["n"] == 30
    last = dataclasses.replace(looker(), caption_losses=lambda pictures, texts: -first_is_best(pictures, texts))
    assert run_bench(bench_of(scenes, scenes, subject=last), ["aro"])["suites"]["aro"]["order"]["accuracy"] == 0.0


def test_each_kind_gets_its_own_negatives():
    scenes = shapes(12, seed=2, image_size=16, scenes="pair")
    for liked in ("attribute", "relation", "order"):
        preferred = {text for i in range(12) for text in hard_negatives(scenes[i]["attributes"])[liked]}

        def losses(pictures, captions, preferred=preferred):
            most = max(map(len, captions))
            rows = [[float(t not in preferred) for t in group] + [np.inf] * (most - len(group)) for group in captions]
            return np.array(rows) - np.eye(1, most) / 2  # the true caption is liked better than the rest

        subject = dataclasses.replace(looker(), caption_losses=losses)
        found = run_bench(bench_of(scenes, scenes, subject=subject), ["aro"])["suites"]["aro"]
        rates = {kind: found[kind]["accuracy"] for kind in ("attribute", "relation", "order")}
        assert rates == dict.fromkeys(rates, 1.0) | {liked: 0.0}


def first_is_best(pictures, captions):
    most = max(map(len, captions))
    return np.stack([np.arange(most) + np.where(np.arange(most) < len(group), 0, np.inf) for group in captions])


def test_the_other_picture_is_really_another():
    # knows the caption by the picture: its loss is lowest for the list of the picture that it is shown
    scenes = shapes(10, seed=1, image_size=16)
    known = {
        picture.tobytes(): e["caption"] for b in batches(scenes, Plain()) for picture, e in zip(b.pictures, b.examples)
    }

    def losses(pictures, captions):
        most = max(map(len, captions))
        rows = [
            [0.0 if text == known[picture.tobytes()] else 1.0 for text in group] + [np.inf] * (most - len(group))
            for picture, group in zip(pictures, captions)
        ]
        return np.array(rows)

    for batch_size in (1, 3, 10):
        bench = bench_of(
            scenes, scenes, subject=dataclasses.replace(looker(), caption_losses=losses), batch_size=batch_size
        )
        found = run_bench(bench, ["aro"])["suites"]["aro"]["order"]
        assert found["accuracy"] == 1.0
        assert found["other_picture"] <= (0.1 if batch_size == 1 else 0.0)  # the first picture alone has none before


def test_the_table_has_a_row_per_figure(results):
    rows = table(results)
    assert all(len(row) == len(COLUMNS) and all(isinstance(cell, str) for cell in row) for row in rows)
    cells = {row[:2]: row for row in rows}
    assert cells["linear probe", "trained encoder"][2:] == (
        "100.0 %",
        "88.3 - 100.0",
        "29",
        cells["linear probe", "HOG"][5],
    )
    assert ("few-shot probe, 5", "HOG") in cells
    assert cells["nearest neighbours, k = 3", "trained encoder"][2:5] == ("100.0 %", "88.3 - 100.0", "29")
    assert ("nearest neighbours, k = 3", "untrained encoder") in cells
    assert cells["retrieval", "skipped: the model has no text encoder"]
    assert cells["zero-shot", "captioner, exact"][5] == "50.0 %"
    assert ("captions, CIDEr-D", "same captions, other pictures") in cells
    assert any(row[1].startswith("skipped: the test set has no scenes") for row in rows)


def test_suites_suit_the_model():
    assert suites_for(looker()) == ("probe", "fewshot", "knn", "zeroshot", "caption", "shapes", "aro")
    assert suites_for(matcher()) == ("probe", "fewshot", "knn", "zeroshot", "retrieval")
    assert suites_for(watcher()) == ("probe", "fewshot", "knn")


def test_what_the_model_cannot_do_is_skipped_with_a_reason():
    scenes = shapes(12, seed=3, image_size=16)
    found = run_bench(bench_of(shades(20), scenes, subject=watcher()), SUITES)["suites"]
    assert {name: found[name]["skipped"] for name in SUITES[3:]} == {
        "zeroshot": "the model reads no texts",
        "retrieval": "the model has no text encoder",
        "caption": "the model writes no captions",
        "shapes": "the model writes no captions",
        "aro": "the model writes no captions",
        "vqa": "the model answers no questions",
    }
    found = run_bench(bench_of(shades(20), shades(9, seed=1), subject=matcher()), SUITES)["suites"]
    assert [name for name in SUITES if "skipped" in found[name]] == ["caption", "shapes", "aro", "vqa"]
    assert table({"suites": found})


def test_a_model_without_captions_goes_through_by_default():
    settings = {"unseen_set": shades(6, seed=2), "batch_size": 4}
    found = run_suite(watcher(), Plain(), shades(20), shades(9, seed=1), **settings)["suites"]
    assert list(found) == ["probe", "fewshot", "knn"]
    found = run_suite(watcher(), Plain(), shades(20), shades(9, seed=1), suites=["shapes"], **settings)["suites"]
    assert found["shapes_unseen"]["skipped"] == "the model writes no captions"


def test_neighbours_need_as_many_training_pictures():
    found = run_bench(bench_of(shades(2), shades(8, seed=1)), ["knn"])["suites"]["knn"]
    assert found["skipped"] == "2 training pictures are fewer than 3 neighbours"


def test_pictures_are_read_once_for_all_suites_on_features():
    heard = []
    bench = bench_of(shades(10), shades(9, seed=1), progress=lambda *told: heard.append(told), batch_size=100)
    run_bench(bench, ["probe", "fewshot", "knn"])
    assert heard == [("training pictures", 10, 10), ("test pictures", 9, 9)]


@pytest.fixture(scope="module")
def whole():
    """Return everything that `run_suite` takes, around a micro captioner without training."""
    train, test, unseen = (
        shapes(num, split=split, image_size=16) for num, split in ((80, "train"), (24, "test"), (8, "unseen"))
    )
    tokenizer = Tokenizer.from_public_text(train.captions())
    model = build(
        "micro", vocab_size=tokenizer.vocab_size, image_size=16, max_tokens=16, seed=0, **tokenizer.special_ids
    )
    return captioner(model, tokenizer), Preprocess(image_size=16), train, test, unseen


def test_a_captioner_goes_through_every_suite(whole, monkeypatch):
    monkeypatch.setattr(probe, "MAX_ITER", 10)  # thirty classes on 1728 features: the fit itself is tested elsewhere
    subject, preprocess, train, test, unseen = whole
    heard = []
    settings = {"unseen_set": unseen, "limit": 60, "progress": lambda *told: heard.append(told), "batch_size": 16}
    found = run_suite(subject, preprocess, train, test, **settings)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert not [name for name, suite in found["suites"].items() if "skipped" in suite]
    assert list(found["suites"]) == [*suites_for(subject), "shapes_unseen"]
    assert found["suites"]["zeroshot"]["top5"]["chance"] == pytest.approx(5 / 36)
    assert found["num_train"] == 60
    assert found["num_test"] == found["suites"]["shapes"]["scene"]["n"] == 24
    assert found["suites"]["shapes_unseen"]["scene"]["n"] == 8
    assert not found["private"]
    assert ("training pictures", 60, 60) in heard
    assert table(found)
    again = run_suite(subject, preprocess, train, test, suites=("fewshot", "knn", "shapes", "aro"), **settings)
    assert again["suites"] == {name: found["suites"][name] for name in again["suites"]}  # nothing is left to chance


def test_run_suite_refuses_training_pictures(whole):
    subject, preprocess, train, test, _ = whole
    with pytest.raises(BadInput, match="the test set is the training set"):
        run_suite(subject, preprocess, train, train, suites=["zeroshot"])
    with pytest.raises(BadInput, match="share"):
        run_suite(subject, preprocess, train, test, suites=["shapes"], unseen_set=train.select(range(5)))
    with pytest.raises(BadInput, match="unknown suite"):
        run_suite(subject, preprocess, train, test, suites=["linear"])
