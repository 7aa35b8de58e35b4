"""One loss per example, and how it adds up."""

import pytest
import torch

from sfumato.losses import caption_log_likelihood, caption_loss, encode_images
from sfumato.losses.caption import decoder_inputs
from sfumato.models import build

V, L = 40, 8


@pytest.fixture(scope="module")
def model():
    return build("micro", vocab_size=V, image_size=28, max_tokens=L, channels=1, seed=3).double()


def batch(lengths: list[int]) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(4)
    labels = torch.randint(5, V, (len(lengths), L), generator=generator)
    for row, length in enumerate(lengths):
        labels[row, length:] = -100
    pixels = torch.randn(len(lengths), 1, 28, 28, generator=generator, dtype=torch.float64)
    return {"pixel_values": pixels, "labels": labels}


def test_one_value_per_example_adds_up_to_the_batch_loss(model) -> None:
    """Equal lengths: the mean of the losses is the scalar loss that transformers computes, and so are its gradients."""
    data = batch([6, 6, 6, 6])
    losses = caption_loss(model, data)
    scalar = model(**data).loss
    assert losses.shape == (4,)
    torch.testing.assert_close(losses.mean(), scalar, rtol=1e-12, atol=0)
    params = [param for param in model.parameters() if param.requires_grad]
    whole = torch.autograd.grad(scalar, params)
    parts = [torch.autograd.grad(loss / 4, params, retain_graph=True) for loss in losses.unbind()]
    for index, grad in enumerate(whole):
        torch.testing.assert_close(sum(part[index] for part in parts), grad, rtol=1e-9, atol=1e-12)


def test_unequal_lengths_weigh_by_their_tokens_only_in_the_batch_loss(model) -> None:
    lengths = [2, 8, 5]
    data = batch(lengths)
    losses, weights = caption_loss(model, data), torch.tensor(lengths, dtype=torch.float64)
    torch.testing.assert_close((losses * weights).sum() / weights.sum(), model(**data).loss, rtol=1e-12, atol=0)
    assert (losses.mean() - model(**data).loss).abs() > 1e-4  # no batch-wide token mean


def test_a_row_is_its_own_mean_over_its_own_tokens(model) -> None:
    data = batch([3, 8])
    logits = model(pixel_values=data["pixel_values"], labels=data["labels"]).logits.log_softmax(-1)
    by_hand = -sum(logits[0, t, data["labels"][0, t]] for t in range(3)) / 3
    torch.testing.assert_close(caption_loss(model, data)[0], by_hand)


def test_padding_does_not_move_a_row(model) -> None:
    data = batch([3, 8])
    short = {"pixel_values": data["pixel_values"][:1], "labels": data["labels"][:1, :3]}
    torch.testing.assert_close(caption_loss(model, data)[:1], caption_loss(model, short), rtol=1e-12, atol=0)


def test_a_row_without_tokens_is_zero_and_gives_no_gradient(model) -> None:
    data = batch([0, 4])
    data["pixel_values"].requires_grad_()
    losses = caption_loss(model, data)
    assert losses[0] == 0
    losses.sum().backward()
    assert not data["pixel_values"].grad[0].any()
    assert data["pixel_values"].grad[1].any()
    model.zero_grad()


def test_loss_is_float32_under_autocast() -> None:
    small = build("micro", vocab_size=V, image_size=28, max_tokens=L, channels=1, seed=3)
    data = batch([6, 3])
    data["pixel_values"] = data["pixel_values"].float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert small(**data).logits.dtype == torch.bfloat16
        losses = caption_loss(small, data)
    assert losses.dtype == torch.float32
    torch.testing.assert_close(losses, caption_loss(small, data), rtol=0.02, atol=0.02)


def test_loss_is_float32_for_a_half_precision_model() -> None:
    """The same bfloat16 logits give, in float32, a loss that bfloat16 itself could not hold."""
    half = build("micro", vocab_size=V, image_size=28, max_tokens=L, channels=1, seed=3).bfloat16()
    data = batch([6, 3])
    data["pixel_values"] = data["pixel_values"].bfloat16()
    losses = caption_loss(half, data)
    assert losses.dtype == torch.float32
    assert not torch.equal(losses, losses.bfloat16().float())


def test_decoder_inputs_are_those_of_transformers(model) -> None:
    labels = batch([3, 8])["labels"]
    expected = model.prepare_decoder_input_ids_from_labels(labels)
    assert torch.equal(decoder_inputs(labels, start_id=2, pad_id=0), expected)
    assert labels[0, 3] == -100  # the labels themselves are left alone


def test_log_likelihood_with_the_encoder_run_once(model) -> None:
    data = batch([3, 8])
    full = caption_log_likelihood(model, data["labels"], pixel_values=data["pixel_values"])
    image = encode_images(model, data["pixel_values"])
    shared = caption_log_likelihood(model, data["labels"], image_tokens=image)
    assert full.num_tokens.tolist() == [3, 8]
    torch.testing.assert_close(full.total, shared.total, rtol=1e-12, atol=0)
    torch.testing.assert_close(full.per_token, -caption_loss(model, data))
    torch.testing.assert_close(full.total, full.per_token * full.num_tokens)
