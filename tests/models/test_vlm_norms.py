"""Norms and clipped sums of every family, everything training, equal the oracle."""

from pathlib import Path

import pytest
import torch
from tests.models.vlms import FOLDERS, batch_of, started

from sfumato import norms
from sfumato.losses import AnswerLoss

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
C = 0.5
CASES = [(kind, side) for kind in FOLDERS for side in ("left", "right") if (kind, side) != ("coca", "left")]


@pytest.mark.parametrize(("kind", "side"), CASES)
def test_norms_and_clipped_sums_equal_the_oracle(kind: str, side: str, tmp_path: Path, monkeypatch) -> None:
    if kind == "paligemma":  # Gemma's norm casts its weight to float32, which no book-keeping can be exact through
        monkeypatch.setattr(torch.Tensor, "float", lambda tensor: tensor.to(torch.float64))
    made = started(kind, tmp_path, padding_side=side)
    loss, batch = AnswerLoss(made.family.logits), batch_of(made)
    measured = norms.prepare(made.model, loss, batch)
    assert set(measured.names) == set(made.training.trainable)
    fast, slow = (
        engine(made.model, loss, batch, measured, lambda norm: (C / norm).clamp(max=1))
        for engine in (norms.clipped_sum, norms.oracle_sum)
    )
    assert ((fast.norms - slow.norms).abs() / slow.norms).max() < 1e-10
    whole = torch.cat([grad.flatten() for grad in slow.grads.values()]).norm()
    apart = torch.cat([(fast.grads[name] - slow.grads[name]).flatten() for name in slow.grads]).norm()
    assert apart < 1e-10 * whole
    assert (slow.factors < 1).all()


@pytest.mark.parametrize("kind", ["blip", "llava"])
def test_checkpointed_activations_give_the_same_sums(kind: str, tmp_path: Path) -> None:
    sums = []
    for checkpointing in (False, True):
        made = started(kind, tmp_path, gradient_checkpointing=checkpointing)
        loss, batch = AnswerLoss(made.family.logits), batch_of(made)
        measured = norms.prepare(made.model, loss, batch)
        sums.append(norms.clipped_sum(made.model, loss, batch, measured, lambda norm: (C / norm).clamp(max=1)))
    torch.testing.assert_close(sums[1].norms, sums[0].norms, rtol=1e-10, atol=0)
    whole = torch.cat([grad.flatten() for grad in sums[0].grads.values()]).norm()
    assert all((sums[1].grads[n] - g).norm() < 1e-10 * whole for n, g in sums[0].grads.items())
