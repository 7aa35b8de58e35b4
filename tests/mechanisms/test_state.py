"""What a row may leave behind: nothing in the model, and nothing in what torch keeps for all models."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import sfumato as sf
from sfumato.mechanisms import Computation, MeasureOnce, MicroBatch, Ranks, clip_batch, clip_factor

MARK = 12345.0
ROWS = torch.linspace(-1, 1, 30).view(6, 5)


class Marked(nn.Module):
    """Does something where a row says so."""

    def __init__(self, act: Callable[[Any, Tensor], Any]) -> None:
        super().__init__()
        self.hidden, self.out = nn.Linear(5, 3), nn.Linear(3, 1)
        self.frozen = nn.Parameter(torch.ones(3), requires_grad=False)
        self.register_buffer("seen", torch.ones(3))
        self._act = act

    def forward(self, x: Tensor) -> Tensor:
        behind = self._act(self, x.max()) if bool((x == MARK).any()) else None
        out = self.out(self.hidden(x).tanh() * self.seen * self.frozen)[:, 0]
        if behind is not None:
            out.register_hook(behind)
        return out


def clipped(model: nn.Module, rows: Tensor, valid: Tensor | None = None) -> tuple[Tensor, Any]:
    computation = Computation(model=model, loss_fn=lambda model, rows: model(rows))
    unit = sf.Example(clip_norm=1.0)
    measure = MeasureOnce(computation)
    plain = MicroBatch(batch=ROWS, valid=torch.ones(6, dtype=torch.bool))
    measure.before(1, plain)
    found, tally = clip_batch(
        computation, [MicroBatch(batch=rows, valid=plain.valid if valid is None else valid)], unit, clip_factor(unit),
        measure=measure, reduce=lambda flat: None, reseed=lambda chunk: None, ranks=Ranks(), batch_size=6.0,
    )  # fmt: skip
    return torch.cat([part.flatten() for part in found.sums.values()]), tally


def write_inplace(tensor: Tensor, value: Tensor) -> None:
    F.threshold(tensor.data, 1e9, float(value), inplace=True)


def write_without_data(tensor: Tensor, value: Tensor) -> None:
    with torch.no_grad():
        F.hardtanh(tensor, float(value), float(value) + 1, inplace=True)


def write_statistics(tensor: Tensor, value: Tensor) -> None:
    F.instance_norm(value.expand(1, 3, 4), tensor.data, torch.ones(3), momentum=1.0)


def write_torch_statistics(tensor: Tensor, value: Tensor) -> None:
    torch.instance_norm(value.expand(1, 3, 4), None, None, tensor.data, torch.ones(3), True, 1.0, 1e-5, False)


def exchange(tensor: Tensor, value: Tensor) -> None:
    other = nn.Parameter(torch.full_like(tensor, float(value)), requires_grad=tensor.requires_grad)
    torch.utils.swap_tensors(tensor, other)


def exchange_memory(tensor: Tensor, value: Tensor) -> None:
    with torch._C.DisableTorchFunction():
        tensor.data = torch.full_like(tensor.data, float(value))


WRITES = [write_inplace, write_without_data, write_statistics, write_torch_statistics, exchange, exchange_memory]
TENSORS: dict[str, Callable[[Any], Tensor]] = {
    "trained": lambda model: model.hidden.bias,
    "frozen": lambda model: model.frozen,
    "buffer": lambda model: model.seen,
}


@pytest.mark.parametrize("name", TENSORS)
@pytest.mark.parametrize("write", WRITES, ids=lambda write: write.__name__)
def test_a_value_that_is_written_into_the_model_stays_nowhere(write: Any, name: str) -> None:
    torch.manual_seed(0)
    model = Marked(lambda model, value: write(TENSORS[name](model), value))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    others = torch.arange(6) != 2
    marked = ROWS.clone()
    marked[2, 0] = MARK
    want, _ = clipped(model, ROWS, others)
    found, tally = clipped(model, marked)
    assert tally.num_failed == 1
    assert torch.allclose(found, want, atol=1e-6)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def hook_all(model: Any, value: Tensor) -> None:
    nn.modules.module.register_module_forward_hook(lambda module, args, out: out.roll(1, -1))


def other_dtype(model: Any, value: Tensor) -> None:
    torch.set_default_dtype(torch.float64)


def deterministic(model: Any, value: Tensor) -> None:
    torch.use_deterministic_algorithms(True)


@pytest.mark.parametrize("act", [hook_all, other_dtype, deterministic], ids=lambda act: act.__name__)
def test_what_torch_keeps_for_all_models_is_put_back(act: Any) -> None:
    torch.manual_seed(0)
    model = Marked(act)
    marked = ROWS.clone()
    marked[2, 0] = MARK
    want, _ = clipped(model, ROWS)
    _, tally = clipped(model, marked)
    assert tally.num_failed == 1
    assert torch.get_default_dtype() == torch.float32
    assert not torch.are_deterministic_algorithms_enabled()
    found, tally = clipped(model, ROWS)
    assert torch.equal(found, want)
    assert tally.num_failed == 0


class Quit(BaseException):
    pass


def raise_behind(error: BaseException) -> Callable[[Any, Tensor], Any]:
    """In the backward pass."""

    def end(grad: Tensor) -> None:
        raise error

    return lambda model, value: end


def raise_here(error: BaseException) -> Callable[[Any, Tensor], None]:
    def act(model: Any, value: Tensor) -> None:
        raise error

    return act


@pytest.mark.parametrize("where", [raise_here, raise_behind], ids=["forward", "backward"])
@pytest.mark.parametrize("error", [SystemExit("secret"), GeneratorExit(), asyncio.CancelledError(), Quit("secret")])
def test_nothing_that_a_row_raises_ends_a_step(error: BaseException, where: Any) -> None:
    torch.manual_seed(0)
    marked = ROWS.clone()
    marked[2, 0] = MARK
    model = Marked(where(error))
    want, _ = clipped(model, ROWS, torch.arange(6) != 2)
    found, tally = clipped(model, marked)
    assert tally.num_failed == 1
    assert torch.allclose(found, want, atol=1e-6)
