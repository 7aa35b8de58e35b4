"""What tests certify once holds where it is asked for, and for models that are equal."""

import threading

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sfumato.mechanisms import Computation
from tests import once
from tests.once import certified_once


def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1], reduction="none")


def key(model: nn.Module) -> tuple:
    batch = torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64)
    return once._key(Computation(model=model, loss_fn=loss), batch, 0, any_weights=True)


def build(dropout: float = 0.1) -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), nn.Dropout(dropout), nn.Linear(4, 2))


def test_scopes_of_threads_that_overlap_leave_nothing() -> None:
    first, second, done = threading.Event(), threading.Event(), threading.Event()
    seen = []

    def begins_first() -> None:
        with certified_once("one"):
            first.set()
            second.wait(20)
        done.set()

    def ends_last() -> None:
        first.wait(20)
        with certified_once("two"):
            second.set()
            done.wait(20)
        seen.append(once._scope.get())

    threads = [threading.Thread(target=work) for work in (begins_first, ends_last)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [None]
    assert once._scope.get() is None or once._scope.get()[0] not in ("one", "two")  # type: ignore[index]


def test_models_that_differ_in_what_is_certified_are_told_apart() -> None:
    usual, again, dropped, frozen, hooked, still = (build(), build(), build(0.2), build(), build(), build().eval())
    frozen[0].requires_grad_(False)
    hooked[0].register_forward_hook(lambda module, given, out: 2 * out)
    set_otherwise = build()
    set_otherwise[0].reads = True
    keys = [key(model) for model in (usual, dropped, frozen, hooked, still, set_otherwise)]
    assert key(again) == keys[0]
    assert len(set(keys)) == len(keys)
