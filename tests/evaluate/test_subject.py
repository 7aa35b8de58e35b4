import numpy as np
import pytest
import torch

from sfumato.base import BadInput
from sfumato.evaluate import subject as room
from sfumato.evaluate.subject import at_random, captioner
from sfumato.losses import caption_loss
from sfumato.models import Tokenizer, build, embed

TEXTS = ["a red circle", "two small blue squares", "a green ring above a red cross"]


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.from_public_text(TEXTS)


@pytest.fixture(scope="module")
def model(tokenizer):
    made = build("micro", vocab_size=tokenizer.vocab_size, image_size=16, max_tokens=9, seed=1, **tokenizer.special_ids)
    with torch.no_grad():  # away from initial values, so that the answers differ
        for parameter in made.parameters():
            parameter.add_(
                0.2 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(parameter.numel()))
            )
    return made


@pytest.fixture(scope="module")
def pictures():
    return np.random.default_rng(0).normal(size=(5, 3, 16, 16)).astype(np.float32)


def losses_of(model, tokenizer, picture, text):
    batch = {"pixel_values": torch.from_numpy(picture)[None], "labels": tokenizer.encode([text], 9)}
    with torch.no_grad():
        return float(caption_loss(model.eval(), batch))


def test_features_are_the_mean_of_encoder_tokens(model, tokenizer, pictures):
    found = captioner(model, tokenizer).encode(pictures)
    tokens = model.eval().encoder(pixel_values=torch.from_numpy(pictures)).last_hidden_state
    assert found == pytest.approx(tokens.mean(1).detach().numpy(), abs=1e-6)


def test_label_scores_are_minus_the_loss_of_each_pair(model, tokenizer, pictures, monkeypatch):
    subject = captioner(model, tokenizer)
    expected = np.array([[-losses_of(model, tokenizer, picture, text) for text in TEXTS] for picture in pictures])
    assert subject.score_labels(pictures, TEXTS) == pytest.approx(expected, abs=1e-5)
    monkeypatch.setattr(room, "MAX_EXACT_LABELS", 2)  # three labels: the prefix tree, whose beam holds all three
    assert subject.score_labels(pictures, TEXTS) == pytest.approx(expected, abs=1e-5)


def test_caption_losses_follow_each_pictures_own_list(model, tokenizer, pictures):
    lists = [TEXTS[:1], TEXTS[1:], TEXTS, TEXTS[::-1], TEXTS[2:]]
    found = captioner(model, tokenizer).caption_losses(pictures, lists)
    assert found.shape == (5, 3)
    for row, picture, texts in zip(found, pictures, lists):
        assert row[: len(texts)] == pytest.approx([losses_of(model, tokenizer, picture, t) for t in texts], abs=1e-5)
        assert np.isposinf(row[len(texts) :]).all()


def test_captions_are_one_text_per_picture(model, tokenizer, pictures):
    texts = captioner(model, tokenizer).describe(pictures)
    assert len(texts) == 5
    assert all(isinstance(text, str) for text in texts)


def test_the_model_is_left_as_it_was_found(model, tokenizer, pictures):
    model.train()
    subject = captioner(model, tokenizer)
    before = torch.random.get_rng_state()
    for call in (subject.encode, subject.encode_at_random, subject.describe):
        call(pictures)
    subject.score_labels(pictures, TEXTS)
    assert model.training
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_untrained_twin_is_as_build_makes_it_and_not_the_model(model, tokenizer, pictures):
    fresh = build(
        "micro", vocab_size=tokenizer.vocab_size, image_size=16, max_tokens=9, seed=7, **tokenizer.special_ids
    )
    expected = embed(fresh, torch.from_numpy(pictures)).numpy()
    assert captioner(model, tokenizer, seed=7).encode_at_random(pictures) == pytest.approx(expected, abs=1e-6)
    assert np.abs(captioner(model, tokenizer).encode(pictures) - expected).max() > 0.1
    given = captioner(model, tokenizer, random_model=fresh)
    assert given.encode_at_random(pictures) == pytest.approx(expected, abs=1e-6)


def test_a_model_that_no_size_names_gets_a_twin_too(model, pictures):
    model.config.sfumato, before = None, model.config.sfumato
    try:
        twin = at_random(model, 3)
    finally:
        model.config.sfumato = before
    one, other = embed(twin, torch.from_numpy(pictures)), embed(model, torch.from_numpy(pictures))
    assert not torch.allclose(one, other)
    assert torch.isfinite(one).all()


def test_captions_too_long_for_the_model_are_refused(model, tokenizer, pictures):
    subject = captioner(model, tokenizer)
    long = " ".join(TEXTS)
    with pytest.raises(BadInput, match="1 of 2 captions are longer than the model's 9 tokens"):
        subject.score_labels(pictures, ["a red circle", long])
    with pytest.raises(BadInput, match="longer"):
        subject.caption_losses(pictures, [[long]] * 5)
