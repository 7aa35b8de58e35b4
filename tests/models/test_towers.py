"""How towers are called, against what the models themselves say."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tests.models.duals import SIDE, TEXTS, L, batch_of, small, started, words
from torch import Tensor, nn

from sfumato.base import BadInput
from sfumato.models import Tokenizer, Towers, start_dual
from sfumato.models.towers import unit_norm

ONE = {"rtol": 0, "atol": 2e-6}


@pytest.mark.parametrize("kind", ["clip", "siglip", "vit-bert"])
def test_transformers_towers_embed_as_the_models_own_forward(kind: str) -> None:
    """With the attention mask that the tokenizer gives, but for SigLIP, which was trained without one."""
    tokenizer = words()
    model = small(kind, tokenizer).eval()
    ids = tokenizer.encode_texts(TEXTS, L)
    pixels = torch.randn(len(TEXTS), 3, SIDE, SIDE)
    masks = {} if kind == "siglip" else {"attention_mask": (ids != tokenizer.pad_id).long()}
    with torch.no_grad():
        u, v = Towers("transformers", tokenizer.pad_id)(model, {"pixel_values": pixels, "input_ids": ids})
        out = model(pixel_values=pixels, input_ids=ids, **masks)
    torch.testing.assert_close(u, out.image_embeds, **ONE)
    torch.testing.assert_close(v, out.text_embeds, **ONE)
    assert (v[0] - v[1]).norm() > 1e-3
    torch.testing.assert_close(u.norm(dim=1), torch.ones(len(TEXTS)), **ONE)


def test_open_clip_towers_embed_as_open_clip(tmp_path) -> None:
    made = started("open_clip", tmp_path)
    batch = batch_of(made)
    made.model.eval()
    with torch.no_grad():
        u, v = made.embed(made.model, batch)
        image, text, _ = made.model(batch["pixel_values"], batch["input_ids"])
    torch.testing.assert_close(u, image, **ONE)
    torch.testing.assert_close(v, text, **ONE)
    assert (v[0] - v[1]).norm() > 1e-3


@pytest.mark.parametrize("kind", ["clip", "vit-bert", "micro"])
def test_padding_changes_nothing(kind: str, tmp_path) -> None:
    made = started(kind, tmp_path)
    made.model.eval()
    assert made.tokenizer is not None
    assert max(made.tokenizer.count_text_tokens(TEXTS[1:5])) <= 6
    short = made.tokenizer.encode_texts(TEXTS[1:5], 6)
    with torch.no_grad():
        found = made.embed.texts(made.model, short)
        want = made.embed.texts(made.model, made.tokenizer.encode_texts(TEXTS[1:5], L))
    torch.testing.assert_close(found, want, **ONE)


def test_clip_may_pad_with_the_end_token() -> None:
    """OpenAI's tokenizer does: a mask would hide the end of the text, where CLIP is read out."""
    tokenizer = words()
    model = small("clip", tokenizer).eval()
    ids = tokenizer.encode_texts(TEXTS[1:], L)
    ended = torch.where(ids == tokenizer.pad_id, tokenizer.eos_id, ids)
    with torch.no_grad():
        want = Towers("transformers", tokenizer.pad_id).texts(model, ids)
        found = Towers("transformers", tokenizer.eos_id).texts(model, ended)
    torch.testing.assert_close(found, want, **ONE)


class Pair(nn.Module):
    def embed_images(self, pixel_values: Tensor) -> Tensor:
        return pixel_values.flatten(1)

    def embed_texts(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return (input_ids * attention_mask).float()


def test_a_pair_gets_pixels_ids_and_mask_and_is_normalised() -> None:
    ids = torch.tensor([[3, 4, 1], [6, 8, 9]])
    u, v = Towers("pair", 1)(Pair(), {"pixel_values": torch.full((2, 1, 2, 2), 7.0), "input_ids": ids})
    torch.testing.assert_close(u, torch.full((2, 4), 0.5))
    torch.testing.assert_close(v[0], torch.tensor([0.6, 0.8, 0.0]))


def test_the_norm_is_taken_in_full_precision_and_zero_stays_zero() -> None:
    x = torch.tensor([[3.0, 4.0], [0.0, 0.0]], dtype=torch.bfloat16).requires_grad_()
    found = unit_norm(x)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.detach(), torch.tensor([[0.6, 0.8], [0.0, 0.0]]))
    found.sum().backward()
    assert x.grad is not None
    assert torch.isfinite(x.grad).all()
    assert unit_norm(x.detach().double()).dtype == torch.float64


def test_an_unknown_kind_is_named() -> None:
    with pytest.raises(BadInput, match="got 'keras'"):
        Towers("keras", 0)


def test_towers_can_be_compared_and_hashed(tmp_path) -> None:
    """They are part of what identifies a run."""
    assert hash(Towers("transformers", 0)) == hash(Towers("transformers", 0))
    assert Towers("transformers", 0) != Towers("transformers", Tokenizer.of_open_clip().eos_id)


def test_features_are_the_image_towers_output_before_the_projection() -> None:
    made = start_dual(tokenizer=words(), size="micro", image_size=16, channels=1, max_tokens=8, seed=0)
    model: Any = made.model.eval()
    pixels = torch.randn(3, 1, 16, 16)
    features = made.embed.features(model, pixels)
    projected = nn.functional.normalize(model.visual_projection(features), dim=1)
    torch.testing.assert_close(made.embed.images(model, pixels), projected)
    assert features.shape[1] > projected.shape[1]
    pair, stand_in = Towers(kind="pair", pad_id=0), SimpleNamespace(embed_images=lambda pixels: pixels.flatten(1))
    assert torch.equal(pair.features(stand_in, pixels), pair.images(stand_in, pixels))  # type: ignore[arg-type]
