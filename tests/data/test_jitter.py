import random

import numpy as np
import pytest
import torch

from sfumato.base.errors import BadInput
from sfumato.data import Jitter

NOTHING = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0, "grey": 0.0, "blur": 0.0}


def rng(seed=0):
    return np.random.default_rng(seed)


def picture(size=32, channels=3):
    return rng(7).integers(40, 200, (size, size, channels), np.uint8)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("captions", [False, True])
@pytest.mark.parametrize("size", [4, 28, 96])
def test_any_picture_keeps_shape_and_range(channels, dtype, captions, size):
    jitter = Jitter.suited(size, channels=channels, captions=captions)
    for seed in range(10):
        found = jitter(picture(size, channels).astype(dtype), rng(seed))
        assert found.shape == (size, size, channels)
        assert found.dtype == np.float32
        assert found.min() >= -1e-3
        assert found.max() <= 255.001


def test_every_number_comes_from_the_generator():
    jitter = Jitter.suited(96)
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    first = jitter(picture(96), rng(1))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])
    assert random.getstate() == before[2]
    torch.manual_seed(9)
    random.seed(9)
    assert np.array_equal(jitter(picture(96), rng(1)), first)
    assert not np.array_equal(jitter(picture(96), rng(2)), first)


def test_nothing_leaves_the_picture():
    jitter = Jitter(**NOTHING)
    assert jitter.is_nothing
    assert np.allclose(jitter(picture(), rng()), picture(), atol=1e-3)
    assert Jitter(probability=0.0, grey=0.0, blur=0.0).is_nothing
    assert not Jitter(**{**NOTHING, "grey": 0.1}).is_nothing
    assert not Jitter(**{**NOTHING, "hue": 0.1}).is_nothing


def test_brightness_multiplies_within_its_range():
    jitter = Jitter(**{**NOTHING, "probability": 1.0, "brightness": 0.2})
    flat = np.full((8, 8, 3), 100, np.uint8)
    factors = np.array([jitter(flat, rng(seed))[0, 0, 0] / 100 for seed in range(300)])
    assert 0.799 < factors.min() < 0.82
    assert 1.18 < factors.max() < 1.201
    assert abs(factors.mean() - 1) < 0.02


def test_contrast_keeps_the_mean_and_hue_the_brightest():
    grey = picture(channels=1)
    found = Jitter(**{**NOTHING, "probability": 1.0, "contrast": 0.3})(grey, rng())
    assert abs(found.mean() - grey.mean()) < 0.5
    assert abs(found.std() / grey.std() - 1) > 0.01
    colour = picture()
    turned = Jitter(**{**NOTHING, "probability": 1.0, "hue": 0.5})(colour, rng(3))
    assert np.allclose(turned.max(2), colour.max(2), atol=1)
    assert np.abs(turned - colour).max() > 20


def test_probabilities_are_kept():
    half = Jitter(**{**NOTHING, "grey": 0.25})
    grey = [bool(np.ptp(half(picture(), rng(seed)), axis=2).max() < 1) for seed in range(400)]
    assert 70 < sum(grey) < 130
    some = Jitter(**{**NOTHING, "brightness": 0.4, "probability": 0.5})
    kept = [bool(np.allclose(some(picture(), rng(seed)), picture(), atol=1e-3)) for seed in range(200)]
    assert 70 < sum(kept) < 130


def test_blur_smooths():
    jitter = Jitter(**{**NOTHING, "blur": 1.0, "sigma": (2.0, 2.0)})
    found = jitter(picture(96), rng())
    assert found.std() < 0.4 * picture(96).std()
    assert abs(found.mean() - picture(96).mean()) < 1


def test_what_is_usual_depends_on_size_channels_and_captions():
    assert Jitter.suited(32).blur == 0
    assert Jitter.suited(224).blur == 0.5
    assert (Jitter.suited(32).hue, Jitter.suited(224).hue) == (0.1, 0.2)
    one = Jitter.suited(28, channels=1)
    assert (one.hue, one.saturation, one.grey) == (0, 0, 0)
    assert one.brightness == 0.4
    told = Jitter.suited(224, captions=True)
    assert (told.hue, told.saturation, told.grey, told.blur) == (0, 0, 0, 0)
    assert not told.is_nothing
    assert Jitter.suited(224, captions=True, hue=0.05).hue == 0.05


def test_with_captions_colours_keep_their_names():
    """Red stays the strongest channel of a red picture, whatever is drawn."""
    red = np.broadcast_to(np.array([200, 60, 50], np.uint8), (16, 16, 3))
    jitter = Jitter.suited(16, captions=True)
    for seed in range(50):
        found = jitter(red, rng(seed))
        assert (found[..., 0] > 2 * found[..., 1:].max(2)).all()


def test_settings_are_plain_values():
    assert Jitter(sigma=(0.5, 1.0)).to_dict()["sigma"] == [0.5, 1.0]


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"probability": 1.5}, "probability"),
        ({"grey": -0.1}, "grey"),
        ({"blur": 2.0}, "blur"),
        ({"brightness": -1.0}, "brightness"),
        ({"contrast": float("nan")}, "contrast"),
        ({"hue": 0.6}, "hue"),
        ({"sigma": (0.0, 1.0)}, "sigma"),
        ({"sigma": (2.0, 1.0)}, "sigma"),
    ],
)
def test_wrong_settings_are_named(settings, word):
    with pytest.raises(BadInput, match=f"{word} of Jitter"):
        Jitter(**settings)


def test_a_grey_picture_stays_grey_under_a_distortion_of_colours():
    for seed in range(10):
        found = Jitter.suited(32)(picture(channels=1), rng(seed))
        assert found.shape == (32, 32, 1)
        assert found.max() <= 255.001
