"""What a trainer around a private step must not do: each is refused by name, before anything is charged."""

import copy
import logging
from types import SimpleNamespace

import pytest
import torch
from tests.train.case import Records, Run, bits, loss_fn, make_model, make_plan
from torch import nn

from sfumato.base import BadInput, ledger
from sfumato.train import PrivateGradients, World, fingerprint, host, loader


class _Around(torch.optim.Optimizer):
    """An optimizer that stands around another one, as Accelerate's does."""

    def __init__(self, optimizer, scaler=None):
        self.optimizer, self.scaler = optimizer, scaler

    @property
    def param_groups(self):
        return self.optimizer.param_groups


def _charged(run):
    return len(ledger.read(run.out / "private/ledger.jsonl").steps)


def _compiled(model):
    model.compile(backend="eager")
    return model


def _patched(model):
    model._original_forward = model.forward  # what accelerator.prepare leaves behind under mixed precision
    return model


@pytest.mark.parametrize(
    ("wrap", "message"),
    [
        (nn.DataParallel, r"wrapped in DataParallel: pass the model inside"),
        (lambda model: torch.compile(model, backend="eager"), "wrapped in OptimizedModule"),
        (lambda model: nn.Sequential(nn.Linear(6, 6), nn.DataParallel(model)), "^1 of the model is wrapped"),
        (_compiled, "is compiled"),
        (_patched, "autocast of its own by accelerator.prepare"),
    ],
    ids=["DataParallel", "torch.compile", "part", "Module.compile", "prepared"],
)
def test_a_wrapped_model_is_refused_before_anything_is_written(tmp_path, wrap, message):
    with pytest.raises(BadInput, match=message):
        PrivateGradients(wrap(make_model()), loss_fn, make_plan(), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_model_that_is_wrapped_later_is_refused_at_the_first_step(tmp_path):
    with Run(tmp_path) as run:
        batch = next(iter(run.loader()))
        _patched(run.model)
        with pytest.raises(BadInput, match=r"accelerator.prepare"):
            run.private.backward(*batch)
        assert _charged(run) == 0


def test_an_autocast_around_the_step_is_refused(tmp_path):
    """It would reach the norms: in bfloat16 they are wrong by a percent, and clipping leaves a thousandth."""
    with Run(tmp_path) as run, torch.autocast("cpu", dtype=torch.bfloat16):
        with pytest.raises(BadInput, match=r"autocast=torch.bfloat16"):
            run.train(until=1)
        assert _charged(run) == 0
        with torch.autocast("cpu", enabled=False):
            run.train(until=1)


def test_a_backward_pass_beside_the_private_one_is_refused(tmp_path):
    inputs = torch.ones(2, 6)
    with Run(tmp_path) as run:
        batch = next(iter(run.loader()))
        run.private.backward(*batch)
        with pytest.raises(BadInput, match=r"loss.backward\(\) reached a trainable parameter"):
            run.model(inputs).sum().backward()
        assert run.model[-1].bias.grad is None, "the one that was reached first"
        run.model.zero_grad()
        (public,) = torch.autograd.grad(run.model(inputs).sum(), [run.model[-1].bias])
        assert torch.equal(public, torch.full((3,), 2.0)), "what does not enter p.grad is free"
        copied = copy.deepcopy(run.model)
        copied(inputs).sum().backward()
        assert copied[-1].bias.grad is not None
    run.model(inputs).sum().backward()
    assert run.model[-1].bias.grad is not None, "the run is closed"


def test_one_release_is_applied_once(tmp_path):
    with Run(tmp_path) as run:
        batches = run.loader()
        with pytest.raises(BadInput, match=r"optimizer.step\(\) without a private.backward"):
            run.optimizer.step()
        before = bits(run.model)
        run.private.backward(*next(iter(batches)))
        run.optimizer.step()
        once = bits(run.model)
        with pytest.raises(BadInput, match=r"optimizer.step\(\) without"):
            run.optimizer.step()
        assert before != once == bits(run.model)
    run.optimizer.step()


class _Doubled(torch.optim.SGD):
    """A subclass that calls its parent's step: torch calls the hooks of both."""

    def step(self, closure=None):
        return super().step(closure)


def test_a_step_within_a_step_is_one(tmp_path):
    model = make_model()
    torch.optim.SGD(model.parameters(), lr=0.1)  # the first instance of a class is what puts the hooks into its step
    optimizer = _Doubled(model.parameters(), lr=0.1)
    with PrivateGradients(model, loss_fn, make_plan(), out=tmp_path / "doubled", optimizer=optimizer) as private:
        for step, drawn in loader(Records(), private, micro_batch_size=4):
            private.backward(step, drawn)
            optimizer.step()
            with pytest.raises(BadInput, match=r"optimizer.step\(\) without"):
                optimizer.step()


def test_accumulation_that_throws_releases_away_is_refused(tmp_path):
    with Run(tmp_path) as run:
        batches = list(run.loader())
        run.private.backward(*batches[0])
        run.optimizer.step()
        run.private.backward(*batches[1])
        with pytest.raises(BadInput, match=r"step 1 was charged, but no optimizer.step\(\).*Set its accumulation to 1"):
            run.private.backward(*batches[2])
        assert _charged(run) == 2


def test_a_run_that_never_steps_is_told(tmp_path, caplog):
    with Run(tmp_path) as run, caplog.at_level(logging.WARNING):
        for batch in list(run.loader())[:3]:
            run.private.backward(*batch)
    assert [record.message for record in caplog.records if record.name == host.__name__] == [
        "step 0 was charged, but no optimizer.step() applied its gradient: without one the model stays as it is."
    ]


def test_going_back_to_a_checkpoint_forgets_the_release_that_waits(tmp_path):
    with Run(tmp_path) as run:
        run.train(until=2, save_at=[2])
        run.private.backward(*next(iter(run.loader())))
        run.private.load(run.optimizer)
        run.train(until=4)
        assert _charged(run) == 4


def test_an_optimizer_that_stands_around_another_is_that_one(tmp_path):
    model = make_model()
    inner = torch.optim.AdamW(model.parameters(), lr=0.05)
    assert host.plain_optimizer(_Around(_Around(inner))) is inner
    assert host.plain_optimizer(None) is None
    with PrivateGradients(model, loss_fn, make_plan(), out=tmp_path, seed=1, optimizer=_Around(inner)) as private:
        loader(Records(), private, micro_batch_size=4)
        with pytest.raises(BadInput, match=r"optimizer.step\(\) without"):
            inner.step()
    named = ledger.read(tmp_path / "private/ledger.jsonl").attempts[0].fields
    assert named.items() >= fingerprint.optimizer_fields(inner).items()


def test_a_grad_scaler_is_refused(tmp_path):
    model = make_model()
    optimizer = _Around(torch.optim.SGD(model.parameters(), lr=0.1), scaler=SimpleNamespace())
    with pytest.raises(BadInput, match="GradScaler"):
        PrivateGradients(model, loss_fn, make_plan(), out=tmp_path, optimizer=optimizer)


@pytest.mark.parametrize("how", ["frozen", "replaced"])
def test_parameters_that_change_after_the_loader_are_refused(tmp_path, how):
    with Run(tmp_path) as run:
        batch = next(iter(run.loader()))
        if how == "frozen":
            run.model[0].bias.requires_grad_(False)
        else:
            run.model[0].bias = nn.Parameter(torch.zeros(8))
        with pytest.raises(BadInput, match="not those that the loader was made for"):
            run.private.backward(*batch)
        assert _charged(run) == 0


def test_processes_that_join_later_are_refused(tmp_path, monkeypatch):
    with Run(tmp_path / "a") as run, Run(tmp_path / "b", options={"seed": 1, "world": World()}) as own:
        joined = {"is_available": lambda: True, "is_initialized": lambda: True, "get_world_size": lambda: 2}
        monkeypatch.setattr(host, "dist", SimpleNamespace(**joined))
        with pytest.raises(BadInput, match=r"2 processes run.*there was 1.*torchrun"):
            run.private.backward(*next(iter(run.loader())))
        own.private.backward(*next(iter(own.loader())))


def test_a_drawn_batch_is_moved_by_nobody(tmp_path):
    with Run(tmp_path) as run:
        step, drawn = next(iter(run.loader()))
        assert drawn.to("cuda", non_blocking=True) is drawn
        run.private.backward(step, drawn)
