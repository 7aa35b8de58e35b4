"""What a step may not change, and what is not measured: refused by one name each, or measured as autograd does."""

import logging
import sys
import threading
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tests.guarantees import harness
from torch import Tensor, nn

import sfumato as sf
from sfumato import norms
from sfumato.base import BadInput, Refused
from sfumato.mechanisms import Computation, Engine, MeasureOnce, MicroBatch, clip_examples, clip_factor
from sfumato.train import PrivateGradients, loader
from sfumato.train.guard import StepGuard
from sfumato.train.hush import hushed
from sfumato.train.rows import Failed, Form, RowRequest, Rows


def batch() -> dict[str, Tensor]:
    return {"x": torch.randn(6, 4, 5), "ids": torch.randint(0, 7, (6, 4))}


def oracle(model: nn.Module, loss_fn: Any, rows: dict[str, Tensor]) -> norms.ClippedSum:
    measured = norms.prepare(model, loss_fn, rows)
    return norms.oracle_sum(model, loss_fn, rows, measured, lambda norm: (0.5 / norm).clamp(max=1))


# ---------------------------------------------------------------- rules that differ from autograd (A8)


class Table(nn.Module):
    """A table that is looked up without the batch: its padding row, or its rows' frequencies, change the gradient."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.table = nn.Embedding(6, 5, **options)
        self.head = nn.Linear(5, 3)

    def forward(self, rows: dict[str, Tensor]) -> Tensor:
        positions = self.table(torch.tensor([0, 2, 2, 4]))
        return self.head(rows["x"] + positions).square().sum((1, 2))


@pytest.mark.parametrize("options", [{"padding_idx": 2}, {"scale_grad_by_freq": True}, {}])
def test_a_table_without_the_batch_has_autograds_gradient(options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model, rows = Table(**options).double(), {"x": batch()["x"].double()}
    loss_fn = lambda m, b: m(b)  # noqa: E731
    measured = norms.prepare(model, loss_fn, rows)
    found = norms.clipped_sum(model, loss_fn, rows, measured, lambda norm: (0.5 / norm).clamp(max=1))
    wanted = oracle(model, loss_fn, rows)
    for name, grad in wanted.grads.items():
        torch.testing.assert_close(found.grads[name], grad, rtol=1e-10, atol=1e-12)


class InPlace(nn.Module):
    """The result of the in-place function is used, and so is the tensor that it changed."""

    def __init__(self) -> None:
        super().__init__()
        self.shift, self.head = nn.Parameter(torch.randn(5)), nn.Linear(5, 3)

    def forward(self, rows: dict[str, Tensor]) -> Tensor:
        h = rows["x"] * 2
        shifted = h.add_(self.shift)
        return (self.head(shifted) + self.head(h.square())).square().sum((1, 2))


class BatchLast(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.head = nn.BatchNorm1d(4).eval(), nn.Linear(5, 3)

    def forward(self, rows: dict[str, Tensor]) -> Tensor:
        h = self.norm(rows["x"].permute(2, 1, 0))  # channels second, rows last
        return self.head(h.permute(2, 1, 0)).square().sum((1, 2))


class Complex(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.filter, self.head = nn.Parameter(torch.randn(3, dtype=torch.complex64)), nn.Linear(5, 3)

    def forward(self, rows: dict[str, Tensor]) -> Tensor:
        return self.head(torch.fft.irfft(torch.fft.rfft(rows["x"]) * self.filter, n=5)).square().sum((1, 2))


@pytest.mark.parametrize(
    ("model", "named"), [(InPlace, "shift"), (BatchLast, "norm"), (Complex, "filter is complex")], ids=lambda v: str(v)
)
def test_what_the_rules_would_get_wrong_is_refused_by_name(model: type[nn.Module], named: str) -> None:
    torch.manual_seed(0)
    with pytest.raises(Refused, match=named):
        norms.prepare(model(), lambda m, b: m(b), {"x": batch()["x"]})


def test_an_in_place_function_whose_result_alone_is_used_is_measured() -> None:
    class Once(InPlace):
        def forward(self, rows: dict[str, Tensor]) -> Tensor:
            return self.head((rows["x"] * 2).add_(self.shift)).square().sum((1, 2))

    norms.prepare(Once(), lambda m, b: m(b), {"x": batch()["x"]})


# ---------------------------------------------------------------- errors of the model while it is certified (A9)


class Vector(nn.Module):
    """A vector in the place of a matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.weight = nn.Linear(5, 5), nn.Parameter(torch.randn(5))

    def forward(self, rows: dict[str, Tensor]) -> Tensor:
        return F.linear(self.first(rows["x"]), self.weight).square().sum(1)


class Reentrant(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(5, 5), nn.Linear(5, 3)

    def forward(self, rows: dict[str, Tensor]) -> Tensor:
        h = torch.utils.checkpoint.checkpoint(self.last, self.first(rows["x"]), use_reentrant=True)
        return h.square().sum((1, 2))


@pytest.mark.parametrize(("model", "named"), [(Vector, "weight"), (Reentrant, "use_reentrant=False")])
def test_errors_while_certifying_are_refusals_with_a_way_out(model: type[nn.Module], named: str) -> None:
    with pytest.raises(Refused, match=named):
        norms.prepare(model(), lambda m, b: m(b), {"x": batch()["x"]})


def test_attention_over_constant_rows_draws_no_random_numbers() -> None:
    """torch tags the function as random, though without dropout it is not (A10)."""
    public = torch.randn(1, 2, 3, 5)

    def loss_fn(model: nn.Module, rows: dict[str, Tensor]) -> Tensor:
        memory = F.scaled_dot_product_attention(public, public, public)
        return model(rows["x"]).square().sum((1, 2)) + memory.sum()

    norms.prepare(nn.Linear(5, 3).eval(), loss_fn, {"x": batch()["x"]})


# ---------------------------------------------------------------- buffers, flags, optimizers, other trainables


class Statistics(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.InstanceNorm1d(harness.WIDTH, affine=False, track_running_stats=True)
        self.last = nn.Linear(harness.WIDTH, harness.WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.norm(x[:, :, None].expand(-1, -1, 3)).mean(2) + x)


def started(tmp_path: Path, model: nn.Module, loss: Any = None, **options: Any) -> tuple[Any, Any]:
    plan = harness.make_plan(steps=3)
    private = PrivateGradients(model, loss or harness.loss_fn, plan, out=tmp_path / "run", seed=7, **options)
    return private, loader(harness.make_table(), private, micro_batch_size=4)


def test_statistics_that_begin_between_steps_are_refused_and_nothing_is_kept(tmp_path: Path) -> None:
    """model.eval(), a validation pass, model.train(): found before the next private row, and after one put back."""
    model = Statistics().eval()
    private, batches = started(tmp_path, model)
    with private:
        for step, micro_batches in batches:
            before = {name: buffer.clone() for name, buffer in model.named_buffers()}
            if step == 1:
                model.train()
                with pytest.raises(Refused, match="buffer"):
                    private.backward(step, micro_batches)
                assert all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())
                return
            private.backward(step, micro_batches)
            model.zero_grad()
    raise AssertionError("never refused")


def test_the_guard_puts_back_buffers_and_flags_with_one_sentence() -> None:
    def count(model: nn.Module) -> None:
        model.get_buffer("norm.num_batches_tracked").add_(1)

    def replace(model: nn.Module) -> None:
        model.get_submodule("norm").running_mean = torch.ones(harness.WIDTH)

    def add(model: nn.Module) -> None:
        model.register_buffer("cache", torch.ones(2))

    def flag(model: nn.Module) -> None:
        model.train()

    sentences = set()
    for change in (count, replace, add, flag):
        model = Statistics().eval()
        guard, before = StepGuard(model), {name: value.clone() for name, value in model.state_dict().items()}
        guard.before()
        change(model)
        with pytest.raises(Refused) as refusal:
            guard.after()
        sentences.add(str(refusal.value))
        assert {n: v.tolist() for n, v in model.state_dict().items()} == {n: v.tolist() for n, v in before.items()}
        assert not any(module.training for module in model.modules())
        guard.before()
        guard.after()
    assert len(sentences) == 1


def test_an_optimizer_of_other_parameters_is_refused(tmp_path: Path) -> None:
    model, other = harness.make_model(), harness.make_model()
    with pytest.raises(BadInput, match=r"lacks 0\.weight"):
        started(tmp_path / "other", model, optimizer=torch.optim.SGD(other.parameters(), lr=0.1))
    with pytest.raises(BadInput, match=r"lacks 2\.weight"):
        started(tmp_path / "part", model, optimizer=torch.optim.SGD(model[0].parameters(), lr=0.1))
    both = torch.optim.SGD([*model.parameters(), *other.parameters()], lr=0.1)
    with pytest.raises(BadInput, match="do not belong to the model"):
        started(tmp_path / "both", model, optimizer=both)
    model[0].requires_grad_(False)
    private, _ = started(tmp_path / "frozen", model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1))
    private.close()


def test_a_trainable_module_that_the_loss_closes_over_is_refused(tmp_path: Path) -> None:
    head = nn.Linear(harness.WIDTH, harness.WIDTH)

    def loss(model: nn.Module, rows: Any) -> Tensor:
        return harness.loss_fn(lambda x: head(model(x)), rows)

    private, batches = started(tmp_path, harness.make_model(), loss)
    with private, pytest.raises(BadInput, match="not a parameter of the model"):
        private.backward(*next(iter(batches)))
    head.requires_grad_(False)
    private, batches = started(tmp_path / "frozen", harness.make_model(), loss)
    with private:
        private.backward(*next(iter(batches)))


def test_a_trainable_tensor_that_the_loss_closes_over_is_refused_and_one_of_the_pass_is_not() -> None:
    shift = torch.zeros(3, requires_grad=True)
    rows = torch.randn(4, 5)
    with pytest.raises(BadInput, match="not a parameter of the model"):
        norms.prepare(nn.Linear(5, 3), lambda m, x: (m(x) + shift).square().sum(1), rows)
    own = lambda m, x: (m(x) + torch.zeros(len(x), 3, requires_grad=True)).square().sum(1)  # noqa: E731
    norms.prepare(nn.Linear(5, 3), own, rows)


def test_sharded_parameters_are_refused_by_name() -> None:
    class DTensor(nn.Parameter):
        """Stands for torch's, which needs process groups: it is recognised by its class."""

    model = harness.make_model()
    measured = norms.prepare(model, lambda m, x: m(x).sum(1), torch.randn(4, harness.WIDTH))
    kind = type("DTensor", (torch.Tensor,), {})
    model[2].weight.data.__class__ = kind
    model[2].weight = nn.Parameter(model[2].weight.data.as_subclass(kind))
    with pytest.raises(Refused, match=r"2\.weight is sharded"):
        measured.parameters(model)


def test_a_parameter_without_a_gradient_at_run_time_is_no_silent_zero() -> None:
    model = nn.Linear(5, 3)
    measured = norms.prepare(model, lambda m, x: m(x).sum(1), torch.randn(4, 5))

    def without(model: nn.Linear, x: Tensor) -> Tensor:
        return F.linear(x, model.weight.detach(), model.bias).sum(1)

    with pytest.raises(norms.OffPath):
        norms.clipped_sum(
            model, lambda m, x: (x @ m.weight.detach().T).sum(1), torch.randn(4, 5), measured, torch.ones_like
        )


def test_groups_refuse_embeddings_that_are_not_normalised(tmp_path: Path) -> None:
    contrast = sf.Contrast(embed=lambda model, rows: (model(rows[0]), model(rows[1])), loss=sf.InfoNCE(temperature=0.5))
    plan = harness.make_plan(unit=sf.Group(clip_norm=0.5, num_groups=2), steps=2)
    with PrivateGradients(harness.make_model(), contrast, plan, out=tmp_path / "run", seed=7) as private:
        batches = loader(harness.make_table(), private, micro_batch_size=4)
        with pytest.raises(Refused, match="unit norm"):
            private.backward(*next(iter(batches)))


@pytest.mark.parametrize("unit", ["example", "group", "pair"])
def test_a_fault_of_the_mechanism_is_raised_before_the_first_step(unit: str, tmp_path: Path) -> None:
    """At a step it would be taken for rows that fail: every sum zero, and a model of noise alone."""
    loss = sf.InfoNCE(temperature=0.5)
    units = {
        "example": sf.Example(clip_norm=0.5),
        "group": sf.Group(clip_norm=0.5, num_groups=2),
        "pair": sf.Pair(clip_norm=0.5, loss=loss, largest_draw=64),
    }
    calls = []

    def breaks(name: str) -> Any:
        def call(*args: Any, **options: Any) -> Any:
            calls.append(name)
            raise IndexError("dimension out of range")

        return call

    def embed(model: nn.Module, rows: Any) -> tuple[Tensor, Tensor]:
        return F.normalize(model(rows[0]), dim=1), F.normalize(model(rows[1]), dim=1)

    engine = Engine(clipped_sum=breaks("sum"), pair_jacobians=breaks("jacobians"))
    loss_fn = harness.loss_fn if unit == "example" else sf.Contrast(embed=embed, loss=loss)
    plan = harness.make_plan(unit=units[unit], steps=2)
    private = PrivateGradients(harness.make_model(), loss_fn, plan, out=tmp_path / "run", seed=7, engine=engine)
    with private, pytest.raises(Refused, match="certified cannot be clipped"):
        private.backward(*next(iter(loader(harness.make_table(), private, micro_batch_size=4))))
    assert calls


# ---------------------------------------------------------------- a record's value ends nothing


class Fragile(nn.Sequential):
    """Raises for a value, and takes another path for another one."""

    def forward(self, x: Tensor) -> Tensor:
        if bool((x[:, 0] > 50).any()):
            raise ValueError(f"cannot take {x[:, 0].tolist()}")
        h = super().forward(x)
        return h * 2 if bool((x[:, 1] > 50).any()) else h


@pytest.mark.parametrize("place", [0, 1])
def test_no_value_ends_a_run_or_moves_other_records(place: int, tmp_path: Path, capsys: Any) -> None:
    def fragile() -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return Fragile(nn.Linear(harness.WIDTH, harness.WIDTH), nn.Tanh(), nn.Linear(harness.WIDTH, harness.WIDTH))

    table = harness.make_table()
    inputs, targets = harness.make_row(5)
    hostile = table.with_row(5, (inputs.index_fill(0, torch.tensor(place), 99.0), targets))
    plan = harness.make_plan(sampler=harness.poisson(float(len(table.rows))), steps=2)
    folders = []
    sums = []
    for number, data in enumerate((table.with_row(5, harness.Unreadable()), hostile)):
        out = tmp_path / str(number)
        found = harness.run(data, tmp_path, plan, model=fragile(), out=out, micro_batch_size=8)
        sums.append(found.sums)
        folders.append(sorted(str(path.relative_to(out)) for path in out.rglob("*")))
    for without, joined in zip(*sums, strict=True):
        assert float((joined - without).norm()) <= harness.CLIP_NORM * (1 + 1e-6)
    assert folders[0] == folders[1]
    assert "99" not in "".join(capsys.readouterr())


class Talks(Fragile):
    """Says, warns of and leaves the process for a value."""

    def forward(self, x: Tensor) -> Tensor:
        if bool((x[:, 0] > 50).any()):
            sys.stdout.write(f"value {x[:, 0].tolist()}")
            warnings.warn(f"value {x[:, 0].tolist()}", stacklevel=1)
            logging.getLogger("model").warning("value %s", x[:, 0].tolist())
            raise SystemExit(f"value {x[:, 0].tolist()}")
        return x + nn.Sequential.forward(self, x)


class LeavesChanges(nn.Sequential):
    """For a value it counts in a frozen parameter, replaces a buffer and leaves a flag; or does so and raises."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__(*layers)
        self.count = nn.Parameter(torch.zeros(3), requires_grad=False)
        self.register_buffer("seen", torch.zeros(3))
        self.kind = ""

    def forward(self, x: Tensor) -> Tensor:
        if bool((x[:, 0] > 50).any()):
            if self.kind == "parameter":
                self.count.add_(1.0)
            elif self.kind == "data":
                self.count.data[0] = 1.0
            elif self.kind == "list":
                torch._foreach_add_([self.count.data], 1.0)
            elif self.kind == "overload":
                torch.ops.aten.add_.Scalar(self.count.data, 1.0)
            elif self.kind == "module":
                self.add_module("user_99", nn.Linear(harness.WIDTH, harness.WIDTH))
            elif self.kind == "new parameter":
                self.user_99 = nn.Parameter(x[0].detach().clone())
            elif self.kind == "hook":
                self[0].register_forward_hook(lambda module, args, out: 2 * out)
            elif self.kind == "other layer":
                self[1] = nn.Identity()
            elif self.kind == "buffer":
                self.seen = x[0, :3].detach().clone()
            elif self.kind == "flag":
                self[1].eval()
                raise ValueError("left in eval()")
        return super().forward(x)


def layers() -> list[nn.Module]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return [nn.Linear(harness.WIDTH, harness.WIDTH), nn.Tanh(), nn.Linear(harness.WIDTH, harness.WIDTH)]


KINDS = ("talks", "parameter", "data", "list", "overload", "module", "new parameter", "hook", "other layer", "buffer")


@pytest.mark.parametrize("kind", [*KINDS, "flag"])
def test_what_a_value_brings_about_is_undone_silent_and_ends_nothing(kind: str, tmp_path: Path, capsys: Any) -> None:
    def model() -> nn.Module:
        made: Any = Talks(*layers()) if kind == "talks" else LeavesChanges(*layers())
        made.kind = kind
        return made

    inputs, targets = harness.make_row(5)
    table = harness.make_table()
    hostile = table.with_row(5, (inputs.index_fill(0, torch.tensor(0), 99.0), targets))
    plan = harness.make_plan(sampler=harness.poisson(float(len(table.rows))), steps=2)
    sums = []
    for number, data in enumerate((table.with_row(5, harness.Unreadable()), hostile)):
        trained = model()
        out = tmp_path / str(number)
        sums.append(harness.run(data, tmp_path, plan, model=trained, out=out, micro_batch_size=8).sums)
        assert all(module.training for module in trained.modules())
        assert not any(name in ("count", "seen") and bool(value.any()) for name, value in trained.state_dict().items())
    for without, joined in zip(*sums, strict=True):
        assert float((joined - without).norm()) <= harness.CLIP_NORM * (1 + 1e-6)
    assert "99" not in "".join(capsys.readouterr())  # of made-up rows the model may speak


def test_a_row_on_another_device_fails_alone() -> None:
    class Data(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return 4

        def __getitem__(self, place: int) -> Tensor:
            return torch.ones(3, device="meta" if place == 2 else "cpu")

    rows = Rows(Data())
    rows.form = Form.of(torch.ones(1, 3))
    assert [isinstance(rows[RowRequest(row=row, key=b"k" * 16)][1], Failed) for row in range(4)] == [
        False, False, True, False
    ]  # fmt: skip


@pytest.mark.parametrize("how", ["prints", "ends"])
def test_what_a_data_set_says_of_a_row_is_not_seen(how: str, capsys: Any) -> None:
    class Data(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return 4

        def __getitem__(self, place: int) -> Tensor:
            sys.stderr.write(f"row {place}")
            warnings.warn(f"row {place}", stacklevel=1)
            if how == "ends":
                raise SystemExit(f"row {place}")
            return torch.ones(3)

    _, made = Rows(Data())[RowRequest(row=2, key=b"k" * 16)]
    assert isinstance(made, Failed) == (how == "ends")
    assert "row" not in "".join(capsys.readouterr())


def test_threads_of_before_are_heard_while_rows_are_computed_and_those_started_there_never(
    capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    go, begun = threading.Event(), threading.Event()

    def late(word: str) -> None:
        begun.set()
        go.wait()
        sys.stdout.write(word)

    def wrong() -> None:
        raise ValueError("of a record")

    monkeypatch.setattr(threading, "excepthook", threading.__excepthook__)
    before = threading.Thread(target=late, args=("seen ",))
    before.start()
    begun.wait()
    with hushed():
        sys.stdout.write("not seen")
        for thread in (
            threading.Thread(target=sys.stdout.write, args=("of a record",)),
            threading.Thread(target=wrong),
        ):
            thread.start()
            thread.join()
        lasting = threading.Thread(target=late, args=("of a record",))
        lasting.start()
        go.set()
        before.join()
        lasting.join()
    sys.stdout.write("after")
    assert capsys.readouterr() == ("seen after", "")
    assert logging.root.manager.disable == logging.NOTSET


def test_threads_whose_times_overlap_leave_nothing_silenced(capsys: Any) -> None:
    inside, out = threading.Event(), threading.Event()

    def second() -> None:
        with hushed():
            inside.set()
            out.wait()
            sys.stdout.write("of a record")

    thread = threading.Thread(target=second)
    thread.start()
    with hushed():
        inside.wait()
    out.set()
    thread.join()
    sys.stdout.write("seen")
    assert capsys.readouterr().out == "seen"
    assert logging.root.manager.disable == logging.NOTSET


def test_a_table_that_is_renormalised_by_what_is_looked_up_is_refused() -> None:
    class Renormalised(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.head = nn.Embedding(7, 5, max_norm=1.0), nn.Linear(5, 3)
            self.table.requires_grad_(False)

        def forward(self, rows: dict[str, Tensor]) -> Tensor:
            return self.head(self.table(rows["ids"])).square().sum((1, 2))

    computation = Computation(model=Renormalised(), loss_fn=lambda m, b: m(b))
    rows = MicroBatch(batch={"ids": batch()["ids"]}, valid=torch.ones(6, dtype=torch.bool))
    with pytest.raises(Refused, match="max_norm"):
        computation.measure(rows)


def test_rows_that_are_changed_in_place_are_computed_once() -> None:
    """The rows of a pass are a copy: a pass that follows would compute on rows that the first one changed."""

    def loss(model: nn.Module, rows: Tensor) -> Tensor:
        rows.sub_(8.0 * (rows > 50))
        if bool((rows[:, 0] > 40).any()):
            raise ValueError("fails after the write")
        return model(rows).square().sum(1)

    torch.manual_seed(0)
    model, rows = nn.Linear(4, 3), torch.randn(6, 4)
    rows[0, 1] = 60.0
    hostile = rows.clone()
    hostile[3, 0] = 60.0
    found = []
    for given in (rows, hostile):
        computation = Computation(model=model, loss_fn=loss)
        measure = MeasureOnce(computation)
        micro_batch = MicroBatch(batch=given.clone(), valid=torch.ones(6, dtype=torch.bool))
        unit = sf.Example(clip_norm=0.5)
        found.append(clip_examples(computation, [micro_batch], unit, clip_factor(unit), measure=measure)[0].sums)
        assert torch.equal(micro_batch.batch, given)
    moved = torch.cat([(found[0][name] - found[1][name]).flatten() for name in found[0]])
    assert float(moved.norm()) <= 0.5 * (1 + 1e-6)
