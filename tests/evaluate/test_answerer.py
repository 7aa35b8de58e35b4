import numpy as np
import pytest
import torch
from torch import nn

from sfumato.base import UndecodableRow
from sfumato.evaluate.answerer import answerer
from sfumato.models import start_blip

WORDS = ["<end>", "red", "light", "blue"]


class Reader(nn.Module):
    """Logits (N, L, V) from a picture's mean and the tokens before; dropout shows whether it was left on."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.words = nn.Embedding(len(WORDS), 8)
        self.see = nn.Linear(1, 8)
        self.out = nn.Linear(8, len(WORDS))
        self.drop = nn.Dropout(0.5)

    def forward(self, pictures, tokens):
        seen = self.see(pictures.flatten(1).mean(1, keepdim=True))
        return self.out(self.drop(self.words(tokens).cumsum(1) + seen[:, None]))


class Family:
    """Feeds `Reader`: 3 answer tokens at most, the end included; "odd" questions cannot be fed."""

    def ask(self, picture, question):
        if "odd" in question:
            raise UndecodableRow("a question holds the picture's placeholder")
        return {"pixels": torch.from_numpy(picture.astype(np.float32) / 255)}

    def fits(self, answer):
        return len(answer.split()) < 3

    def encode(self, picture, question, answer):
        ids = [*(WORDS.index(word) for word in answer.split()[:2]), 0]
        padding = 3 - len(ids)
        labels = torch.tensor([-100, *ids] + [-100] * padding)
        return {**self.ask(picture, question), "tokens": torch.tensor([0, *ids] + [0] * padding), "labels": labels}

    def logits(self, model, batch):
        found = model(batch["pixels"], batch["tokens"])
        return torch.cat([found[:, :1], found[:, :-1]], 1)  # what stands before a label predicts it

    def generate(self, model, batch, *, max_new_tokens):
        assert not model.training
        return [f"{max_new_tokens} words about {pixels.mean():.1f}" for pixels in batch["pixels"]]


PICTURES = [np.full((2, 2, 3), value, np.uint8) for value in (0, 51, 255)]
QUESTIONS = ["what?", "an odd one?", "which?"]


@pytest.fixture(scope="module")
def blip():
    """A model of the package, as it starts: 16 pixels a side, 4 answer tokens at most, the end included."""
    words = ["is it red ? blue yes no", "a small light blue circle"]
    return start_blip("micro", seed=0, texts=words, image_size=16, max_question=8, max_answer=4)


def literal(model, picture, answer):
    """Return the mean log-likelihood per token, a token at a time."""
    ids = [WORDS.index(word) for word in answer.split()] + [0]
    batch = torch.from_numpy(picture.astype(np.float32) / 255)[None]
    total = 0.0
    with torch.no_grad():
        for place, label in enumerate(ids):
            logits = model(batch, torch.tensor([[0, *ids[:place]]]))[0, -1]
            total += float(logits.log_softmax(-1)[label])
    return total / len(ids)


def test_answers_in_order_and_none_where_the_model_cannot_be_asked():
    model = Reader()
    assert model.training
    found = answerer(model, Family(), max_new_tokens=5).answer(PICTURES, QUESTIONS)
    assert found == ["5 words about 0.0", None, "5 words about 1.0"]
    assert model.training  # as it was found
    assert answerer(model, Family()).answer(PICTURES[:1], ["too odd"]) == [None]


def test_scores_are_mean_log_likelihoods_per_token():
    model = Reader()
    candidates = ["red", "light blue", "light light blue"]
    scores = answerer(model, Family()).score_answers(PICTURES, QUESTIONS, candidates)
    assert scores.shape == (3, 3)
    assert np.isneginf(scores[1]).all()  # this question cannot be fed
    assert np.isneginf(scores[:, 2]).all()  # this answer does not fit: cut, it would be the one before
    model.eval()
    expected = [[literal(model, PICTURES[row], text) for text in candidates[:2]] for row in (0, 2)]
    np.testing.assert_allclose(scores[[0, 2], :2], expected, rtol=1e-5)


def test_rows_do_not_depend_on_their_batch():
    subject = answerer(Reader(), Family())
    together = subject.score_answers(PICTURES, QUESTIONS, ["red", "light blue"])
    alone = np.concatenate(
        [subject.score_answers([p], [q], ["red", "light blue"]) for p, q in zip(PICTURES, QUESTIONS)]
    )
    np.testing.assert_allclose(together, alone, rtol=1e-6)


def test_a_candidate_that_does_not_fit_a_real_model_cannot_win(blip):
    subject = answerer(blip.model, blip.family)
    shown = [np.full((16, 16, 3), level, np.uint8) for level in (0, 200)]
    candidates = ["red", "small light blue", "small light blue circle", "small light blue red"]
    scores = subject.score_answers(shown, ["is it red?"] * 2, candidates)
    assert np.isfinite(scores[:, :2]).all()
    assert np.isneginf(scores[:, 2:]).all()
    assert [blip.family.fits(text) for text in candidates] == [True, True, False, False]
    assert blip.family.fits("")


@pytest.mark.parametrize("channels", [1, 3])
def test_deep_pictures_are_asked_and_ranked_as_they_are_trained_on(blip, channels):
    subject = answerer(blip.model, blip.family, max_new_tokens=3)
    level = np.random.default_rng(0).uniform(0, 255, (12, 20, channels)).astype(np.float32)
    rounded = np.repeat(np.rint(level).astype(np.uint8), 3 // channels, axis=2)
    question, candidates = ["is it red?"], ["yes", "no"]
    assert subject.answer([level], question) == subject.answer([rounded], question) != [None]
    scores = subject.score_answers([level], question, candidates)
    assert np.isfinite(scores).all()
    assert np.array_equal(scores, subject.score_answers([rounded], question, candidates))


def test_what_is_no_picture_is_no_answer(blip):
    subject = answerer(blip.model, blip.family)
    assert subject.answer([np.zeros((4, 4), np.uint8)], ["is it red?"]) == [None]
    assert np.isneginf(subject.score_answers([np.zeros((4, 4), np.uint8)], ["is it red?"], ["yes"])).all()


def test_a_row_without_a_label_cannot_win():
    class Mute(Family):
        def encode(self, picture, question, answer):
            row = super().encode(picture, question, answer)
            return row | {"labels": torch.full_like(row["labels"], -100)} if answer == "red" else row

    scores = answerer(Reader(), Mute()).score_answers(PICTURES[:1], ["what?"], ["red", "blue"])
    assert np.isneginf(scores[0, 0])
    assert np.isfinite(scores[0, 1])


def test_what_a_model_of_questions_does_not_do():
    subject = answerer(Reader(), Family())
    assert subject.encode is None
    assert subject.describe is None
    with pytest.raises(ValueError, match=r"shorter|longer"):
        subject.answer(PICTURES, QUESTIONS[:2])
