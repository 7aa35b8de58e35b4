"""Nothing of a micro-batch outlives it: the tape and autograd's graph must not keep each other alive."""

import gc
from typing import Any

import pytest
import torch
from tests.norms import (
    cases,
    cases_models,  # noqa: F401  registers its cases
)
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef

from sfumato import norms

CASES = ["captioner", "captioner_with_checkpointing", "convolutions_and_raw_parameters", "blip_vqa", "swin", "clip"]


def watch_results(model: nn.Module, seen: list[StorageWeakRef]) -> list[Any]:
    def note(module: nn.Module, args: Any, out: Any) -> None:
        if isinstance(out, Tensor) and out.requires_grad:
            with torch._C.DisableTorchFunction():  # no call of the model's
                seen.append(StorageWeakRef(out.untyped_storage()))

    return [module.register_forward_hook(note) for module in model.modules()]


@pytest.mark.parametrize("name", CASES)
def test_no_activation_is_held_afterwards(name: str) -> None:
    model, loss_fn, batch = cases.build(name, torch.float32)
    measured = norms.prepare(model, loss_fn, batch, unused="zero")
    seen: list[StorageWeakRef] = []
    hooks = watch_results(model, seen)
    gc.collect()
    gc.disable()  # what waits for the collector fills the memory meanwhile
    try:
        norms.clipped_sum(model, loss_fn, batch, measured, lambda n: (0.5 / n).clamp(max=1))
        held = [ref for ref in seen if not ref.expired()]
    finally:
        gc.enable()
        for hook in hooks:
            hook.remove()
    assert seen
    assert not held
