"""Every family reads, masks, shifts and asks as its own transformers class does; its rows are strangers."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.models.vlms import ANSWERS, FOLDERS, QUESTIONS, SIDE, answers, as_batch, batch_of, pictures, started

from sfumato.base import UndecodableRow
from sfumato.evaluate import answerer
from sfumato.losses import AnswerLoss
from sfumato.models import StartedVlm, load_vlm
from sfumato.models.families.pictures import as_rgb, place

KINDS = tuple(FOLDERS)
BOTH = tuple(kind for kind in KINDS if kind != "coca")
IN_SEQUENCE = ("llava", "paligemma", "qwen2_vl", "idefics3", "smolvlm")


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("vlms")


def begin(kind: str, folders: Path, **settings: Any) -> StartedVlm:
    torch.manual_seed(0)
    (folders / kind).mkdir(exist_ok=True)
    return started(kind, folders / kind, **settings)


def losses(made: StartedVlm, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    return AnswerLoss(made.family.logits)(made.model, batch)


# ---------------------------------------------------------------- the model's own loss


def own_loss(kind: str, made: StartedVlm, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """The scalar of the model's own forward pass, from inputs made as its documentation says."""
    model: Any = made.model
    if kind == "blip":
        return own_answers(made, batch)
    if kind == "blip2_t5":
        return model(**with_placeholders(kind, made, batch), labels=batch["labels"]).loss
    whole = batch["labels"]
    gap = batch["input_ids"].shape[1] - whole.shape[1]
    whole = torch.cat([torch.full((len(whole), gap), -100), whole], 1)
    if kind == "coca":
        out = model(batch["pixel_values"], batch["input_ids"])
        wanted = whole[:, 1:]
        return torch.nn.functional.cross_entropy(out["logits"].transpose(1, 2), wanted, ignore_index=-100)
    kept = with_placeholders(kind, made, batch)
    if kind == "blip_caption":
        out = model.text_decoder(
            input_ids=kept["input_ids"], attention_mask=kept["attention_mask"], labels=whole,
            encoder_hidden_states=model.vision_model(kept["pixel_values"])[0],
        )  # fmt: skip
        return out.loss
    return model(**kept, labels=whole, use_cache=False).loss


def own_answers(made: StartedVlm, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """BLIP's own loss of each row without padding, weighted by tokens: its answers see the padding of a batch."""
    total, count = torch.zeros((), dtype=torch.float64), 0
    for row in range(len(batch["labels"])):
        kept, said = batch["attention_mask"][row].bool(), batch["labels"][row]
        said = torch.cat([torch.tensor([made.family.start_id]), said[said != -100]])[None]  # shifted by the model
        ids, pixels = batch["input_ids"][row][kept][None], batch["pixel_values"][row][None]
        model: Any = made.model
        out = model(input_ids=ids, pixel_values=pixels, attention_mask=torch.ones_like(ids), labels=said)
        total, count = total + out.loss * (said.shape[1] - 1), count + said.shape[1] - 1
    return total / count


def with_placeholders(kind: str, made: StartedVlm, batch: dict[str, torch.Tensor]) -> dict[str, Any]:
    kept: dict[str, Any] = {name: value for name, value in batch.items() if name not in ("labels", "image_slots")}
    if "image_slots" in batch:
        token = made.model.config.image_token_id
        kept["input_ids"] = batch["input_ids"].masked_fill(batch["image_slots"].bool(), token)
    if kind == "qwen2_vl":
        del kept["position_ids"]
        count, patches = kept["pixel_values"].shape[:2]
        side = int(patches**0.5)
        kept["pixel_values"] = kept["pixel_values"].flatten(0, 1)
        kept["image_grid_thw"] = torch.tensor([[1, side, side]] * count)
        kept["mm_token_type_ids"] = batch["image_slots"].int()
    if kind in ("idefics3", "smolvlm"):
        kept["pixel_values"] = kept["pixel_values"][:, None]
    return kept


@pytest.mark.parametrize("kind", KINDS)
def test_losses_weighted_by_tokens_are_the_models_own_loss(kind: str, folders: Path) -> None:
    made = begin(kind, folders, padding_side="right")
    batch = batch_of(made)
    weights = (batch["labels"] != -100).sum(1)
    assert weights.tolist() == made_lengths(made)
    mine = losses(made, batch)
    want = own_loss(kind, made, batch)
    torch.testing.assert_close((mine * weights).sum() / weights.sum(), want, rtol=1e-6, atol=0, check_dtype=False)


def made_lengths(made: StartedVlm) -> list[int]:
    return [len(made.family.words.answer(answer, 4)) for answer in ANSWERS]


@pytest.mark.parametrize("kind", KINDS)
def test_only_the_answer_and_its_end_are_labels(kind: str, folders: Path) -> None:
    made = begin(kind, folders)
    words = made.family.words
    for picture, question, answer in zip(pictures(), QUESTIONS, ANSWERS, strict=True):
        row = made.family.encode(picture, question, answer)
        said = row["labels"][row["labels"] != -100].tolist()
        assert said[-1] == words.end_id
        assert words.text(said) == answer or len(said) == 4
        assert len(said) <= 4


@pytest.mark.parametrize("kind", KINDS)
def test_every_row_has_the_same_public_shapes(kind: str, folders: Path) -> None:
    made = begin(kind, folders)
    long = made.family.encode(np.zeros((9, 70, 1), np.uint8), "what is " * 60, "red blue " * 30)
    short = made.family.encode(np.full((50, 11, 3), 9, np.uint8), "", "")
    assert {name: (value.shape, value.dtype) for name, value in long.items()} == {
        name: (value.shape, value.dtype) for name, value in short.items()
    }
    assert int((long["labels"] != -100).sum()) == 4
    assert int(long["attention_mask"].sum()) > int(short["attention_mask"].sum())
    asked = made.family.ask(pictures()[0], "")
    assert set(asked) == set(short) - {"labels"}


@pytest.mark.parametrize("kind", BOTH)
def test_the_side_of_the_padding_does_not_matter(kind: str, folders: Path) -> None:
    left, right = (begin(kind, folders, padding_side=side) for side in ("left", "right"))
    right.model.load_state_dict(left.model.state_dict())
    one, other = batch_of(left), batch_of(right)
    assert not torch.equal(one["attention_mask"], other["attention_mask"])
    torch.testing.assert_close(losses(left, one), losses(right, other), rtol=1e-6, atol=1e-7)


def test_paligemma_reads_a_row_as_its_processor_writes_it(folders: Path) -> None:
    made = begin("paligemma", folders)
    picture, question = pictures()[0], QUESTIONS[1]
    row = made.family.encode(picture, question, "red")
    want = made.family.setup.processor(
        images=[as_rgb(picture)], text=[f"<image>answer en {question}"], suffix=["red"], return_tensors="np"
    )
    kept = row["attention_mask"].bool()
    ids = row["input_ids"].masked_fill(row["image_slots"].bool(), made.family.placeholder_id)
    assert ids[kept].tolist() == want["input_ids"][0].tolist()
    assert row["token_type_ids"][kept].tolist() == want["token_type_ids"][0].tolist()


# ---------------------------------------------------------------- rows are strangers


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_has_no_gradient_at_other_rows_and_does_not_move_them(kind: str, folders: Path) -> None:
    made = begin(kind, folders)
    batch = batch_of(made, 3)
    pixels = batch["pixel_values"].requires_grad_()
    values = losses(made, batch)
    for row in range(3):
        (grad,) = torch.autograd.grad(values[row], pixels, retain_graph=True)
        assert grad[row].abs().max() > 0
        assert all(bool((grad[other] == 0).all()) for other in range(3) if other != row)
    changed = made.family.encode(pictures(seed=7)[3], "is there no circle above a red square ?", "no")
    moved = losses(made, as_batch(made, [changed, *({n: v[i] for n, v in batch.items()} for i in (1, 2))]))
    torch.testing.assert_close(moved[1:], values[1:], rtol=0, atol=1e-6)
    assert abs(moved[0] - values[0]).item() > 1e-6


@pytest.mark.parametrize("kind", ["idefics3", "smolvlm"])
def test_a_picture_that_is_zero_after_normalisation_leaves_the_others_alone(kind: str, folders: Path) -> None:
    made = begin(kind, folders)
    batch = batch_of(made, 3)
    before = losses(made, batch)
    after = losses(made, batch | {"pixel_values": batch["pixel_values"].index_fill(0, torch.tensor([0]), 0.0)})
    torch.testing.assert_close(after[1:], before[1:], rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", IN_SEQUENCE)
def test_a_question_with_the_placeholder_is_not_fed_and_not_told(kind: str, folders: Path) -> None:
    made = begin(kind, folders)
    mark = made.family.reader.placeholder
    with pytest.raises(UndecodableRow) as found:
        made.family.encode(pictures()[0], f"secret {mark} ?", "red")
    assert "secret" not in str(found.value)
    with pytest.raises(UndecodableRow):
        made.family.ask(pictures()[0], mark)


def test_a_row_with_too_many_places_takes_none_of_the_next_rows_picture() -> None:
    words, features = torch.zeros(2, 4, 1), torch.tensor([[[1.0], [2.0]], [[3.0], [4.0]]])
    slots = torch.tensor([[1, 1, 1, 1], [0, 1, 1, 0]])
    assert place(words, features, slots)[..., 0].tolist() == [[1, 2, 2, 2], [0, 3, 4, 0]]


def test_pictures_of_another_kind_are_undecodable() -> None:
    for picture in (np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.float32), np.zeros((4, 4, 2), np.uint8)):
        with pytest.raises(UndecodableRow):
            as_rgb(picture)
    assert as_rgb(np.full((4, 5, 1), 7, np.uint8)).tolist() == [[[7] * 5] * 4] * 3


# ---------------------------------------------------------------- asking


@pytest.mark.parametrize("kind", KINDS)
def test_greedy_answers_are_the_likeliest_tokens_of_the_training_path(kind: str, folders: Path) -> None:
    made = begin(kind, folders)
    said = answers(made, pictures(), QUESTIONS)
    assert len(said) == 4
    assert made.model.training
    words = made.family.words
    for picture, question, answer in zip(pictures(), QUESTIONS, said, strict=True):
        row = made.family.encode(picture, question, "")
        ids: list[int] = []
        for _ in range(4):  # teacher forcing with what was said so far
            row["labels"] = row["labels"].fill_(-100)
            row = forced(made, picture, question, ids)
            with torch.no_grad():
                logits = made.family.logits(made.model, as_batch(made, [row]))[0]
            labels = row["labels"]
            ids.append(int(logits[int((labels != -100).nonzero()[-1])].argmax()))
            if ids[-1] == words.end_id:
                break
        assert words.text(ids) == answer


def forced(made: StartedVlm, picture: np.ndarray, question: str, ids: list[int]) -> dict[str, torch.Tensor]:
    """The row of an answer given as tokens, whose end token's place predicts the next one."""
    object.__setattr__(made.family.words, "answer", lambda *_: [*ids, made.family.words.end_id])
    try:
        return made.family.encode(picture, question, "")
    finally:
        object.__delattr__(made.family.words, "answer")


@pytest.mark.parametrize("kind", ["blip", "llava", "coca"])
def test_candidates_are_scored_by_their_likelihood_per_token(kind: str, folders: Path) -> None:
    made = begin(kind, folders)
    score = answerer(made.model, made.family).score_answers
    assert score is not None
    found = torch.from_numpy(score(pictures()[:2], QUESTIONS[:2], ["red", "two blue", ""]))
    assert found.shape == (2, 3)
    row = made.family.encode(pictures()[1], QUESTIONS[1], "two blue")
    want = -losses(made, as_batch(made, [row]))[0]
    torch.testing.assert_close(found[1, 1], want.detach().double(), rtol=1e-6, atol=0)


def test_an_answer_may_be_empty(folders: Path) -> None:
    made = begin("blip", folders)
    with torch.no_grad():
        made.model.text_decoder.cls.predictions.bias[made.family.words.end_id] = 1e3
    assert answers(made, pictures()[:2], QUESTIONS[:2]) == ["", ""]


# ---------------------------------------------------------------- export


@pytest.mark.parametrize("kind", KINDS)
def test_an_export_loads_without_sfumato_and_gives_the_same_logits(kind: str, folders: Path, tmp_path: Path) -> None:
    made = begin(kind, folders)
    with torch.no_grad():
        for param in made.model.parameters():
            param.add_(0.01)
    made.export(tmp_path / "out")
    if kind == "coca":
        import open_clip

        fresh = open_clip.create_model("local-dir:" + str(tmp_path / "out")).double()
    else:
        import transformers as hf

        model_class = getattr(hf, type(made.model).__name__)
        fresh = model_class.from_pretrained(tmp_path / "out", dtype=torch.float64)
        processor = hf.AutoProcessor.from_pretrained(tmp_path / "out")
        assert processor.tokenizer.get_vocab() == made.family.words.tokenizer.get_vocab()
    batch = batch_of(made)
    want, got = own_loss(kind, made, batch), own_loss(kind, replaced(made, fresh), batch)
    torch.testing.assert_close(got, want, rtol=1e-6, atol=0)
    again = load_vlm(tmp_path / "out", max_question=8, max_answer=4, dtype="float64", image_size=side_of(kind))
    assert not again.model.training
    torch.testing.assert_close(losses(again, batch_of(again)), losses(made, batch), rtol=1e-6, atol=1e-9)


def side_of(kind: str) -> int | None:
    return SIDE if kind == "qwen2_vl" else None


def replaced(made: StartedVlm, model: Any) -> StartedVlm:
    import dataclasses

    return dataclasses.replace(made, model=model.train(made.model.training))
