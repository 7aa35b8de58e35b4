"""No row that a person brings can end a run, and what a start says of itself is so."""

import json

import numpy as np
import pytest
import torch
import transformers as hf
from tests.models.vlms import SIDE

from sfumato.base import BadInput, UndecodableRow
from sfumato.models import load_vlm, start_vlm
from sfumato.models.families.prompts import ASPECT


@pytest.mark.parametrize("kind", ["blip", "git", "llava"])
def test_words_that_the_model_does_not_have_are_refused(copied, kind: str) -> None:
    folder = copied(kind)
    processor = hf.AutoProcessor.from_pretrained(folder)
    rows = len(processor.tokenizer)
    processor.tokenizer.add_tokens(["zebra"])
    processor.save_pretrained(folder)
    with pytest.raises(BadInput, match=f"words up to {rows}, the model's input embedding has {rows} rows"):
        start_vlm(folder, max_question=8, max_answer=4)


def test_blip2_counts_its_positions(copied) -> None:
    folder = copied("blip2_opt")
    with pytest.raises(BadInput, match=r"need \d+ text positions, the model has 64"):
        start_vlm(folder, max_question=70, max_answer=4)
    framing = start_vlm(folder, max_question=8, max_answer=4).facts["prompt_length"] - 8
    longest = 64 - framing - 4
    made = start_vlm(folder, max_question=longest, max_answer=4)
    row = made.family.encode(np.zeros((20, 24, 3), np.uint8), "zqxj " * 60, "zqxj")
    assert made.family.logits(made.model, {name: value[None] for name, value in row.items()}).isfinite().all()
    with pytest.raises(BadInput, match="need 65 text positions"):
        start_vlm(folder, max_question=longest + 1, max_answer=4)


@pytest.mark.parametrize("kind", ["git", "llava", "coca"])
def test_a_thin_picture_is_not_scaled_up(copied, kind: str, monkeypatch) -> None:
    made = start_vlm(copied(kind), max_question=8, max_answer=4)
    for shape in ((1, ASPECT, 3), (ASPECT, 1, 3)):
        made.family.encode(np.zeros(shape, np.uint8), "red ?", "red")
    processor, asked = made.family.setup.processor.image_processor, []
    own = type(processor).__call__
    monkeypatch.setattr(type(processor), "__call__", lambda self, *a, **k: asked.append(1) or own(self, *a, **k))
    for shape in ((1, ASPECT + 1, 3), (4 * ASPECT + 1, 4, 3)):
        with pytest.raises(UndecodableRow):
            made.family.encode(np.zeros(shape, np.uint8), "red ?", "red")
    assert not asked
    made.family.encode(np.zeros((1, ASPECT, 3), np.uint8), "red ?", "red")
    assert asked


def test_a_thin_picture_is_fine_where_it_is_squeezed(copied) -> None:
    made = start_vlm(copied("blip"), max_question=8, max_answer=4)
    assert made.family.encode(np.zeros((1, 8000, 3), np.uint8), "red ?", "red")["pixel_values"].shape[1:] == (
        SIDE,
        SIDE,
    )


def test_half_a_surrogate_pair_is_not_fed_and_not_told(copied) -> None:
    made = start_vlm(copied("llava"), max_question=8, max_answer=4)
    for question, answer in (("red \ud83d", "red"), ("red ?", "red \ud83d")):
        with pytest.raises(UndecodableRow):
            made.family.encode(np.zeros((20, 24, 3), np.uint8), question, answer)


# ---------------------------------------------------------------- what is told of a start


def test_another_end_token_is_another_digest(copied) -> None:
    llava = copied("llava")
    one = start_vlm(llava, max_question=8, max_answer=4)
    file = llava / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"eos_token": "<pad>"}))
    other = start_vlm(llava, max_question=8, max_answer=4)
    assert one.family.words.end_id != other.family.words.end_id
    assert one.digest != other.digest


def test_patch_dropout_of_a_coca_is_off(copied) -> None:
    coca = copied("coca")
    content = json.loads((coca / "open_clip_config.json").read_text())
    content["model_cfg"]["vision_cfg"]["patch_dropout"] = 0.5
    (coca / "open_clip_config.json").write_text(json.dumps(content))
    made = start_vlm(coca, max_question=8, max_answer=4)
    row = made.family.encode(np.full((20, 24, 3), 9, np.uint8), "red ?", "red")
    batch = {name: value[None] for name, value in row.items()}
    with torch.no_grad():
        assert made.model.training
        assert torch.equal(made.family.logits(made.model, batch), made.family.logits(made.model, batch))


def test_a_run_of_coca_is_a_start(copied, tmp_path) -> None:
    run = tmp_path / "run"
    start_vlm(copied("coca"), max_question=8, max_answer=4).export(run / "export")
    (run / "run.json").write_text("{}")
    assert start_vlm(run, max_question=8, max_answer=4).notes[0] == f"CoCa of {run / 'export'}"


def test_reading_back_chooses_nothing(copied, monkeypatch) -> None:
    def choose(*_, **__) -> None:
        raise AssertionError("evaluation and prediction train nothing")

    monkeypatch.setattr("sfumato.models.vlm.choose_parameters", choose)
    loaded = load_vlm(copied("llava"), max_question=8, max_answer=4)
    names = tuple(name for name, _ in loaded.model.named_parameters())
    assert (loaded.training.trainable, loaded.training.frozen) == ((), names)
    assert not loaded.model.training
    assert not any(param.requires_grad for param in loaded.model.parameters())
