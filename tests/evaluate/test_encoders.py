import numpy as np
import pytest
import torch
from torch import nn

from sfumato.base import BadInput
from sfumato.evaluate.encoders import dual_encoder, image_encoder


class Pair(nn.Module):
    """Two linear towers with dropout behind the first."""

    def __init__(self, seed=0):
        super().__init__()
        rng = torch.Generator().manual_seed(seed)
        self.seeing, self.reading = nn.Linear(12, 5), nn.Embedding(30, 5)
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=rng)
        self.dropout = nn.Dropout(0.5)


class Embeds:
    """How `Pair` embeds: unit rows."""

    def images(self, model, pictures):
        return nn.functional.normalize(model.dropout(model.seeing(pictures.flatten(1))), dim=1)

    def texts(self, model, input_ids):
        return nn.functional.normalize(model.reading(input_ids).mean(1), dim=1)


class EmbedsWithHead(Embeds):
    """The features stand before the unit norm."""

    def features(self, model, pictures):
        return model.seeing(pictures.flatten(1))


def ids(texts):
    assert isinstance(texts, list)
    return torch.tensor([[len(text), ord(text[0]) - ord("a")] for text in texts])


@pytest.fixture
def model():
    return Pair()


@pytest.fixture(scope="module")
def pictures():
    return np.random.default_rng(0).normal(size=(4, 3, 2, 2)).astype(np.float32)


def seen(model, pictures):
    with torch.no_grad():
        return model.seeing(torch.from_numpy(pictures).flatten(1)).numpy()


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_a_dual_encoder_has_pictures_and_texts_in_one_space_and_no_captions(model, pictures):
    found = dual_encoder(model, Embeds(), ids, random_model=Pair(seed=1))
    assert found.embed_images(pictures) == pytest.approx(unit(seen(model, pictures)), abs=1e-6)
    table = model.reading.weight.detach().numpy()
    expected = unit(np.stack([table[3] + table[2], table[1] + table[0]]))
    for texts in (("cat", "a"), ["cat", "a"]):
        assert found.embed_texts(texts) == pytest.approx(expected, abs=1e-6)
    assert found.describe is found.score_labels is found.caption_losses is None


def test_features_are_the_embedders_own_where_it_has_some(model, pictures):
    found = dual_encoder(model, EmbedsWithHead(), ids, random_model=Pair(seed=1))
    assert found.encode(pictures) == pytest.approx(seen(model, pictures), abs=1e-6)
    assert found.embed_images(pictures) == pytest.approx(unit(seen(model, pictures)), abs=1e-6)
    found = dual_encoder(model, Embeds(), ids, random_model=Pair(seed=1))
    assert found.encode(pictures) == pytest.approx(unit(seen(model, pictures)), abs=1e-6)


def test_the_untrained_model_is_the_one_given(model, pictures):
    twin = Pair(seed=1)
    for found in (
        dual_encoder(model, EmbedsWithHead(), ids, random_model=twin),
        image_encoder(model, EmbedsWithHead(), random_model=twin),
    ):
        assert found.encode_at_random(pictures) == pytest.approx(seen(twin, pictures), abs=1e-6)
        assert found.encode(pictures) == pytest.approx(seen(model, pictures), abs=1e-6)


def test_an_image_encoder_sees_and_does_nothing_else(model):
    found = image_encoder(model, Embeds(), random_model=Pair(seed=1))
    absent = ("embed_images", "embed_texts", "describe", "score_labels", "caption_losses")
    assert [getattr(found, name) for name in absent] == [None] * 5


def test_the_model_is_left_as_it_was_found(model, pictures):
    model.train()
    found = dual_encoder(model, Embeds(), ids, random_model=Pair(seed=1))
    before = torch.random.get_rng_state()
    for call in (found.encode, found.encode_at_random, found.embed_images):
        assert isinstance(call(pictures), np.ndarray)
    found.embed_texts(["cat"])
    assert model.training
    assert model.dropout.training
    assert torch.equal(before, torch.random.get_rng_state())  # dropout was off
    assert all(parameter.grad is None for parameter in model.parameters())


def test_pictures_take_the_models_precision_and_arrays_are_float32(model, pictures):
    twin = Pair(seed=1)
    found = dual_encoder(model.double(), Embeds(), ids, random_model=twin)
    for array in (found.encode(pictures), found.encode_at_random(pictures), found.embed_texts(["cat"])):
        assert array.dtype == np.float32
    assert twin.seeing.weight.dtype == torch.float64


def test_the_trained_model_is_no_baseline(model):
    with pytest.raises(BadInput, match="random_model is the trained model itself"):
        dual_encoder(model, Embeds(), ids, random_model=model)
    with pytest.raises(BadInput, match="random_model is the trained model itself"):
        image_encoder(model, Embeds(), random_model=model)
