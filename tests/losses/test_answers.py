"""The loss of answers: each row by its own labels, in at least float32."""

import pytest
import torch
from torch import Tensor, nn

from sfumato.base import Refused
from sfumato.losses import AnswerLoss, likelihood

LOGITS = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
LABELS = torch.tensor([[1, 2, -100, -100], [-100, 3, 0, 4], [-100] * 4])


def loss_of(logits: Tensor) -> Tensor:
    return AnswerLoss(lambda model, batch: logits)(nn.Identity(), {"labels": LABELS})


def test_each_row_is_the_mean_over_its_own_labels() -> None:
    log_probs = LOGITS.log_softmax(-1)
    want = [-(log_probs[0, 0, 1] + log_probs[0, 1, 2]) / 2]
    want += [-(log_probs[1, 1, 3] + log_probs[1, 2, 0] + log_probs[1, 3, 4]) / 3]
    found = loss_of(LOGITS)
    torch.testing.assert_close(found[:2], torch.stack(want), rtol=1e-14, atol=0)
    assert found[2] == 0
    torch.testing.assert_close(likelihood(LOGITS, LABELS).num_tokens, torch.tensor([2, 3, 0]))


def test_weighted_by_tokens_it_is_the_mean_that_transformers_takes() -> None:
    counts = (LABELS != -100).sum(1)
    want = nn.functional.cross_entropy(LOGITS.flatten(0, 1), LABELS.flatten())
    torch.testing.assert_close((loss_of(LOGITS) * counts).sum() / counts.sum(), want, rtol=1e-14, atol=0)


def test_positions_without_a_label_get_no_gradient() -> None:
    logits = LOGITS.clone().requires_grad_()
    AnswerLoss(lambda model, batch: logits)(nn.Identity(), {"labels": LABELS}).sum().backward()
    assert logits.grad is not None
    assert bool((logits.grad[LABELS == -100] == 0).all())
    assert bool((logits.grad[LABELS != -100] != 0).any(-1).all())


def test_half_precision_is_summed_in_float32_and_float64_stays() -> None:
    assert loss_of(LOGITS.bfloat16()).dtype == torch.float32
    assert loss_of(LOGITS).dtype == torch.float64


@pytest.mark.parametrize("shape", [(3, 3, 5), (3, 4), (2, 4, 5)])
def test_logits_that_predict_other_labels_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(Refused, match="do not predict labels"):
        loss_of(torch.zeros(shape))
