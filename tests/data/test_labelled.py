import numpy as np
import pytest

from sfumato.base.errors import BadInput
from sfumato.data.labelled import filled, labelled


def build(**settings):
    return labelled(
        **{
            "name": "set",
            "split": "train",
            "images": np.arange(3 * 4 * 4, dtype=np.uint8).reshape(3, 4, 4),
            "numbers": np.array([1, 0, 1]),
            "class_names": ("cat", "owl"),
            "templates": ("a photo of {a} {label}", "{label}"),
            "digests": {"images": "x"},
            "augment": "shift",
            "flip": False,
            **settings,
        }
    )


def test_each_row_has_every_template_of_its_class_and_draws_one():
    found = build()
    assert found.captions_of(0) == ("a photo of an owl", "owl")
    assert found[0]["caption"] == "a photo of an owl"
    drawn = [found.draw(0, np.random.default_rng(seed))["caption"] for seed in range(40)]
    assert set(drawn) == {"a photo of an owl", "owl"}
    assert 8 < drawn.count("owl") < 32
    assert found.class_captions == ("a photo of a cat", "a photo of an owl")
    assert found.labels.tolist() == [1, 0, 1]


def test_grey_and_colour_pictures_have_a_channel_axis():
    assert build()[0]["image"].shape == (4, 4, 1)
    colour = np.zeros((3, 3, 4, 4), np.uint8)
    colour[:, 2] = 9
    row = build(images=np.moveaxis(colour, 1, 3))[0]
    assert row["image"].shape == (4, 4, 3)
    assert row["image"].flags.c_contiguous
    assert row["image"][0, 0].tolist() == [0, 0, 9]


def test_the_templates_are_in_the_fingerprint():
    assert build().manifest() != build(templates=("a photo of {a} {label}",)).manifest()


@pytest.mark.parametrize("template", ["a photo", "a {thing} {label}", "{label", "{a}", "{} {label}"])
def test_wrong_templates_are_named(template):
    with pytest.raises(BadInput, match="caption template"):
        filled([template], ["cat"])


@pytest.mark.parametrize("templates", [(), "a photo of {a} {label}"])
def test_templates_are_a_list(templates):
    with pytest.raises(BadInput, match="list of at least one"):
        filled(templates, ["cat"])
