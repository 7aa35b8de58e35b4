"""Memory that is lent again: the results are new tensors, and equal to those of fresh memory."""

import copy
import pickle

import torch
from torch import nn

from sfumato import mechanisms, norms
from sfumato.norms.scratch import Scratch


def test_what_was_lent_is_lent_again() -> None:
    scratch, like = Scratch(), torch.zeros(1)
    with scratch.lending():
        first, second = scratch.empty((2, 3), like), scratch.empty((2, 3), like)
        assert first.data_ptr() != second.data_ptr()
        addresses = {first.data_ptr(), second.data_ptr()}
    with scratch.lending():
        assert scratch.empty((2, 3), like).data_ptr() in addresses
        assert scratch.empty((2, 3), like.double()).dtype == torch.float64
    assert scratch.empty((2, 3), like).data_ptr() not in addresses, "outside nothing is lent"


def test_results_of_one_micro_batch_survive_the_next() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 16))
    batches = [torch.randn(4, 64, 16) for _ in range(2)]  # many positions: gradients are written out

    def loss_fn(model, batch):
        return model(batch).square().sum((1, 2))

    measured = norms.prepare(model, loss_fn, batches[0])
    factor = mechanisms.flat(0.5)
    first = norms.clipped_sum(model, loss_fn, batches[0], measured, factor)
    assert any(measured.scratch._free.values()), "nothing was lent: the case is no case"
    before = {name: grad.clone() for name, grad in first.grads.items()}
    second = norms.clipped_sum(model, loss_fn, batches[1], measured, factor)
    assert all(torch.equal(before[name], grad) for name, grad in first.grads.items())
    alone = norms.clipped_sum(model, loss_fn, batches[1], copy.deepcopy(measured), factor)
    assert all(torch.equal(alone.grads[name], grad) for name, grad in second.grads.items())


def test_copies_hold_no_memory() -> None:
    scratch = Scratch()
    with scratch.lending():
        scratch.empty((2, 3), torch.zeros(1))
    for other in (copy.deepcopy(scratch), pickle.loads(pickle.dumps(scratch))):
        assert not other._free
