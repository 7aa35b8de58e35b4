"""The fast path meets the oracle over one table of cases; what it cannot measure is refused by name."""

import pickle

import pytest
import torch
import torch.nn.functional as F
from tests.norms import (
    cases,
    cases_models,  # noqa: F401  registers its cases
)
from torch import Tensor, nn

from sfumato import norms
from sfumato.base import BadInput, Refused

C = 0.5
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}


def clip(norm: Tensor) -> Tensor:
    return (C / norm).clamp(max=1)


def distance(got: norms.ClippedSum, want: norms.ClippedSum) -> tuple[float, float]:
    norm_error = ((got.norms - want.norms).abs() / want.norms).max()
    size = torch.cat([g.flatten() for g in want.grads.values()]).norm()
    error = torch.cat([(got.grads[name] - want.grads[name]).flatten() for name in want.grads]).norm()
    return float(norm_error), float(error / size)


def both(
    model: nn.Module, loss_fn: object, batch: dict, **options: object
) -> tuple[norms.ClippedSum, norms.ClippedSum]:
    measured = norms.prepare(model, loss_fn, batch, unused="zero")
    results = []
    for engine in (norms.clipped_sum, norms.oracle_sum):
        torch.manual_seed(1)
        results.append(engine(model, loss_fn, batch, measured, clip, **options))
    return results[0], results[1]


BOTH = [(name, dtype) for dtype in (torch.float64, torch.float32) for name in cases.CASES]


@pytest.mark.every(3)
@pytest.mark.parametrize(("name", "dtype"), BOTH, ids=lambda value: str(value).split(".")[-1])
def test_norms_and_clipped_sums_equal_the_oracle(name: str, dtype: torch.dtype) -> None:
    model, loss_fn, batch = cases.build(name, dtype)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    fast, slow = both(model, loss_fn, batch)
    norm_error, sum_error = distance(fast, slow)
    assert norm_error < TOLERANCE[dtype]
    assert sum_error < TOLERANCE[dtype]
    assert (fast.factors < 1).any(), "a case in which nothing is clipped tests nothing"
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_table_is_as_wide_as_promised() -> None:
    assert len(cases.CASES) >= 20


def test_model_is_untouched_afterwards() -> None:
    model, loss_fn, batch = cases.build("tied_and_reused", torch.float32)
    attributes = {name: set(vars(module)) for name, module in model.named_modules()}
    fast, _ = both(model, loss_fn, batch)
    assert type(model) is cases.Reused
    assert attributes == {name: set(vars(module)) for name, module in model.named_modules()}
    assert not any(module._forward_hooks or module._backward_hooks for module in model.modules())
    pickle.loads(pickle.dumps(model))
    assert fast.norms.shape == (cases.N,)


def test_a_factor_that_is_wrong_by_one_percent_is_seen() -> None:
    model, loss_fn, batch = cases.build("captioner", torch.float32)
    measured = norms.prepare(model, loss_fn, batch, unused="zero")
    fast = norms.clipped_sum(model, loss_fn, batch, measured, lambda n: 1.01 * clip(n))
    slow = norms.oracle_sum(model, loss_fn, batch, measured, clip)
    assert distance(fast, slow)[1] > 1e-3


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30])
def test_non_finite_example_contributes_zero_and_leaves_others_alone(value: float) -> None:
    model, loss_fn, batch = cases.build("convolutions_and_raw_parameters", torch.float32)
    measured = norms.prepare(model, loss_fn, batch)
    poisoned = {**batch, "x": batch["x"].clone()}
    poisoned["x"][2] = value
    keep = torch.arange(cases.N) != 2
    got = norms.clipped_sum(model, loss_fn, poisoned, measured, clip)
    want = norms.clipped_sum(model, loss_fn, batch, measured, clip, valid=keep)
    assert got.factors[2] == 0
    for name in want.grads:
        torch.testing.assert_close(got.grads[name], want.grads[name], rtol=1e-5, atol=1e-6)


def test_rows_that_are_not_valid_contribute_zero() -> None:
    model, loss_fn, batch = cases.build("frozen_batchnorm", torch.float64)
    measured = norms.prepare(model, loss_fn, batch)
    valid = torch.tensor([True, False, True, False, False])
    got = norms.clipped_sum(model, loss_fn, batch, measured, clip, valid=valid)
    want = norms.oracle_sum(model, loss_fn, {k: v[valid] for k, v in batch.items()}, measured, clip)
    assert all(torch.allclose(got.grads[name], want.grads[name], rtol=1e-12) for name in want.grads)
    nothing = norms.clipped_sum(model, loss_fn, batch, measured, clip, valid=torch.zeros(cases.N, dtype=torch.bool))
    assert all(not grad.any() for grad in nothing.grads.values())


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 3e-2), (torch.float16, 5e-3)])
def test_autocast_keeps_norms_and_sums_in_float32(dtype: torch.dtype, tolerance: float) -> None:
    model, loss_fn, batch = cases.build("vit", torch.float32)

    def autocast() -> torch.autocast:
        return torch.autocast("cpu", dtype=dtype)

    fast, slow = both(model, loss_fn, batch, autocast=autocast, loss_scale=256.0)
    assert fast.norms.dtype == torch.float32
    assert {grad.dtype for grad in fast.grads.values()} == {torch.float32}
    norm_error, sum_error = distance(fast, slow)
    assert norm_error < tolerance
    assert sum_error < tolerance
    # What is summed is what was measured: the clipped sum of one row never exceeds C.
    for row in range(cases.N):
        only = torch.arange(cases.N) == row
        measured = norms.prepare(model, loss_fn, batch)
        one = norms.clipped_sum(model, loss_fn, batch, measured, clip, valid=only, autocast=autocast, loss_scale=256.0)
        assert torch.cat([g.flatten() for g in one.grads.values()]).norm() <= C * (1 + 1e-5)


def test_loss_scale_is_divided_out() -> None:
    model, loss_fn, batch = cases.build("vit", torch.float64)
    measured = norms.prepare(model, loss_fn, batch)
    plain = norms.clipped_sum(model, loss_fn, batch, measured, clip)
    scaled = norms.clipped_sum(model, loss_fn, batch, measured, clip, loss_scale=1024.0)
    torch.testing.assert_close(scaled.norms, plain.norms, rtol=1e-12, atol=0)
    assert all(torch.allclose(scaled.grads[name], plain.grads[name], rtol=1e-12) for name in plain.grads)


def test_frozen_parts_are_not_seen() -> None:
    model, loss_fn, batch = cases.build("vit", torch.float64)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("classifier" in name or name.endswith("bias"))
    fast, slow = both(model, loss_fn, batch)
    assert distance(fast, slow)[1] < 1e-10
    assert set(fast.grads) == {name for name, p in model.named_parameters() if p.requires_grad}


class Toy(nn.Module):
    def __init__(self, middle: nn.Module | None = None) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.middle = middle or nn.Identity()
        self.last = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.middle(self.first(x)))


def toy_batch() -> dict[str, Tensor]:
    return {"x": torch.randn(4, 4), "y": torch.arange(4) % 3}


def prepare(model: nn.Module, loss_fn: object = None, batch: dict | None = None) -> norms.Measured:
    return norms.prepare(model, loss_fn or cases.class_loss, batch or toy_batch())


def test_reduced_loss_is_refused() -> None:
    with pytest.raises(Refused, match="one value per example"):
        prepare(Toy(), lambda m, b: F.cross_entropy(m(b["x"]), b["y"]))
    one = {"x": torch.randn(1, 4), "y": torch.zeros(1, dtype=torch.long)}
    with pytest.raises(Refused, match="one value per example"):
        prepare(Toy(), lambda m, b: F.cross_entropy(m(b["x"]), b["y"]), one)


def test_loss_across_rows_is_refused() -> None:
    def contrastive(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        z = F.normalize(model(batch["x"]), dim=-1)
        return F.cross_entropy(z @ z.T, torch.arange(len(z)), reduction="none")

    with pytest.raises(Refused, match="rows depend on each other"):
        prepare(Toy(), contrastive)


def test_detached_coupling_of_rows_is_refused() -> None:
    def hard_negative(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        loss = cases.class_loss(model, batch)
        return loss * loss.detach().max()

    with pytest.raises(Refused, match="changes when another row's input changes"):
        prepare(Toy(), hard_negative)


def test_batchnorm_in_training_is_refused_by_name() -> None:
    with pytest.raises(Refused, match="BatchNorm"):
        prepare(Toy(nn.BatchNorm1d(4)).train())


def test_buffer_that_learns_is_refused_and_restored() -> None:
    class Counter(nn.Module):
        seen: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("seen", torch.zeros(4))

        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                self.seen += x.sum(0)
            return x

    model = Toy(Counter())
    with pytest.raises(Refused, match=r"middle\.seen"):
        prepare(model)
    assert not model.middle.seen.any()


def test_parameter_without_rule_is_refused_by_name() -> None:
    class Einsum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.kernel = nn.Parameter(torch.randn(4, 4))

        def forward(self, x: Tensor) -> Tensor:
            return torch.einsum("nd,de->ne", x, self.kernel)

    with pytest.raises(Refused, match=r"middle\.kernel \(used in einsum\)"):
        prepare(Toy(Einsum()))


def test_recurrent_weights_are_refused_by_name() -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = nn.LSTM(4, 4, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            return self.lstm(x[:, None])[0][:, 0]

    with pytest.raises(Refused, match=r"middle\.lstm\.weight_ih_l0"):
        prepare(Toy(Recurrent()))


def test_parameter_without_gradient_is_refused_by_name() -> None:
    model = Toy()
    model.pooler = nn.Linear(4, 4)
    with pytest.raises(Refused, match=r"pooler\.weight"):
        prepare(model)


def test_packed_tokens_are_refused() -> None:
    class Packed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words = nn.Embedding(20, 4)
            self.inner = nn.Linear(4, 4)

        def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
            x = self.words(ids)
            out = torch.zeros_like(x)
            out[mask > 0] = self.inner(x[mask > 0])
            return out.sum(1)

    def loss_fn(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        return model(batch["x"], batch["mask"]).square().sum(1)

    with pytest.raises(Refused, match="inner"):
        prepare(Packed(), loss_fn, {"x": cases.tokens(), "mask": cases.ragged()})


def test_in_place_function_whose_result_is_dropped_is_refused() -> None:
    class Dropped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.shift = nn.Parameter(torch.randn(4))

        def forward(self, x: Tensor) -> Tensor:
            x = x * 1
            x.add_(self.shift)
            return x

    with pytest.raises(Refused, match=r"middle\.shift"):
        prepare(Toy(Dropped()))


def test_layer_that_starts_at_zero_hides_nothing() -> None:
    model, loss_fn, batch = cases.build("sequence_batch_second", torch.float64)
    nn.init.zeros_(model.head.weight)
    fast, slow = both(model, loss_fn, batch)
    assert distance(fast, slow)[1] < 1e-10
    assert not model.head.weight.any()


def test_batch_without_common_leading_dimension_is_bad_input() -> None:
    with pytest.raises(BadInput, match="lead with the example dimension"):
        prepare(Toy(), cases.class_loss, {"x": torch.randn(4, 4), "y": torch.arange(3)})


def test_changed_trainable_parameters_are_bad_input() -> None:
    model = Toy()
    measured = prepare(model)
    model.last.bias.requires_grad_(False)
    with pytest.raises(BadInput, match=r"last\.bias"):
        norms.clipped_sum(model, cases.class_loss, toy_batch(), measured, clip)


def test_random_state_is_left_alone() -> None:
    model, batch = Toy(nn.Dropout(0.5)), toy_batch()
    torch.manual_seed(3)
    want = torch.rand(2)
    torch.manual_seed(3)
    prepare(model, batch=batch)
    assert torch.equal(torch.rand(2), want)


def test_registered_rule_measures_a_new_function() -> None:
    class Einsum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.kernel = nn.Parameter(torch.randn(4, 4))

        def forward(self, x: Tensor) -> Tensor:
            return torch.einsum("nd,de->ne", x, self.kernel)

    from sfumato.norms import tape

    @norms.register_rule("einsum")
    def einsum(recorder: norms.Tape, call: norms.Call) -> Tensor:
        _, x, kernel = call.args

        def gradients(out_grad: Tensor, saved: tuple[Tensor, ...]) -> list:
            return [(kernel, norms.Outer(saved[0][:, None], out_grad[:, None], kernel.shape))]

        return recorder.tap(call, call.run(), (x,), gradients)

    try:
        model = Toy(Einsum()).double()
        fast, slow = both(model, cases.class_loss, {"x": torch.randn(4, 4).double(), "y": torch.arange(4) % 3})
        assert distance(fast, slow)[1] < 1e-10
    finally:
        del tape._RULES["einsum"]
