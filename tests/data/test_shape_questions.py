import pickle

import numpy as np
import pytest

from sfumato.base.errors import BadInput
from sfumato.data import (
    Options,
    asked_vocabulary,
    check_disjoint,
    grammar,
    has_test_split,
    holdout,
    load,
    lone,
    shape_questions,
    shapes,
)
from sfumato.data.ask import GROUPS, LONE

SCENES = ("lone", "single", "pair")


def asked(captioned):
    return [captioned.asked(index) for index in range(len(captioned))]


def test_rows_are_functions_of_seed_split_and_number():
    one, more, other = shape_questions(40, 3), shape_questions(90, 3), shape_questions(40, 4)
    assert asked(one) == asked(more)[:160]
    assert asked(one) != asked(other)
    assert asked(one) != asked(shape_questions(40, 3, split="test"))
    for index in (0, 57, 159):
        drawn = one.draw(index, np.random.default_rng(index))
        assert np.array_equal(drawn["image"], more[index]["image"])
        assert (drawn["question"], drawn["answers"], drawn["kind"]) == one.asked(index)[:3]
        assert drawn["caption"] == one.asked(index).answers[0]
        assert drawn["image"].shape == (64, 64, 3)
    # who changes questions or pixels must raise the VERSION of its file
    assert shape_questions(1, scenes="lone").asked(0).question == "is a ring missing?"
    assert int(shape_questions(1, scenes="lone")[0]["image"].astype(np.int64).sum()) == 2799451


def test_the_record_is_the_scene():
    captioned = shape_questions(10, per_scene=3)
    assert (len(captioned), captioned.num_records) == (30, 10)
    for rows in captioned.owners:
        assert np.array_equal(captioned[int(rows[0])]["image"], captioned[int(rows[2])]["image"])
        assert len({captioned.asked(int(row)).kind for row in rows}) == 3
    train, test = holdout(captioned, 0.3)
    assert (len(train), len(test)) == (21, 9)
    check_disjoint(captioned, shape_questions(10, split="test"))
    check_disjoint(captioned, shape_questions(10, 1))
    with pytest.raises(BadInput, match="share 10 owners"):
        check_disjoint(captioned, shape_questions(10, scenes="lone"))


@pytest.mark.parametrize("scenes", SCENES)
def test_answers_are_true_of_the_scene(scenes):
    captioned = shape_questions(150, scenes=scenes, per_scene=8)
    palette = LONE if scenes == "lone" else GROUPS
    for index in range(len(captioned)):
        question, (answer,), kind = captioned.asked(index)[:3]
        groups = captioned.rows.scene(index // 8)["groups"]
        words = question.strip("?.").split()
        shapes_named = [s for s in palette.shapes if {s, grammar.plural(s, 2)} & set(words)]
        colours_named = [c for c in palette.colours if c in words]
        meant = [
            group
            for group in groups
            if (not shapes_named or group["shape"] in shapes_named)
            and (not colours_named or group["colour"] in colours_named)
        ]
        if " " in kind:
            assert len(colours_named) + len(shapes_named) == (2 if kind == "has object" else 1)
            assert answer == ("yes" if bool(meant) == kind.startswith("has") else "no"), question
        elif kind == "place":
            scene = captioned.rows.scene(index // 8)
            assert answer == scene["relation"]
            assert words.index(noun(groups[0])) < words.index(noun(groups[1]))
        else:
            assert len(meant) == 1, question  # the question means one group
            told = {"color": "colour", "number": "count"}.get(kind, kind)
            value = meant[0][told]
            assert answer == (("one", "two", "three")[value - 1] if kind == "number" else value), question


def noun(group):
    return grammar.plural(group["shape"], group["count"])


@pytest.mark.parametrize("scenes", SCENES)
def test_only_the_kinds_that_are_named_are_asked(scenes):
    kinds = ("shape", "has shape", "place")
    found = shape_questions(60, scenes=scenes, kinds=kinds)
    assert len(found) == 120  # as many as every scene answers
    assert {one.kind for one in asked(found)} == set(kinds if scenes == "pair" else kinds[:2])
    assert len(shape_questions(60, scenes=scenes)) == 240
    shown, plain = (shape_questions(9, scenes=scenes, kinds=named) for named in (kinds, ()))
    assert all(np.array_equal(shown[2 * scene]["image"], plain[4 * scene]["image"]) for scene in range(9))
    assert shown.manifest() != plain.manifest()


def test_a_kind_that_is_named_again_is_asked_as_much_more_often():
    found = shape_questions(300, scenes="lone", kinds=("shape", "shape", "shape", "color"), per_scene=1)
    share = [one.kind for one in asked(found)].count("shape") / len(found)
    assert 0.68 < share < 0.82  # .75 expected, standard deviation .025
    both = shape_questions(20, scenes="lone", kinds=("has color", "has color"))
    assert len(both) == 40
    first, second = asked(both)[0::2], asked(both)[1::2]
    assert [one.question for one in first] != [one.question for one in second], "drawn anew each time"


@pytest.mark.parametrize("scenes", SCENES)
def test_yes_and_no_are_balanced_for_every_kind(scenes):
    found = asked(shape_questions(250, scenes=scenes, per_scene=8))
    for kind in {one.kind for one in found if " " in one.kind}:
        answers = [one.answers[0] for one in found if one.kind == kind]
        assert 0.38 < answers.count("yes") / len(answers) < 0.62


def test_every_kind_has_several_phrasings():
    for scenes in SCENES:
        phrasings = {}
        for one in asked(shape_questions(200, scenes=scenes, per_scene=8)):
            known = {*GROUPS.colours, *LONE.colours}
            known |= {grammar.plural(s, n) for s in (*GROUPS.shapes, *LONE.shapes) for n in (1, 2)}
            words = [word for word in one.question.strip("?.").split() if word not in known]
            phrasings.setdefault(one.kind, set()).add(" ".join(words))
        assert min(map(len, phrasings.values())) >= 2


def test_every_word_is_in_the_vocabulary():
    used = set()
    for scenes in ("mixed", "lone"):
        for one in asked(shape_questions(400, scenes=scenes, per_scene=8)):
            used |= set(f"{one.question} {one.answers[0]}".replace("?", " ?").replace(".", " .").split())
    assert used == set(asked_vocabulary())


def test_lone_pictures_show_what_is_told():
    stretched: dict[str, list[float]] = {}
    for number in range(60):
        scene = lone.lone(0, "train", number)
        image = lone.picture(scene, 64).astype(float)
        mask = np.abs(image - scene.ground).sum(2) > 60
        rows, columns = np.nonzero(mask)
        group = scene.scene["groups"][0]
        extent = max(np.ptp(rows), np.ptp(columns)) + 1
        assert (extent < 20) == (group["size"] == "small")
        middle = image[mask][np.abs(image[mask] - scene.blob.colour).sum(1).argmin()]
        nearest = min(lone.COLOURS, key=lambda name: np.abs(middle - lone.COLOURS[name]).sum())
        assert nearest == group["colour"]
        filled = mask.sum() / ((np.ptp(rows) + 1) * (np.ptp(columns) + 1))
        assert (filled > 0.93) == (group["shape"] == "rectangle")
        assert min(rows.min(), columns.min()) >= 0
        assert max(rows.max(), columns.max()) <= 63
        stretched.setdefault(group["shape"], []).append(np.ptp(columns) / np.ptp(rows))
    assert min(stretched["rectangle"]) < 0.6
    assert max(stretched["rectangle"]) > 1.6
    assert all(0.8 < ratio < 1.3 for shape in ("circle", "ring", "triangle") for ratio in stretched[shape])


def test_held_out_combinations():
    shown = {
        split: {
            (group["colour"], group["shape"])
            for number in range(600)
            for group in lone.lone(0, split, number).scene["groups"]
        }
        for split in ("train", "test", "unseen")
    }
    assert shown["train"] == shown["test"] == set(lone.SEEN)
    assert shown["unseen"] == set(lone.UNSEEN)
    assert len(lone.SEEN) == 50


def test_mixed_scenes_are_half_lone_and_the_others_those_of_shapes():
    captioned, plain = shape_questions(200, 5, per_scene=1), shapes(200, 5)
    grounds = [captioned[index]["image"][0, 0].min() > 200 for index in range(200)]
    assert 70 < sum(grounds) < 130
    for index in range(200):
        if not grounds[index]:
            assert np.array_equal(captioned[index]["image"], plain[index]["image"])
            assert captioned[index]["attributes"] == plain[index]["attributes"]


def test_load_and_pickle():
    assert load("shape-questions:20").num_records == 20
    assert load("shape-questions").num_records == 15_000
    options = Options(num=5, seed=2, image_size=32, scenes="lone", per_scene=2)
    found = load("shape-questions", split="test", options=options)
    wanted = shape_questions(5, 2, split="test", image_size=32, scenes="lone", per_scene=2)
    assert found.manifest() == wanted.manifest()
    assert asked(pickle.loads(pickle.dumps(found))) == asked(wanted)
    assert has_test_split("shape-questions:9")
    assert found.manifest() != shape_questions(5, 2, split="test", image_size=32, scenes="lone", per_scene=3).manifest()
    with pytest.raises(BadInput, match="shape-questions:NUM"):
        load("shape-questions:many")


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"num": 0}, "one scene"),
        ({"split": "val"}, "train, test"),
        ({"scenes": "x"}, "mixed, lone"),
        ({"image_size": 8}, "16"),
        ({"per_scene": 9}, "1 to 8"),
        ({"per_scene": 0}, "1 to 8"),
        ({"kinds": ("colour",)}, "not 'colour'"),
        ({"kinds": ("place", "number")}, "place or number"),
        ({"kinds": ("shape", "place"), "per_scene": 2}, "1 to 1"),
    ],
)
def test_wrong_settings_are_named(settings, word):
    with pytest.raises(BadInput, match=word):
        shape_questions(**{"num": 4, **settings})
