"""Which parameters train under all, heads and last-K."""

import pytest

from sfumato.base import BadInput
from sfumato.models import Tokenizer, build, export, start

PREPROCESS = {"image_size": 32, "mean": [0.5], "std": [0.5], "channels": 3}
HEADS = {
    "decoder.lm_head.weight",
    "decoder.model.decoder.layer_norm.weight",
    "decoder.model.decoder.layer_norm.bias",
    "decoder.model.decoder.layernorm_embedding.weight",  # registered after the blocks
    "decoder.model.decoder.layernorm_embedding.bias",
}
PROJECTION = {"enc_to_dec_proj.weight", "enc_to_dec_proj.bias"}  # where the towers have different widths


def trainable(words: Tokenizer, **fields) -> set[str]:
    return set(start(tokenizer=words, image_size=32, max_tokens=8, seed=1, **fields).training.trainable)


def test_heads(words) -> None:
    assert trainable(words, size="micro", train="heads") == HEADS | PROJECTION
    assert trainable(words, size="nano", train="heads") == HEADS


def test_last_blocks_of_both_towers(words) -> None:
    names = trainable(words, size="nano", train="last-1")
    assert names >= HEADS
    rest = names - HEADS
    blocks = ("decoder.model.decoder.layers.5.", "encoder.layers.11.", "encoder.layernorm.")
    assert all(name.startswith(blocks) for name in rest)
    assert all(any(name.startswith(block) for name in rest) for block in blocks)
    assert not any(name.endswith("q_proj.bias") for name in names)  # absent biases stay absent
    stem = trainable(words, size="micro", train="last-1") - HEADS - PROJECTION
    assert all(
        n.startswith(("decoder.model.decoder.layers.0.", "encoder.stages.2.", "encoder.layernorm.")) for n in stem
    )


def test_more_blocks_train_more_and_too_many_are_refused(words) -> None:
    assert trainable(words, size="nano", train="last-1") < trainable(words, size="nano", train="last-2")
    micro = trainable(words, size="micro", train="last-2")  # its decoder has one block, its encoder three
    assert any(name.startswith("encoder.stages.1.") for name in micro)
    assert not any(name.startswith("encoder.stages.0.") for name in micro)
    with pytest.raises(BadInput, match="only 3 blocks"):
        trainable(words, size="micro", train="last-4")


def test_with_an_encoder_checkpoint_the_new_decoder_always_trains(words, vit_folder) -> None:
    heads = trainable(words, size="micro", train="heads", init=vit_folder)
    assert not any(name.startswith("encoder.") for name in heads)
    assert "decoder.model.decoder.embed_tokens.weight" in heads
    assert "enc_to_dec_proj.weight" in heads
    last = trainable(words, size="micro", train="last-1", init=vit_folder)
    extra = last - heads
    assert all(name.startswith(("encoder.layers.1.", "encoder.layernorm.")) for name in extra)
    assert extra


def test_new_tokens_train_their_embedding(words, tmp_path) -> None:
    model = build("micro", vocab_size=words.vocab_size, image_size=32, max_tokens=8, seed=1)
    export(model, words, PREPROCESS, tmp_path)
    assert trainable(words, train="heads", init=tmp_path) == HEADS | PROJECTION
    other = Tokenizer.from_public_text(["a red sneaker"])
    assert trainable(other, train="heads", init=tmp_path) == {
        *HEADS,
        *PROJECTION,
        "decoder.model.decoder.embed_tokens.weight",
    }


@pytest.mark.parametrize("train", ["none", "last-0", "last-", "last-x", "ALL"])
def test_other_words_are_refused(words, train: str) -> None:
    with pytest.raises(BadInput, match="all, heads or last-K"):
        trainable(words, size="micro", train=train)
