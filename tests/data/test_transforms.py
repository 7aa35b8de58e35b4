import json

import numpy as np
import pytest
import torch

from sfumato.base.errors import BadInput
from sfumato.data import Preprocess, shapes
from sfumato.data.transforms import _random_box

GRADIENT = np.linspace(0, 255, 64 * 48 * 3).astype(np.uint8).reshape(48, 64, 3)


def rng(seed=0):
    return np.random.default_rng(seed)


@pytest.mark.parametrize("augment", ["crop", "shift", "none"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("image", [GRADIENT, GRADIENT[:, :, :1], GRADIENT.astype(np.float32), GRADIENT[:20, :1]])
def test_any_picture_gives_one_shape(augment, channels, image):
    preprocess = Preprocess(image_size=32, channels=channels, augment=augment, flip=True)
    for tensor in (preprocess.train(image, rng()), preprocess.evaluate(image)):
        assert tensor.shape == (channels, 32, 32)
        assert tensor.dtype == torch.float32
        assert tensor.is_contiguous()
        assert tensor.abs().max() <= 1.0001


def test_training_and_evaluation_share_one_normalisation():
    flat = np.full((40, 40, 3), (51, 102, 204), np.uint8)
    preprocess = Preprocess(image_size=32, mean=(0.1, 0.2, 0.3), std=(0.5, 0.25, 0.2))
    expected = torch.tensor([0.2, 0.8, 2.5])[:, None, None].expand(3, 32, 32)
    assert torch.allclose(preprocess.evaluate(flat), expected, atol=1e-6)
    assert torch.allclose(preprocess.train(flat, rng()), expected, atol=1e-6)
    deep = flat.astype(np.float32)
    assert torch.allclose(preprocess.evaluate(deep), expected, atol=1e-6)


def test_training_without_augmentation_is_evaluation():
    preprocess = Preprocess(image_size=32, augment="none")
    assert torch.equal(preprocess.train(GRADIENT, rng()), preprocess.evaluate(GRADIENT))


def test_evaluation_is_the_centred_square():
    image = np.zeros((32, 64, 1), np.uint8)
    image[:, 16:48] = 255
    assert torch.equal(Preprocess(image_size=32, channels=1).evaluate(image), torch.ones(1, 32, 32))


def test_a_picture_of_the_right_size_is_not_resampled():
    image = rng().integers(0, 256, (28, 28, 1), np.uint8)
    found = Preprocess(image_size=28, channels=1, mean=(0.0,), std=(1.0,)).evaluate(image)
    assert torch.equal((found * 255).round().to(torch.uint8)[0], torch.from_numpy(image[:, :, 0]))


def test_deep_pictures_are_not_rounded():
    fine = (100 + np.linspace(0, 1, 64 * 64, dtype=np.float32)).reshape(64, 64, 1)
    found = Preprocess(image_size=32, channels=1, augment="none").evaluate(fine)
    assert len(torch.unique(found)) > 500


def test_bicubic_overshoot_is_clipped():
    edge = np.zeros((64, 64, 1), np.float32)
    edge[:, 32:] = 255
    found = Preprocess(image_size=40, channels=1).evaluate(edge)
    assert found.min() == -1
    assert found.max() == 1
    assert torch.allclose(found, Preprocess(image_size=40, channels=1).evaluate(edge.astype(np.uint8)), atol=0.005)


def test_crops_are_drawn_from_the_generator_alone():
    preprocess = Preprocess(image_size=32, augment="crop", flip=True)
    first = preprocess.train(GRADIENT, rng(1))
    np.random.seed(5)
    torch.manual_seed(5)
    assert torch.equal(preprocess.train(GRADIENT, rng(1)), first)
    assert not torch.equal(preprocess.train(GRADIENT, rng(2)), first)


def test_crop_areas_and_ratios_stay_in_range():
    boxes = np.array([_random_box(640, 480, (0.2, 1.0), (3 / 4, 4 / 3), rng(seed)) for seed in range(400)])
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    area = width * height / (640 * 480)
    assert boxes.min() >= 0
    assert boxes[:, 2].max() <= 640
    assert boxes[:, 3].max() <= 480
    assert 0.199 < area.min() < 0.25
    assert 0.9 < area.max() <= 1
    assert 0.5 < np.mean(area) < 0.62
    assert (width / height).min() > 0.749
    assert (width / height).max() < 1.334


@pytest.mark.parametrize(("width", "height"), [(1000, 10), (10, 1000), (1, 1)])
def test_crops_of_odd_pictures_fit(width, height):
    for seed in range(20):
        left, top, right, bottom = _random_box(width, height, (0.9, 1.0), (3 / 4, 4 / 3), rng(seed))
        assert 0 <= left < right <= width
        assert 0 <= top < bottom <= height


def test_flip_happens_only_where_declared():
    image = np.zeros((32, 32, 1), np.uint8)
    image[:, :16] = 255
    plain = Preprocess(image_size=32, augment="none", channels=1)
    flipped = Preprocess(image_size=32, augment="none", channels=1, flip=True)
    left = [bool(flipped.train(image, rng(seed))[0, 0, 0] > 0) for seed in range(200)]
    assert all(bool(plain.train(image, rng(seed))[0, 0, 0] > 0) for seed in range(20))
    assert 70 < sum(left) < 130
    assert flipped.evaluate(image)[0, 0, 0] > 0


def test_shift_moves_whole_pixels():
    image = np.zeros((28, 28, 1), np.uint8)
    image[14, 14] = 255
    preprocess = Preprocess(image_size=28, augment="shift", channels=1, mean=(0.0,), std=(1.0,))
    places = [torch.nonzero(preprocess.train(image, rng(seed))[0] == 1)[0].tolist() for seed in range(200)]
    assert {place[0] for place in places} == {12, 13, 14, 15, 16} == {place[1] for place in places}


def test_settings_travel_as_json():
    preprocess = Preprocess(image_size=56, mean=(0.1, 0.2, 0.3), std=(0.5,), augment="shift", flip=True)
    assert Preprocess.from_dict(json.loads(json.dumps(preprocess.to_dict()))) == preprocess
    with pytest.raises(BadInput, match="no field colour"):
        Preprocess.from_dict({"image_size": 3, "colour": 1})


def test_a_set_declares_what_keeps_its_captions_true():
    found = Preprocess.suited(shapes(3), 32)
    assert (found.augment, found.flip) == ("none", False)
    assert Preprocess.suited(shapes(3), 32, augment="shift", channels=1).augment == "shift"


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"image_size": 0}, "image_size"),
        ({"channels": 4}, "channels"),
        ({"augment": "cut"}, "augment"),
        ({"mean": (0.1, 0.2)}, "mean"),
        ({"std": (0.0,)}, "std"),
        ({"scale": (0.0, 1.0)}, "scale"),
        ({"ratio": (2.0, 1.0)}, "ratio"),
    ],
)
def test_wrong_settings_are_named(settings, word):
    with pytest.raises(BadInput, match=word):
        Preprocess(**{"image_size": 8, **settings})


def test_what_is_no_picture_is_refused():
    with pytest.raises(BadInput, match="uint8"):
        Preprocess(image_size=8).evaluate(np.zeros((8, 8)))


def test_a_distortion_comes_before_the_normalisation():
    def lighten(pixels, generator):
        assert pixels.shape == (32, 32, 3)
        return np.full_like(pixels, 51 * generator.integers(1, 5), np.float32)

    preprocess = Preprocess(image_size=32, mean=(0.2,), std=(0.5,), augment="none")
    expected = 51 * rng(4).integers(1, 5) / 255
    found = preprocess.train(GRADIENT, rng(4), lighten)
    assert torch.allclose(found, torch.full((3, 32, 32), (expected - 0.2) / 0.5))
    grey = Preprocess(image_size=32, mean=(0.2,), std=(0.5,), augment="none", channels=1)
    assert torch.allclose(grey.train(GRADIENT, rng(4), lighten), found[:1])


def test_a_shift_repeats_the_border():
    """A white margin stays white: no black bar enters a drawing."""
    image = rng().integers(0, 256, (28, 28, 1), np.uint8)
    preprocess = Preprocess(image_size=28, augment="shift", channels=1, mean=(0.0,), std=(1.0,))
    for seed in range(20):
        down, right = rng(seed).integers(-2, 3, 2)
        rows, columns = (np.clip(np.arange(28) - step, 0, 27) for step in (down, right))
        expected = image[rows][:, columns, 0].astype(np.float32) / 255
        assert np.allclose(preprocess.train(image, rng(seed))[0], expected)
