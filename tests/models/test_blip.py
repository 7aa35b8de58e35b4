"""A BLIP from scratch: its start is a function of the seed, transformers loads its export, it learns."""

from pathlib import Path

import pytest
import torch
import transformers as hf
from tests.models.vlms import QUESTIONS, TEXTS, answers, as_batch, pictures

from sfumato import norms
from sfumato.base import BadInput
from sfumato.losses import AnswerLoss
from sfumato.models import BLIP_SIZES, Tokenizer, load_vlm, start_blip

SMALL = {"seed": 1, "texts": TEXTS, "image_size": 16, "max_question": 10, "max_answer": 4}
SAID = ["red", "two", "yes", "no"]


def rows(made) -> dict[str, torch.Tensor]:
    return as_batch(made, [made.family.encode(*row) for row in zip(pictures(), QUESTIONS, SAID, strict=True)])


def test_the_start_is_a_function_of_its_arguments() -> None:
    torch.manual_seed(5)
    state = torch.get_rng_state()
    one, other = start_blip("micro", **SMALL), start_blip("micro", **SMALL | {"seed": 2})
    assert torch.equal(torch.get_rng_state(), state)
    again = start_blip("micro", **SMALL)
    for name, param in one.model.named_parameters():
        assert torch.equal(again.model.get_parameter(name), param)
    assert not torch.equal(next(one.model.parameters()), next(other.model.parameters()))
    assert one.training.unreached == ()
    assert one.model.training


def test_an_untrained_model_is_near_the_uniform_guess() -> None:
    made = start_blip("tiny", **SMALL)
    with torch.no_grad():
        values = AnswerLoss(made.family.logits)(made.model, rows(made))
    uniform = torch.tensor(float(made.model.config.text_config.vocab_size)).log()
    assert (values - uniform).abs().max() < 0.6


def test_it_learns_its_rows_and_says_them() -> None:
    made = start_blip("micro", **SMALL)
    loss, batch = AnswerLoss(made.family.logits), rows(made)
    optimizer = torch.optim.Adam(made.model.parameters(), lr=3e-3)
    for _ in range(30):
        optimizer.zero_grad()
        loss(made.model, batch).mean().backward()
        optimizer.step()
    assert answers(made, pictures(), QUESTIONS) == SAID


def test_its_norms_are_measured() -> None:
    made = start_blip("micro", **SMALL)
    made.model.double()
    loss, batch = AnswerLoss(made.family.logits), rows(made)
    measured = norms.prepare(made.model, loss, batch)
    fast, slow = (
        engine(made.model, loss, batch, measured, lambda norm: (0.1 / norm).clamp(max=1))
        for engine in (norms.clipped_sum, norms.oracle_sum)
    )
    torch.testing.assert_close(fast.norms, slow.norms, rtol=1e-10, atol=0)


def test_transformers_loads_the_export_and_its_processor_makes_the_same_inputs(tmp_path: Path) -> None:
    made = start_blip("micro", **SMALL)
    made.export(tmp_path / "out")
    fresh = hf.BlipForQuestionAnswering.from_pretrained(tmp_path / "out")
    processor = hf.BlipProcessor.from_pretrained(tmp_path / "out")
    picture, question = pictures()[0], QUESTIONS[0]
    row = made.family.encode(picture, question, "red")
    kept = row["attention_mask"].bool()
    inputs = processor(images=torch.from_numpy(picture).movedim(2, 0), text=question, return_tensors="pt")
    assert inputs["input_ids"][0].tolist() == row["input_ids"][kept].tolist()
    torch.testing.assert_close(inputs["pixel_values"][0], row["pixel_values"])
    ids = fresh.generate(**inputs, max_new_tokens=4)[0, 1:].tolist()
    assert made.family.words.text(ids) == answers(made, [picture], [question])[0]
    again = load_vlm(tmp_path / "out", max_question=10, max_answer=4)
    batch = rows(made)
    with torch.no_grad():
        torch.testing.assert_close(again.family.logits(again.model, batch), made.family.logits(made.model, batch))


def test_a_tokenizer_may_be_given_and_stays_as_it_is() -> None:
    words = Tokenizer.from_public_text(TEXTS)
    before = words.digest
    made = start_blip("micro", **{name: value for name, value in SMALL.items() if name != "texts"}, tokenizer=words)
    assert words.digest == before
    assert made.model.config.text_config.vocab_size == words.vocab_size
    assert made.facts["size"] == "micro"


@pytest.mark.parametrize(
    ("settings", "named"), [({"image_size": 20}, "multiple of the patch"), ({"texts": []}, "public text")]
)
def test_settings_that_cannot_be_are_named(settings: dict, named: str) -> None:
    with pytest.raises(BadInput, match=named):
        start_blip("micro", **SMALL | settings)
    with pytest.raises(BadInput, match=", ".join(BLIP_SIZES)):
        start_blip("huge", **SMALL)
