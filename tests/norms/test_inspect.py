"""What the engine would do with each parameter, told before training; and which module lets rows meet."""

import pytest
import torch
from torch import Tensor, nn

from sfumato.base import BadInput
from sfumato.norms import synthetic_twin
from sfumato.norms.inspect import Inspection, inspect
from sfumato.norms.leak import first_leak

IDS = {"x": torch.zeros(4, 5, dtype=torch.long)}


class Tiny(nn.Module):
    """One of everything: tied, reused, derived, frozen, out of reach."""

    def __init__(self) -> None:
        super().__init__()
        self.emb = nn.Embedding(10, 8)
        self.pos = nn.Parameter(torch.randn(6, 8))
        self.lin = nn.Linear(8, 8)
        self.still = nn.Linear(8, 8)
        self.still.requires_grad_(False)
        self.out = nn.Linear(8, 10, bias=False)
        self.out.weight = self.emb.weight
        self.scale = nn.Parameter(torch.zeros(()))

    def hidden(self, ids: Tensor) -> Tensor:
        return self.lin(self.lin(self.emb(ids) + self.pos[: ids.shape[1]]))

    def forward(self, ids: Tensor) -> Tensor:
        return self.out(self.still(self.hidden(ids))) * self.scale.exp()


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return model(batch["x"]).square().mean((1, 2))


def look(model: nn.Module, loss_fn=loss) -> Inspection:
    torch.manual_seed(0)
    return inspect(model, loss_fn, IDS)


def make(num_rows: int) -> dict[str, Tensor]:
    return synthetic_twin(IDS, num_rows)


def test_every_trainable_parameter_is_named_with_its_functions() -> None:
    seen = look(Tiny())
    uses = {use.name: use for use in seen.uses}
    assert set(uses) == {"pos", "scale", "emb.weight", "lin.weight", "lin.bias"}
    assert uses["emb.weight"].functions == ("embedding", "linear")
    assert uses["emb.weight"].count == uses["lin.weight"].count == 2
    assert (uses["pos"].functions, uses["pos"].derived) == (("add",), True)
    assert (uses["scale"].functions, uses["scale"].derived) == (("mul",), True)
    assert not uses["lin.weight"].derived
    assert seen.frozen == {"still.weight": 64, "still.bias": 8}
    assert seen.tied == (("emb.weight", "out.weight"),)
    assert seen.num_trainable == 80 + 48 + 72 + 1
    assert seen.refusal is None
    assert seen.measured is not None


def test_what_is_told_is_what_the_engine_measures() -> None:
    """The functions listed are those in which the layouts of `prepare` meet the batch."""
    seen = look(Tiny())
    assert seen.measured is not None
    found: dict[str, set[str]] = {}
    for names, function, axis in seen.measured.certified(len(IDS["x"]))[0].layouts.calls:
        for name in names if axis is not None else ():
            found.setdefault(name, set()).add(function)
    assert {use.name: set(use.functions) for use in seen.uses} == found


def test_batch_norm_in_training_is_named_and_left_as_it_was() -> None:
    class Normed(Tiny):
        def __init__(self) -> None:
            super().__init__()
            self.bn = nn.BatchNorm1d(8)

        def hidden(self, ids: Tensor) -> Tensor:
            return self.bn(super().hidden(ids).transpose(1, 2)).transpose(1, 2)

    model = Normed()
    seen = look(model)
    assert seen.batch_norms == ("bn",)
    assert "BatchNorm in training mode" in str(seen.refusal)
    assert set(seen.learning) == {"bn.running_mean", "bn.running_var", "bn.num_batches_tracked"}
    assert int(model.bn.num_batches_tracked) == 0
    assert torch.equal(model.bn.running_mean, torch.zeros(8))
    assert first_leak(model, loss, make) == "bn"
    model.bn.eval()
    assert look(model).refusal is None
    assert first_leak(model, loss, make) is None


def test_function_without_a_rule_is_named() -> None:
    class Product(Tiny):
        def __init__(self) -> None:
            super().__init__()
            self.odd = nn.Parameter(torch.randn(8, 8))

        def hidden(self, ids: Tensor) -> Tensor:
            return torch.einsum("nld,de->nle", super().hidden(ids), self.odd)

    seen = look(Product())
    assert {use.name: use.without_rule for use in seen.uses if use.without_rule} == {"odd": ("einsum",)}
    assert str(seen.refusal).startswith("odd (used in einsum)")


def test_parameters_without_a_gradient_are_named() -> None:
    model = Tiny()
    model.spare = nn.Linear(3, 3)
    seen = look(model)
    assert seen.unreached == ("spare.weight", "spare.bias")
    assert "no gradient reaches spare.weight, spare.bias" in str(seen.refusal)


def test_buffer_that_learns_is_named_and_restored() -> None:
    class Average(Tiny):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("mean", torch.zeros(8))

        def hidden(self, ids: Tensor) -> Tensor:
            found = super().hidden(ids)
            self.mean += found.detach().mean((0, 1))
            return found

    model = Average()
    seen = look(model)
    assert seen.learning == ("mean",)
    assert "the buffer mean changes" in str(seen.refusal)
    assert torch.equal(model.mean, torch.zeros(8))


def test_module_that_mixes_rows_is_named_innermost_first() -> None:
    class Mixes(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x - x.mean(0, keepdim=True)

    class Model(Tiny):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Linear(8, 8), nn.Sequential(Mixes(), nn.Linear(8, 8)))

        def hidden(self, ids: Tensor) -> Tensor:
            return self.body(super().hidden(ids))

    assert first_leak(Model(), loss, make) == "body.1.0"
    assert "rows depend on each other" in str(look(Model()).refusal)


def test_pixels_that_reach_other_rows_are_seen() -> None:
    class Mixes(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + x.flip(0)

    model = nn.Sequential(Mixes(), nn.Linear(4, 1))

    def of_pixels(module: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        return module(batch["x"]).squeeze(1)

    assert first_leak(model, of_pixels, lambda n: {"x": torch.arange(4.0 * n).view(n, 4)}) == "0"


def test_rows_that_meet_in_the_loss_alone_name_no_module() -> None:
    def coupled(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        rows = loss(model, batch)
        return rows - rows.mean()

    assert first_leak(Tiny(), coupled, make) is None
    assert "rows depend on each other" in str(look(Tiny(), coupled).refusal)


def test_looking_changes_neither_random_state_nor_gradients() -> None:
    model = Tiny()
    before = {name: p.clone() for name, p in model.named_parameters()}
    state = torch.get_rng_state()
    inspect(model, loss, IDS)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(p, before[name]) and p.grad is None for name, p in model.named_parameters())


def test_nothing_trains_is_a_users_mistake() -> None:
    with pytest.raises(BadInput, match="no parameter with requires_grad"):
        look(Tiny().requires_grad_(False))
