import json
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import pytest
from tests.evaluate.stand_ins import Plain, shades, watcher

from sfumato.base import BadInput, UndecodableRow
from sfumato.evaluate.bench import Bench
from sfumato.evaluate.on_questions import training_questions
from sfumato.evaluate.subject import Subject
from sfumato.evaluate.suite import run_suite, shareable, suites_for
from sfumato.evaluate.table import COLUMNS, table

SHADES = ("jet black", "grey", "white")


@dataclass(frozen=True, kw_only=True, eq=False)
class Asked:
    """Questions about grey pictures in memory, two of each; rows in `broken` cannot be read."""

    images: np.ndarray  # (P, S, S, 3) uint8
    name: str = "asked"
    public: bool = True
    has_owners: bool = True
    without: tuple[str, ...] = ()
    broken: frozenset = field(default_factory=frozenset)

    def __len__(self):
        return 2 * len(self.images)

    def __getitem__(self, index):
        if index in self.broken:
            raise UndecodableRow("a row cannot be read")
        image = self.images[index // 2]
        shade = SHADES[int(image[0, 0, 0]) // 100]
        if index % 2:
            row = {"question": "is it white?", "answers": ("yes" if shade == "white" else "no",), "kind": "is"}
        else:
            row = {"question": "what shade is it?", "answers": (*[shade] * 8, "a tone", "none"), "kind": "what"}
        row = {name: value for name, value in row.items() if name not in self.without}
        return {"image": image, "caption": row.get("answers", ("",))[0], "label": None, "attributes": None, **row}

    @property
    def owners(self):
        return [np.array([2 * i, 2 * i + 1]) for i in range(len(self.images))] if self.has_owners else None

    def manifest(self):
        return {"name": self.name, "images": hash(self.images.tobytes())}


def asked(num, *, seed=0, **more):
    """Return questions about `num` pictures: 4 of 6 are jet black, 1 grey, 1 white; sizes as read may differ."""
    level = np.array([0, 0, 0, 100, 0, 200])[np.arange(num) % 6]
    noise = np.random.default_rng(seed).integers(0, 9, (num, 4, 4, 3))
    return Asked(images=(level[:, None, None, None] + noise).astype(np.uint8), **more)


class Typed(Asked):
    """The same, where each row says the type of its answer."""

    def __getitem__(self, index):
        told = {} if "answer_type" in self.without else {"answer_type": "yes/no" if index % 2 else "number"}
        return super().__getitem__(index) | told


@dataclass(frozen=True, kw_only=True, eq=False)
class Captions:
    """Captioned pictures without questions; where they are `unread`, no picture may be asked for."""

    images: np.ndarray
    captions: tuple[str, ...]
    unread: bool = False
    public: bool = True

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        assert not self.unread
        return {"image": self.images[index], "caption": self.captions[index], "label": None, "attributes": None}

    def captions_of(self, index):
        return (self.captions[index],)


def true_answer(picture, question):
    shade = SHADES[int(picture[0, 0, 0]) // 100]
    return shade if "what" in question else ("yes" if shade == "white" else "no")


def seer():
    """Return a subject that answers rightly, and ranks the right answer first."""

    def answer(pictures, questions):
        return [true_answer(picture, question) for picture, question in zip(pictures, questions, strict=True)]

    def score_answers(pictures, questions, candidates):
        return np.array([[float(said == c) for c in candidates] for said in answer(pictures, questions)])

    return Subject(answer=answer, score_answers=score_answers)


def run(subject=None, train=None, test=None, **more):
    train, test = train or asked(30), test or asked(12, seed=1)
    settings = {"suites": ["vqa"], "batch_size": 5, **more}
    return run_suite(subject or seer(), None, train, test, **settings)


@pytest.fixture(scope="module")
def found():
    return run(test=asked(12, seed=1, broken=frozenset({3})))


def test_results_are_json_with_counts(found):
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert list(found["suites"]) == ["vqa", "vqa_baselines"]
    one = found["suites"]["vqa"]
    assert one["num_unreadable"] == 1
    assert (one["free"]["n"], one["free"]["num_pictures"]) == (23, 12)
    assert found["suites"]["vqa_baselines"]["num_train"] == 60
    assert not found["private"]


def test_a_model_that_sees_gets_all_right(found):
    one = found["suites"]["vqa"]
    for way in ("free", "ranked"):
        assert one[way]["accuracy"] == one[way]["exact_match"]["accuracy"] == 1.0
        assert {kind: group["n"] for kind, group in one[way]["by_kind"].items()} == {"is": 11, "what": 12}
        assert set(one[way]["by_answer_type"]) == {"yes/no", "other"}
    assert one["candidates"] == ["no", "jet black", "grey", "white", "yes"]  # 25, 20, 5, 5, 5 of 30 pictures
    assert one["free"]["chance"] is None
    assert one["ranked"]["chance"] == pytest.approx(1 / 5)


def test_what_needs_no_picture_stands_beside(found):
    beside = found["suites"]["vqa_baselines"]
    # of the 23: "no" to 9 of 11, "jet black" to 8 of 12
    assert beside["majority"]["accuracy"] == pytest.approx(9 / 23)
    assert beside["majority_of_kind"]["accuracy"] == pytest.approx(17 / 23)
    assert beside["question_only"]["accuracy"] == pytest.approx(17 / 23)
    assert beside["question_only"]["converged"]
    above = beside["above_question_only"]
    assert above["difference"] == pytest.approx(6 / 23)
    assert above["low"] < above["difference"] < above["high"]


def test_a_blind_model_is_not_above_the_question():
    def answer(pictures, questions):
        return ["jet black" if "what" in question else "no" for question in questions]

    found = run(Subject(answer=answer))
    assert found["suites"]["vqa"]["ranked"]["skipped"] == "the model scores no given answers"
    assert found["suites"]["vqa"]["free"]["accuracy"] < 1
    above = found["suites"]["vqa_baselines"]["above_question_only"]
    assert above["difference"] == 0
    assert above["low"] == -above["high"]
    assert 0.2 < above["high"] < 0.35  # 12 pictures, of which none differs


def test_empty_answers_are_wrong_and_counted():
    found = run(Subject(answer=lambda pictures, questions: ["" for _ in questions]))["suites"]["vqa"]["free"]
    assert (found["accuracy"], found["num_empty"], found["n"]) == (0.0, 24, 24)


def test_rows_that_cannot_be_fed_are_wrong_and_counted():
    def answer(pictures, questions):
        right = seer().answer(pictures, questions)
        return [None if "what" in question else said for question, said in zip(questions, right)]

    found = run(Subject(answer=answer))
    one = found["suites"]["vqa"]
    assert (one["num_unfed"], one["free"]["num_empty"], one["free"]["accuracy"]) == (12, 12, 0.5)
    assert ("visual questions", "rows that the model cannot be fed, wrong below", "12", "", "", "") in table(found)

    def score(pictures, questions, candidates):
        scores = seer().score_answers(pictures, questions, candidates)
        return np.where([["what" in question] for question in questions], -np.inf, scores)

    only_ranks = run(Subject(score_answers=score))["suites"]["vqa"]
    assert (only_ranks["num_unfed"], only_ranks["ranked"]["accuracy"]) == (12, 0.5)
    fed = run()
    assert fed["suites"]["vqa"]["num_unfed"] == 0
    assert not any("cannot be fed" in row[1] for row in table(fed))


def test_captions_answer_the_public_question_of_the_model():
    captions = tuple(f"a {'light' if i % 2 else 'dark'} one" for i in range(8))
    test = Captions(images=asked(8, seed=1).images, captions=captions)
    train = Captions(images=asked(30).images, captions=captions[:2] * 15, unread=True)
    heard = []

    def answer(pictures, questions):
        heard.extend(questions)
        return ["a dark one"] * len(questions)

    found = run(Subject(answer=answer, question="what is it?"), train=train, test=test)["suites"]
    assert set(heard) == {"what is it?"}
    assert (found["vqa"]["free"]["n"], found["vqa"]["free"]["accuracy"]) == (8, 0.5)
    assert found["vqa_baselines"]["majority"]["accuracy"] == 0.5
    assert found["vqa_baselines"]["above_question_only"]["difference"] == 0
    without = run(Subject(answer=answer), train=train, test=test)["suites"]["vqa"]
    assert without["skipped"] == "the test set has no questions"
    own = run(Subject(answer=lambda pictures, questions: ["no"] * len(questions), question="what is it?"))
    assert set(own["suites"]["vqa"]["free"]["by_kind"]) == {"is", "what"}  # a set's own questions stay


@pytest.mark.parametrize("without", [(), ("answer_type",)])
def test_the_types_that_the_set_says_are_taken(without):
    """VQA2.0 calls "2 feet" a number; without its word the text decides."""
    found = run(test=Typed(images=asked(12, seed=1).images, without=without))["suites"]["vqa"]["free"]
    assert set(found["by_answer_type"]) == ({"yes/no", "other"} if without else {"yes/no", "number"})


def test_candidates_are_declared_or_of_a_public_training_set():
    declared = run(train=asked(30, public=False), answers=["No", "white", "no "])
    assert declared["suites"]["vqa"]["candidates"] == ["No", "white"]
    assert declared["suites"]["vqa"]["ranked"]["chance"] is not None
    private = run(train=asked(30, public=False))["suites"]["vqa"]
    assert "declared public" in private["ranked"]["skipped"]
    assert private["candidates"] == []
    assert private["free"]["accuracy"] == 1.0
    with pytest.raises(BadInput, match="at least one answer"):
        run(answers=[" "])


@pytest.mark.parametrize(("train_public", "test_public"), [(True, True), (False, True), (True, False)])
def test_figures_of_private_rows_are_not_shareable(train_public, test_public):
    found = run(train=asked(30, public=train_public), test=asked(12, seed=1, public=test_public))
    assert found["private"] == (not (train_public and test_public))
    shared = shareable(found)["suites"]
    assert ("vqa" in shared) == test_public  # the model's own figures look at test rows only
    assert ("vqa_baselines" in shared) == (train_public and test_public)


def test_what_is_missing_is_said():
    def reason(**sets):
        return run(**sets)["suites"]["vqa"]["skipped"]

    assert reason(test=asked(6, seed=1, without=("question",))) == "the test set has no questions"
    assert reason(test=asked(6, seed=1, without=("answers",))) == "the test set has no answers"
    assert reason(subject=watcher()) == "the model answers no questions"
    assert reason(test=shades(6)) == "the test set has no questions"
    assert "none of 12" in reason(test=asked(6, seed=1, broken=frozenset(range(12))))
    only_ranks = Subject(score_answers=seer().score_answers)
    assert "declared public" in reason(subject=only_ranks, train=asked(30, public=False))
    found = run(train=asked(30, without=("question",)))["suites"]
    assert found["vqa_baselines"]["skipped"] == "the training set has no questions"
    assert "declared ones" in found["vqa"]["ranked"]["skipped"]
    assert table({"suites": found})


def test_kinds_may_be_missing():
    found = run(test=asked(12, seed=1, without=("kind",)))["suites"]
    assert list(found["vqa"]["free"]["by_kind"]) == ["(none)"]
    assert found["vqa_baselines"]["majority_of_kind"]["accuracy"] == found["vqa_baselines"]["majority"]["accuracy"]


def test_a_model_that_only_ranks():
    found = run(Subject(score_answers=seer().score_answers))["suites"]
    assert found["vqa"]["free"]["skipped"] == "the model writes no answers"
    assert found["vqa"]["ranked"]["accuracy"] == 1.0
    assert found["vqa_baselines"]["above_question_only"]["difference"] > 0


def test_wrong_output_of_a_model_is_refused():
    with pytest.raises(BadInput, match="1 answers to 5 questions"):
        run(Subject(answer=lambda pictures, questions: ["yes"]))
    with pytest.raises(BadInput, match="NaN"):
        run(Subject(score_answers=lambda pictures, questions, answers: np.full((len(questions), len(answers)), np.nan)))


def test_pictures_come_as_they_were_read_and_once_each():
    test, seen, heard = asked(12, seed=1), [], []

    def answer(pictures, questions):
        seen.extend(pictures)
        assert len(pictures) == len(questions) <= 5
        return ["no"] * len(questions)

    run(Subject(answer=answer), test=test, progress=lambda *told: heard.append(told))
    assert len(seen) == 24
    assert all(np.array_equal(picture, test[i]["image"]) for i, picture in enumerate(seen))
    assert heard[:5] == [("test questions", done, 24) for done in (5, 10, 15, 20, 24)]
    assert heard[-1] == ("training questions", 60, 60)


def test_pictures_of_any_size_and_the_limit():
    found = run(limit=7)
    assert (found["num_train"], found["num_test"]) == (7, 7)
    assert found["suites"]["vqa"]["free"]["n"] == 7


@pytest.mark.parametrize("has_owners", [True, False])
def test_questions_of_one_picture_are_one_cluster(has_owners):
    dataset = asked(12, has_owners=has_owners, broken=frozenset({0}))
    bench = Bench(
        subject=seer(),
        preprocess=None,
        train_set=dataset,
        train_rows=np.arange(24),
        test_set=None,
        test_rows=np.arange(0),
        batch_size=5,
        seed=0,
        progress=lambda *told: None,
    )
    pictures = training_questions(bench).pictures
    expected = np.arange(1, 24) // 2
    assert np.array_equal(pictures[:, None] == pictures, expected[:, None] == expected)


class Question(NamedTuple):
    question: str
    answers: tuple[str, ...]
    kind: str | None


class Unseen(Asked):
    """The same, whose questions can be had without pictures, and whose pictures must not be read."""

    has_questions = True

    def __getitem__(self, index):
        raise AssertionError("a picture was read")

    def asked(self, index):
        row = super().__getitem__(index)
        return Question(row["question"], row["answers"], row["kind"])


def test_training_pictures_are_not_read_where_the_questions_can_be_had_alone(found):
    heard = []
    train = Unseen(images=asked(30).images)
    again = run(train=train, test=asked(12, seed=1, broken=frozenset({3})), progress=lambda *told: heard.append(told))
    assert again == found
    assert heard[0] == ("training questions", 60, 60)


def test_the_suite_suits_what_answers():
    assert suites_for(seer()) == ("vqa",)
    assert suites_for(replace(watcher(), answer=seer().answer)) == ("probe", "fewshot", "knn", "vqa")
    assert "vqa" not in suites_for(watcher())


def test_other_suites_say_what_a_model_of_questions_lacks():
    found = run_suite(seer(), None, shades(10), shades(6, seed=1), suites=["probe", "caption"])["suites"]
    assert found["probe"]["skipped"] == "the model gives no features"
    assert found["caption"]["skipped"] == "the model writes no captions"
    found = run_suite(watcher(), None, shades(10), shades(6, seed=1), suites=["knn"])["suites"]
    assert found["knn"]["skipped"] == "no normalisation of pictures was given"
    assert (
        "skipped" not in run_suite(watcher(), Plain(), shades(10), shades(6, seed=1), suites=["knn"])["suites"]["knn"]
    )


def test_the_table_has_every_way_and_kind(found):
    rows = table(found)
    assert all(len(row) == len(COLUMNS) and all(isinstance(cell, str) for cell in row) for row in rows)
    cells = {row[:2]: row[2:] for row in rows}
    assert len(cells) == len(rows)
    assert cells["visual questions", "model, own words"][0::2] == ("100.0 %", "23")
    assert cells["visual questions", "model, ranking given answers"][3] == "20.0 %"
    assert cells["visual questions, type what", "words of the question"][0] == "66.7 %"
    assert cells["visual questions, answers yes/no", "commonest answer"][0] == "81.8 %"
    assert not any("exact match" in title for title, _ in cells)  # nowhere another figure
    assert cells["visual questions", "model less question-only, points"][0] == "26.1"


def test_kinds_that_are_the_types_of_answers_stand_once(found):
    one = json.loads(json.dumps(found))
    for way in ("free", "ranked"):
        one["suites"]["vqa"][way]["by_kind"] = one["suites"]["vqa"][way]["by_answer_type"]
    titles = [row[0] for row in table(one) if row[1] == "model, own words"]
    assert titles == ["visual questions", *(f"visual questions, answers {name}" for name in ("other", "yes/no"))]


def test_the_table_has_the_exact_match_where_it_differs():
    rows = table(run(Subject(answer=lambda pictures, questions: ["tone"] * len(questions))))
    cells = {row[:2]: row[2:] for row in rows}
    assert cells["visual questions, type what", "model, own words"][0] == "30.0 %"  # one of ten said so
    assert cells["visual questions, exact match", "model, own words"][0] == "0.0 %"


def test_the_table_says_what_was_not_ranked():
    rows = table(run(train=asked(30, public=False)))
    assert any(row[1].startswith("model, ranking given answers, skipped: answers are ranked") for row in rows)
    kinds = {f"k{i}": {"accuracy": 0, "low": 0, "high": 0, "n": 1, "chance": None} for i in range(13)}
    one = run()
    one["suites"]["vqa"]["free"]["by_kind"] = kinds
    assert not any("k7" in row[0] for row in table(one))
