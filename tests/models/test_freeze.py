"""Which parameters train under all, heads and last-K."""

import pytest
import torch
from tests.models.adapted import CASES
from torch import nn
from torch.utils.checkpoint import checkpoint

from sfumato.base import BadInput
from sfumato.models import Tokenizer, build, export, recompute_activations, start
from sfumato.models.freeze import unreached_by

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


# ---------------------------------------------------------------- what no gradient reaches


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_what_the_graph_reaches_is_what_autograd_reaches(name: str, checkpointing: bool, monkeypatch) -> None:
    case = CASES[name]
    model = case.make()
    model.extra = nn.Linear(2, 2)  # which nothing calls
    if checkpointing:
        recompute_activations(model.train())
    params = dict(model.named_parameters())
    grads = torch.autograd.grad(case.reach(model).sum(), list(params.values()), allow_unused=True)
    wanted = {name for name, grad in zip(params, grads, strict=True) if grad is None}
    assert wanted >= {"extra.weight", "extra.bias"}

    def no_gradient(*_, **__) -> None:
        raise AssertionError("gradients of all weights need as much memory as the weights")

    monkeypatch.setattr(torch.autograd, "grad", no_gradient)
    monkeypatch.setattr(torch.autograd, "backward", no_gradient)
    frozen = model.requires_grad_(False)
    assert unreached_by(frozen, case.reach) == wanted
    assert not any(param.requires_grad for param in frozen.parameters())


def test_what_is_behind_a_custom_function_or_constant() -> None:
    class Twice(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, y):
            return 2 * x + y

        @staticmethod
        def backward(ctx, *grads):
            return 2 * grads[0], grads[0]

    model = nn.ModuleDict({name: nn.Linear(2, 2) for name in ("one", "two", "cut")})
    x = torch.ones(1, 2)
    found = unreached_by(model, lambda m: Twice.apply(m.one(x), m.two(m.cut(x).detach())).sum())
    assert found == {"cut.weight", "cut.bias"}
    assert unreached_by(model, lambda m: x) == {name for name, _ in model.named_parameters()}
    assert "one.weight" not in unreached_by(model, lambda m: m.one.weight)


def test_reentrant_checkpoints_hide_parameters_and_are_refused() -> None:
    model = nn.Linear(2, 2)
    x = torch.ones(1, 2, requires_grad=True)
    with pytest.raises(BadInput, match="use_reentrant=False"):
        unreached_by(model, lambda m: checkpoint(m, x, use_reentrant=True))
