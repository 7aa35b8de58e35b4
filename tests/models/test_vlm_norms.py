"""Norms and clipped sums of every family, everything training, equal the oracle."""

from pathlib import Path

import pytest
import torch
from tests.models.vlms import FOLDERS, batch_of, started
from torch import nn

from sfumato import norms
from sfumato.base import BadInput
from sfumato.losses import AnswerLoss
from sfumato.models import Adapter, StartedVlm
from sfumato.models.adapter_blocks import towers_of

C = 0.5
CASES = [(kind, side) for kind in FOLDERS for side in ("left", "right") if (kind, side) != ("coca", "left")]


@pytest.mark.every(5)
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


@pytest.mark.every(11)
@pytest.mark.parametrize(
    ("kind", "train"), [(kind, train) for kind in FOLDERS if kind != "coca" for train in ("all", "lora")]
)
def test_checkpointed_activations_are_computed_twice_and_give_the_same_sums(
    kind: str, train: str, tmp_path: Path
) -> None:
    sums, calls = [], []
    settings = {"train": train, "adapter": Adapter(rank=2) if train == "lora" else None}
    for checkpointing in (False, True):
        made = started(kind, tmp_path, gradient_checkpointing=checkpointing, **settings)
        loss, batch = AnswerLoss(made.family.logits), batch_of(made)
        measured = norms.prepare(made.model, loss, batch)
        sums.append(norms.clipped_sum(made.model, loss, batch, measured, lambda norm: (C / norm).clamp(max=1)))
        calls.append(calls_of_inner_layers(made, batch))
    assert set(calls[0].values()) == {1}
    assert calls[1] == dict.fromkeys(calls[0], 2)
    torch.testing.assert_close(sums[1].norms, sums[0].norms, rtol=1e-10, atol=0)
    whole = torch.cat([grad.flatten() for grad in sums[0].grads.values()]).norm()
    assert all((sums[1].grads[n] - g).norm() < 1e-10 * whole for n, g in sums[0].grads.items())


def calls_of_inner_layers(made: StartedVlm, batch: dict[str, torch.Tensor]) -> dict[str, int]:
    """How often the first linear layer of each tower is called in a forward and backward pass."""
    calls: dict[str, int] = {}
    hooks = []
    for name, blocks in towers_of(made.model).items():
        layer = next(module for module in blocks[0].modules() if isinstance(module, nn.Linear))
        hooks.append(
            layer.register_forward_pre_hook(lambda *_, name=name: calls.__setitem__(name, calls.get(name, 0) + 1))
        )
    AnswerLoss(made.family.logits)(made.model, batch).sum().backward()
    for hook in hooks:
        hook.remove()
    return calls


def test_coca_has_no_checkpointing(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no gradient checkpointing"):
        started("coca", tmp_path, gradient_checkpointing=True)
