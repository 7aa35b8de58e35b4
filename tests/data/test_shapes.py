import numpy as np
import pytest

from sfumato.base.errors import BadInput
from sfumato.data import canonical, hard_negatives, parse_caption, questions, shapes, shapes_vocabulary
from sfumato.data.draw import DISTANCES, Blob, paint
from sfumato.data.grammar import COLOURS, SHAPES
from sfumato.data.shapes import SEEN, UNSEEN

NUM = 400


def combinations(captioned, num=NUM):
    return [
        {(group["colour"], group["shape"]) for group in captioned[index]["attributes"]["groups"]}
        for index in range(num)
    ]


def test_a_scene_is_a_function_of_seed_split_and_index():
    one, again, other = shapes(NUM, 3), shapes(10**12, 3), shapes(NUM, 4)
    for index in (0, 1, NUM - 1):
        assert np.array_equal(one[index]["image"], again[index]["image"])
        assert one[index]["caption"] == again[index]["caption"]
    assert any(one[index]["caption"] != other[index]["caption"] for index in range(5))
    test = shapes(NUM, 3, split="test")
    assert sum(one[index]["caption"] == test[index]["caption"] for index in range(NUM)) < NUM / 50
    # the pixels are part of the fingerprint: who changes them must raise VERSION
    assert one[1]["caption"] == "three small yellow triangles"
    assert int(one[1]["image"].astype(np.int64).sum()) == 433463


def test_drawing_ignores_the_generator_and_takes_no_memory():
    captioned = shapes(10**12, 0)
    drawn = captioned.draw(10**12 - 1, np.random.default_rng(0))
    assert np.array_equal(drawn["image"], captioned[10**12 - 1]["image"])
    with pytest.raises(IndexError):
        captioned[10**12]


def test_captions_are_read_back():
    captioned = shapes(NUM, 0)
    for index in range(NUM):
        row = captioned[index]
        assert parse_caption(row["caption"]) == row["attributes"]
        assert parse_caption(f" {row['caption'].upper()}. ") == row["attributes"]
    for text in ("", "a small red circles", "two small red circle", "a red circle", "a small red circle above"):
        assert parse_caption(text) is None


def test_unseen_combinations_are_never_in_training():
    assert len(UNSEEN) == 6
    assert len(SEEN) == 30
    for colour in COLOURS:
        assert sum(combination[0] == colour for combination in SEEN) == 5
    for shape in SHAPES:
        assert sum(combination[1] == shape for combination in SEEN) == 5
    assert set().union(*combinations(shapes(NUM))) == set(SEEN)
    assert set().union(*combinations(shapes(NUM, split="test"))) == set(SEEN)
    assert set().union(*combinations(shapes(NUM, split="unseen"))) == set(UNSEEN)


def test_every_word_is_in_the_vocabulary():
    plain, asked = set(shapes_vocabulary()), set(shapes_vocabulary(questions=True))
    used, spoken = set(), set()
    captioned = shapes(NUM)
    for index in range(NUM):
        scene = captioned[index]["attributes"]
        used |= set(captioned[index]["caption"].split())
        for texts in hard_negatives(scene).values():
            used |= set(" ".join(texts).split())
        for question, answer in questions(scene):
            spoken |= {*question.replace("?", " ?").split(), *answer.split()}
    assert used == plain
    assert spoken <= asked


def test_hard_negatives_are_wrong():
    captioned = shapes(NUM)
    kinds = {"attribute": 0, "relation": 0, "order": 0}
    for index in range(NUM):
        scene = captioned[index]["attributes"]
        negatives = hard_negatives(scene)
        assert negatives == hard_negatives(scene)
        for kind, texts in negatives.items():
            kinds[kind] += len(texts)
            for text in texts:
                told = parse_caption(text)
                assert told is not None or kind == "order"
                assert told is None or canonical(told) != canonical(scene)
        for text in negatives["order"]:
            assert sorted(text.split()) == sorted(captioned[index]["caption"].split())
    assert kinds["attribute"] > 2 * NUM
    assert kinds["relation"] > NUM
    assert kinds["order"] > 2 * NUM


def test_canonical_joins_the_two_ways_to_tell_a_scene():
    one = parse_caption("a small red circle below two large blue squares")
    other = parse_caption("two large blue squares above a small red circle")
    assert one != other
    assert canonical(one) == canonical(other)


def test_questions_are_answered_by_the_scene():
    scene = parse_caption("two small red circles left of a large blue square")
    answers = dict(questions(scene))
    assert answers["what colour are the circles?"] == "red"
    assert answers["what shape is the blue thing?"] == "square"
    assert answers["how many circles are there?"] == "two"
    assert answers["what size is the square?"] == "large"
    assert answers["where are the circles relative to the square?"] == "left of"
    captioned = shapes(NUM)
    said = [dict(questions(captioned[index]["attributes"])) for index in range(NUM)]
    yes = [answer == "yes" for pairs in said for question, answer in pairs.items() if question.startswith("is there")]
    assert 0.4 < np.mean(yes) < 0.6


@pytest.mark.parametrize("scenes", ["single", "pair"])
def test_pictures_show_what_captions_say(scenes):
    """Colour, side and number are measured from the pixels of 60 scenes."""
    from scipy.ndimage import label

    captioned = shapes(60, 1, scenes=scenes, image_size=64)
    for index in range(60):
        row = captioned[index]
        told = canonical(row["attributes"])
        centres = []
        for group in told["groups"]:
            pixels = row["image"].astype(float)
            unit = np.array(COLOURS[group["colour"]]) / np.linalg.norm(COLOURS[group["colour"]])
            bright = np.linalg.norm(pixels, axis=2)
            mask = (pixels @ unit > 0.985 * bright) & (bright > 150)
            blobs, _ = label(mask, structure=np.ones((3, 3)))
            sizes = np.bincount(blobs.ravel())[1:]
            assert (sizes > 4).sum() == group["count"], row["caption"]
            centres.append(np.argwhere(mask).mean(0))
        if told["relation"] == "above":
            assert centres[0][0] < centres[1][0]
        if told["relation"] == "left of":
            assert centres[0][1] < centres[1][1]


def test_drawing_is_antialiased_and_scales():
    for shape in DISTANCES:
        blob = [Blob(shape=shape, x=0.5, y=0.5, radius=0.3, colour=(255.0, 255.0, 255.0))]
        small, large = (paint(size, (0, 0, 0), blob)[:, :, 0].astype(float) for size in (32, 256))
        assert ((small > 20) & (small < 235)).any()
        assert abs(small.mean() - large.mean()) < 0.03 * large.mean() + 1
        assert np.array_equal(small, small[:, ::-1])  # every shape is its own mirror image


def test_labels_and_class_captions():
    captioned = shapes(50)
    rows = [captioned[index] for index in range(50)]
    assert captioned.labels.tolist() == [row["label"] for row in rows]
    for row in rows:
        group = canonical(row["attributes"])["groups"][0]
        assert captioned.class_names[row["label"]] == f"{group['colour']} {group['shape']}"
    assert len(captioned.class_captions) == 36
    assert all(parse_caption(text) for text in captioned.class_captions)
    assert captioned.augment == "none"
    assert not captioned.flip


@pytest.mark.parametrize(
    ("settings", "word"),
    [({"num": 0}, "one row"), ({"split": "val"}, "train, test"), ({"image_size": 8}, "16"), ({"scenes": "x"}, "mixed")],
)
def test_wrong_settings_are_named(settings, word):
    with pytest.raises(BadInput, match=word):
        shapes(**{"num": 4, **settings})


def test_manifest_names_the_scenes():
    assert shapes(5).manifest() == shapes(5).manifest()
    for other in (shapes(6), shapes(5, 1), shapes(5, split="test"), shapes(5, image_size=32), shapes(5, scenes="pair")):
        assert other.manifest() != shapes(5).manifest()
