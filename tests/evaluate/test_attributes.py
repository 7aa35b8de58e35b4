import numpy as np
import pytest

from sfumato.base import BadInput
from sfumato.data import canonical, parse_caption, shapes
from sfumato.evaluate.attributes import attribute_accuracy, read_caption


def scenes_of(num, **settings):
    rows = shapes(num, seed=3, image_size=16, **settings)
    return [rows.rows.scene(i) for i in range(num)], list(rows.captions())


def scene(text):
    parsed = parse_caption(text)
    assert parsed is not None
    return parsed


def test_sentences_of_the_grammar_are_read_as_the_grammar_parses_them():
    for truth, text in zip(*scenes_of(300)):
        assert read_caption(text) == parse_caption(text) == truth
        assert read_caption(f"  {text.upper()}. ") == truth


@pytest.mark.parametrize(
    ("text", "groups", "relation"),
    [
        ("", [{}], None),
        ("red red blue", [{"colour": "red"}], None),
        ("two ring left of", [{"count": 2, "shape": "ring"}, {}], "left of"),
        ("a cross leftover white", [{"count": 1, "shape": "cross", "colour": "white"}], None),
        ("below a large one above a ring", [{}, {"count": 1, "size": "large", "shape": "ring"}], "below"),
    ],
)
def test_other_texts_are_read_word_by_word(text, groups, relation):
    nothing = dict.fromkeys(("colour", "shape", "size", "count"))
    assert read_caption(text) == {"groups": tuple(nothing | group for group in groups), "relation": relation}


def test_true_captions_are_all_right_told_either_way():
    truths, texts = scenes_of(200)
    opposite = {"above": "below", "below": "above", "left of": "right of", "right of": "left of"}

    def other_way(text):
        relation = next((r for r in opposite if f" {r} " in text), None)
        return text if relation is None else f" {opposite[relation]} ".join(reversed(text.split(f" {relation} ")))

    assert [other_way(text) for text in texts] != texts
    for told in (texts, [other_way(text) for text in texts]):
        found = attribute_accuracy(told, truths)
        assert {name: accuracy.rate for name, accuracy in found.items()} == dict.fromkeys(found, 1.0)
    pairs = sum(truth["relation"] is not None for truth in truths)
    assert found["relation"].n == pairs
    assert found["colour"].n == len(truths) + pairs
    assert found["scene"].n == len(truths)


@pytest.mark.parametrize(
    ("said", "right"),
    [
        # one wrong word spoils that word, what holds it, and the scene
        ("a small red circle above two large green squares", {"colour": 1, "combination": 1}),
        ("a small red circle above two small blue squares", {"size": 1}),
        ("three small red circles above two large blue squares", {"count": 1}),
        ("a small red ring above two large blue squares", {"shape": 1, "combination": 1}),
        # a wrong relation, either way of telling it, spoils the relation only
        ("a small red circle below two large blue squares", {"relation": 0}),
        ("two large blue squares above a small red circle", {"relation": 0}),
        ("a small red circle left of two large blue squares", {"relation": 0}),
        # exchanged colours: both are wrong, although both are named
        ("a small blue circle above two large red squares", {"colour": 0, "combination": 0}),
        # half of it, and bad grammar
        ("a small red circle", dict.fromkeys(("colour", "shape", "size", "count", "combination"), 1) | {"relation": 0}),
        ("a small red circle above two large blue square", {}),
        ("", dict.fromkeys(("colour", "shape", "size", "count", "combination", "relation"), 0)),
    ],
)
def test_each_mistake_is_counted_where_it_was_made(said, right):
    found = attribute_accuracy([said], [scene("a small red circle above two large blue squares")])
    everything = dict.fromkeys(("colour", "shape", "size", "count", "combination"), 2) | {"relation": 1}
    assert {name: found[name].num_correct for name in everything} == everything | right
    assert found["scene"].num_correct == 0
    assert found["num_groups"].num_correct == (" above " in said or " below " in said or " left of " in said)


def test_what_is_never_asked_is_left_out():
    found = attribute_accuracy(["a small red circle"], [scene("a small red circle")])
    assert "relation" not in found


@pytest.mark.parametrize("settings", [{"scenes": "single"}, {"scenes": "pair"}, {"split": "unseen"}])
def test_guessing_gets_chance(settings):
    truths, texts = scenes_of(500, **settings)
    shuffled = [texts[i] for i in np.random.default_rng(0).permutation(len(texts))]
    found = attribute_accuracy(shuffled, truths)
    for name, accuracy in found.items():
        if name == "grammatical":
            assert accuracy.chance is None
            continue
        assert accuracy.chance is not None
        spread = 4 * (accuracy.chance * (1 - accuracy.chance) / accuracy.n) ** 0.5 + 0.01
        assert accuracy.rate < accuracy.chance + spread, name
        assert accuracy.rate > accuracy.chance - spread - 0.05, name  # the other way of guessing may be the better


def test_chance_of_a_lone_group_is_what_its_words_say():
    truths, texts = scenes_of(1500, scenes="single")
    found = attribute_accuracy(texts, truths)
    expected = {"colour": 1 / 6, "shape": 1 / 6, "size": 1 / 2, "count": 1 / 3, "combination": 1 / 30, "num_groups": 1}
    for name, chance in expected.items():
        assert found[name].chance == pytest.approx(chance, abs=0.02), name


def test_on_held_out_combinations_chance_knows_that_there_are_six():
    truths, texts = scenes_of(800, split="unseen", scenes="single")
    assert attribute_accuracy(texts, truths)["combination"].chance == pytest.approx(1 / 6, abs=0.02)


def test_it_is_seeded_and_told_from_the_canonical_side():
    truths, texts = scenes_of(50)
    assert attribute_accuracy(texts, truths) == attribute_accuracy(texts, [canonical(truth) for truth in truths])


def test_lengths_must_fit():
    with pytest.raises(BadInput, match="want the same number"):
        attribute_accuracy([], [])
