import dataclasses
import json

import numpy as np
import pytest
from tests.evaluate.stand_ins import Rows, brightness, matcher, shades
from tests.evaluate.test_suite import bench_of

from sfumato.base import BadInput
from sfumato.data import Captioned
from sfumato.evaluate.bench import NotApplicableError
from sfumato.evaluate.on_pairs import prompt_suite, retrieval_suite
from sfumato.evaluate.prompts import PROMPTS
from sfumato.evaluate.suite import run_bench
from sfumato.evaluate.table import table

LIGHTS = (5, 20, 35, 50, 65, 80, 95)


def levels(lights=LIGHTS, captions=None, **more):
    """Return even pictures whose captions name their shade: picture i is found where `matcher` puts its caption."""
    values = [255 * (0.235 + 0.392 * light / 100) for light in lights]
    images = np.stack([np.full((14, 14, 1), value) for value in values]).round().astype(np.uint8)
    captions = tuple(f"shade {light}" for light in lights) if captions is None else captions
    return Rows(images=images, labels=None, captions=captions, **more)


def found_on(dataset, **more):
    return retrieval_suite(bench_of(shades(8), dataset, **({"subject": matcher()} | more)))


def hearing(subject, heard):
    def embed_texts(texts):
        heard.extend(texts)
        return subject.embed_texts(texts)

    return dataclasses.replace(subject, embed_texts=embed_texts)


def test_pictures_find_their_captions_and_captions_their_pictures():
    found = found_on(levels())
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    for way in ("image_to_text", "text_to_image"):
        assert found[way]["r1"]["accuracy"] == 1.0
        assert found[way]["r1"]["chance"] == pytest.approx(1 / 7)
        assert found[way]["r10"]["chance"] == 1.0
        assert found[way]["median_rank"] == {"value": 1.0, "low": 1.0, "high": 1.0, "chance": 4.0}
        assert found[way]["num_candidates"] == 7
    assert (found["num_pictures"], found["num_captions"], found["num_unreadable"]) == (7, 7, 0)


def test_wrong_captions_are_not_found():
    turned = tuple(f"shade {light}" for light in LIGHTS[::-1])
    found = found_on(levels(captions=turned))
    assert found["image_to_text"]["r1"]["accuracy"] == pytest.approx(1 / 7)  # the middle one
    assert found["text_to_image"]["median_rank"]["value"] > 3


def test_each_caption_is_encoded_once_whatever_its_case_and_spaces():
    heard = []
    captions = ("shade 5", "Shade  5", "shade 35", "shade 50", "shade 50", "shade 80", "shade 95")
    subject = hearing(matcher(), heard)
    for batch_size in (2, 3, 100):
        heard.clear()
        found = found_on(levels(captions=captions), subject=subject, batch_size=batch_size)
        assert heard == ["shade 5", "shade 35", "shade 50", "shade 80", "shade 95"]
        assert found["num_captions"] == found["image_to_text"]["num_candidates"] == 5
        assert found["text_to_image"]["num_candidates"] == found["image_to_text"]["r1"]["n"] == 7
        assert found["text_to_image"]["r1"]["n"] == 5
        assert found["text_to_image"]["r1"]["chance"] == pytest.approx((2 / 7 + 1 / 7 + 2 / 7 + 1 / 7 + 1 / 7) / 5)


def test_rows_that_cannot_be_read_are_no_candidates():
    found = found_on(levels(broken=frozenset({1, 2})))
    assert (found["num_pictures"], found["num_captions"], found["num_unreadable"]) == (5, 5, 2)
    assert found["text_to_image"]["num_candidates"] == 5


@dataclasses.dataclass(frozen=True)
class Source:
    """Rows of one picture and caption each."""

    rows: Rows

    def read(self, row, rng):
        return self.rows[row]


def captioned(lights, owners):
    rows = levels(lights)
    names = sorted(set(owners))
    return Captioned(
        name="levels",
        rows=Source(rows),
        selection=range(len(rows)),
        facts={},
        public=True,
        owner_codes=np.array([names.index(owner) for owner in owners]),
        owner_names=tuple(names),
    )


def test_only_the_first_row_of_a_record_competes():
    heard = []
    subject = hearing(matcher(), heard)
    dataset = captioned((5, 6, 35, 65, 66, 95), "aabccd")
    found = found_on(dataset, subject=subject)
    assert heard == ["shade 5", "shade 35", "shade 65", "shade 95"]
    assert found["num_pictures"] == found["text_to_image"]["num_candidates"] == 4
    limited = found_on(dataset, subject=subject, test_rows=np.array([1, 4, 5]))  # a limit of three
    assert limited["num_pictures"] == 3


def test_sets_and_models_without_texts_are_skipped_with_the_reason():
    with pytest.raises(NotApplicableError, match="all pictures have the same caption"):
        found_on(levels(captions=("one",) * 7))
    with pytest.raises(NotApplicableError, match="no captions"):
        found_on(dataclasses.replace(levels(), captions=None))
    for part in ("embed_images", "embed_texts"):
        lacking = dataclasses.replace(matcher(), **{part: None})
        with pytest.raises(NotApplicableError, match="no text encoder"):
            found_on(levels(), subject=lacking)
        with pytest.raises(NotApplicableError, match="no text encoder"):
            prompt_suite(bench_of(shades(8), shades(8), subject=lacking))


def test_a_diverged_model_is_refused():
    broken = dataclasses.replace(matcher(), embed_images=lambda pictures: np.full((len(pictures), 2), np.nan))
    with pytest.raises(BadInput, match="diverged"):
        found_on(levels(), subject=broken)
    with pytest.raises(BadInput, match="picture embeddings"):
        prompt_suite(bench_of(shades(8), shades(8, seed=1), subject=broken))


def test_zero_shot_by_prompts_names_its_prompts():
    heard = []
    bench = bench_of(shades(8), shades(20, seed=1), subject=hearing(matcher(), heard), batch_size=3)
    found = run_bench(bench, ["zeroshot"])["suites"]["zeroshot"]
    assert (found["accuracy"], found["chance"], found["n"]) == (1.0, 0.5, 20)
    assert found["method"] == "prompt ensemble"
    assert found["prompts"] == list(PROMPTS)
    assert "top5" not in found
    assert heard == [template.format(a="a", label=name) for name in ("dark", "light") for template in PROMPTS]
    own = dataclasses.replace(shades(20, seed=1), class_captions=("so light", "so dark"))  # each says the other class
    found = run_bench(dataclasses.replace(bench, test_set=own), ["zeroshot"])["suites"]["zeroshot"]
    assert (found["accuracy"], found["method"], found["captions"]) == (0.0, "class captions", ["so light", "so dark"])


def test_of_ten_classes_the_first_five_are_told_too():
    lights = tuple(range(5, 100, 10))
    even = levels(lights)
    names = tuple(f"shade {light}" for light in lights)
    dataset = dataclasses.replace(even, labels=np.roll(np.arange(10), 3), class_names=names, class_captions=names)
    found = prompt_suite(bench_of(shades(8), dataset, subject=matcher()))
    # true classes are three steps off, or seven: among the five nearest shades only where these reach so far
    nearest = [sorted(lights, key=lambda other, light=light: abs(other - light))[:5] for light in lights]
    expected = sum(lights[label] in near for label, near in zip(dataset.labels, nearest))
    assert found["accuracy"] == 0.0
    assert found["top5"]["accuracy"] == pytest.approx(expected / 10)
    assert 0 < expected < 10
    assert (found["chance"], found["top5"]["chance"]) == (0.1, 0.5)


def test_a_collapsed_dual_encoder_gets_nothing():
    def embed_texts(texts):  # equal up to rounding
        return np.array([[0.6, 0.8 + 5e-7 * ("light" in text)] for text in texts], np.float32)

    flat = dataclasses.replace(matcher(), embed_texts=embed_texts)
    found = run_bench(bench_of(shades(8), shades(20, seed=1), subject=flat), ["zeroshot", "retrieval"])["suites"]
    assert (found["zeroshot"]["accuracy"], found["zeroshot"]["num_ties"]) == (0.0, 20)
    assert found["retrieval"]["image_to_text"]["r1"]["accuracy"] == 0.0


def test_the_table_shows_chance_beside_every_recall():
    many = levels(np.linspace(5, 95, 240).tolist(), captions=tuple(f"shade {i % 100}" for i in range(240)))
    rows = table(run_bench(bench_of(shades(8), many, subject=matcher()), ["retrieval"]))
    cells = {row[:2]: row[2:] for row in rows}
    way = "text to image, among 240 pictures"
    assert [row[0] for row in rows] == ["retrieval, " + name for name in ("R@1", "R@5", "R@10", "median rank")] * 2
    assert cells["retrieval, R@1", way][3] == "1 %"  # (40 x 3 + 60 x 2) / 100 of 240 pictures
    assert cells["retrieval, R@1", "image to text, among 100 captions"][2:] == ("240", "1.0 %")
    value, interval, n, chance = cells["retrieval, median rank", "image to text, among 100 captions"]
    assert (n, chance) == ("240", "50.5")
    low, high = map(float, interval.split(" - "))
    assert low <= float(value) <= high


def test_brightness_of_the_stand_in_is_what_texts_say():
    assert [brightness(text) for text in ("a dark", "a photo of a light", "shade 35")] == [0.0, 1.0, 0.35]
