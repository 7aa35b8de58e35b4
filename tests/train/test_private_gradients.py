"""The step: what it sets, what it refuses, what it charges, and when a step is replayed or charged again."""

import json
import os
import stat
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from tests.train.case import STEPS, Records, Run, loss_fn, make_model, make_plan

import sfumato as sf
from sfumato import mechanisms
from sfumato.base import BadInput, Refused, ledger
from sfumato.mechanisms import MicroBatch
from sfumato.train import DrawnBatch, PrivateGradients, loader, private_gradients


def _history(run):
    return ledger.read(run.out / "private" / "ledger.jsonl")


def test_sets_a_gradient_on_every_trainable_parameter(tmp_path):
    with Run(tmp_path) as run:
        run.model[0].bias.requires_grad_(False)
        step, batches = next(iter(run.loader()))
        run.private.backward(step, batches)
        for name, p in run.model.named_parameters():
            assert (p.grad is None) == (name == "0.bias")
            assert p.grad is None or (p.grad.dtype == p.dtype and bool(p.grad.isfinite().all()))


def test_released_is_sum_plus_noise_over_the_public_divisor(tmp_path, monkeypatch):
    """With (nearly) no noise the gradient is the clipped sum over the declared, not the drawn, batch size."""
    plan = make_plan(noise_multiplier=1e-9)
    sums = []
    real = mechanisms.release
    monkeypatch.setattr(mechanisms, "release", lambda clipped, *rest: sums.append(clipped) or real(clipped, *rest))
    with Run(tmp_path, plan=plan) as run:
        released = run.train(until=2)
        assert run.private.plan.divisor == 10
    for clipped, grads in zip(sums, released, strict=True):
        for name, total in clipped.sums.items():
            torch.testing.assert_close(grads[name].double(), total / 10.0, atol=1e-7, rtol=1e-6)


def test_the_ledger_holds_the_step_before_noise_is_drawn(tmp_path, monkeypatch):
    on_disk = []

    def spy(clipped, plan, key):
        on_disk.append(len(_history(run).steps))
        raise RuntimeError("stop here")

    monkeypatch.setattr(mechanisms, "release", spy)
    with Run(tmp_path) as run, pytest.raises(RuntimeError):
        run.train(until=1)
    assert on_disk == [1]
    assert all(p.grad is None for p in run.model.parameters())


@pytest.mark.parametrize("wrong", [0, 2])
def test_a_step_twice_or_out_of_order_is_refused(tmp_path, wrong):
    with Run(tmp_path) as run:
        batches = dict(run.loader())
        run.private.backward(0, batches[0])
        with pytest.raises(BadInput, match="out of turn"):
            run.private.backward(wrong, batches[wrong])
        assert len(_history(run).steps) == 1


def test_batches_of_another_origin_are_refused(tmp_path):
    with Run(tmp_path / "a") as run, Run(tmp_path / "b") as other:
        (_, mine), (_, theirs) = next(iter(run.loader())), next(iter(other.loader()))
        for foreign in (theirs, list(mine), dict(run.loader())[1]):
            with pytest.raises(BadInput, match="not drawn for this step"):
                run.private.backward(0, foreign)
        assert not _history(run).steps


def test_batches_of_a_loader_that_the_fingerprint_does_not_speak_of_are_refused(tmp_path):
    """Two loaders of one run: only the last one is in the fingerprint."""
    with Run(tmp_path) as run:
        first = next(iter(run.loader()))
        run.micro_batch_size = 5
        second = next(iter(run.loader()))
        with pytest.raises(BadInput, match="not drawn for this step"):
            run.private.backward(*first)
        run.private.backward(*second)


def test_declared_batches_train_but_print_no_epsilon(tmp_path):
    rows = MicroBatch(
        batch=(torch.randn(4, 6), torch.zeros(4, dtype=torch.long)), valid=torch.ones(4, dtype=torch.bool)
    )
    with Run(tmp_path) as run:
        run.private.declare_batches("my own sampler")
        with pytest.raises(BadInput, match="more than once"):
            run.private.backward(0, iter([rows]))
        run.private.backward(0, [rows])
        with pytest.raises(Refused, match="NOT PROVED"):
            _ = run.private.epsilon
        wider = torch.zeros(len(rows.valid), 7), rows.batch[1]
        with pytest.raises(BadInput, match="public length") as error:
            run.private.backward(1, [replace(rows, batch=wider)])
        assert "7" not in str(error.value)


def test_gradients_are_clipped_in_full_float32_whatever_the_user_set(tmp_path):
    """In TF32 norms would be off by more than the margin; cuDNN's convolutions take it unless they are told."""
    seen = set()

    def loss(model, batch):
        seen.add((torch.backends.cuda.matmul.fp32_precision, torch.backends.cudnn.conv.fp32_precision))
        return loss_fn(model, batch)

    before = torch.backends.cudnn.conv.fp32_precision
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    try:
        with Run(tmp_path, loss=loss) as run:
            run.train(until=1)
        assert torch.backends.cuda.matmul.fp32_precision == "tf32"
    finally:
        torch.backends.cuda.matmul.fp32_precision = "none"
    assert seen == {("ieee", "ieee")}
    assert torch.backends.cudnn.conv.fp32_precision == before


def test_nothing_is_done_after_the_last_step(tmp_path):
    with Run(tmp_path) as run:
        run.train()
        assert list(run.loader()) == []
        with pytest.raises(BadInput, match="all are done"):
            run.private.backward(STEPS, DrawnBatch(loader=run.loader(), step=STEPS))
    assert len(_history(run).steps) == STEPS


def test_epsilon_is_that_of_the_ledger(tmp_path):
    with Run(tmp_path) as run:
        assert run.private.epsilon == 0.0
        run.train(until=3)
        three = run.private.epsilon
        run.train(until=5)
        assert 0 < three < run.private.epsilon
    assert _history(run).charged()[0][1] == 5
    assert three == pytest.approx(run.plan.epsilon(steps=3), rel=1e-6)


def test_keys_exist_only_with_a_loader(tmp_path):
    with Run(tmp_path) as run, pytest.raises(BadInput, match="make a loader"):
        _ = run.private.attempt


def test_private_files_are_private(tmp_path):
    with Run(tmp_path, options={}) as run:
        run.train(until=2, save_at=[1])
    assert stat.S_IMODE((tmp_path / "private").stat().st_mode) == 0o700
    files = [p for p in (tmp_path / "private").rglob("*") if p.is_file()]
    assert {"seed", "ledger.jsonl", "log.jsonl", "tensors.safetensors"} <= {p.name for p in files}
    assert {stat.S_IMODE(p.stat().st_mode) for p in files} == {0o600}
    assert list((tmp_path / "export").iterdir()) == []


def test_secret_seeds_differ_and_stay(tmp_path):
    for name in "ab":
        with Run(tmp_path / name, options={}):
            pass
    seeds = [(tmp_path / name / "private/seed").read_bytes() for name in "ab"]
    assert seeds[0] != seeds[1]
    with Run(tmp_path / "a", options={}):
        assert (tmp_path / "a/private/seed").read_bytes() == seeds[0]


def test_the_seed_is_in_no_other_file_and_no_repr(tmp_path):
    with Run(tmp_path, options={}) as run:
        run.train(until=1, save_at=[1])
        seed = (tmp_path / "private/seed").read_bytes()
        texts = [repr(run.private), repr(run.private.keys), repr(next(iter(run.loader())))]
    for path in tmp_path.rglob("*"):
        if path.is_file() and path.name != "seed":
            texts.append(path.read_bytes().decode(errors="replace"))
            assert seed not in path.read_bytes()
    assert not any(seed.hex() in text or repr(seed) in text for text in texts)


def test_a_lost_seed_is_named_and_not_replaced(tmp_path):
    with Run(tmp_path, options={}) as run:
        run.train(until=1)
    os.remove(tmp_path / "private/seed")
    for _ in range(2):
        with pytest.raises(BadInput, match=r"private/seed is missing.*--new-attempt"):
            Run(tmp_path, options={})
    with Run(tmp_path, options={"accept_new_attempt": True}) as run:
        run.train(until=1)
        assert run.private.attempt == 1


def test_un_noised_numbers_show_only_when_revealed(tmp_path):
    with Run(tmp_path / "a") as run:
        run.train(until=1)
        with pytest.raises(Refused, match="private"):
            _ = run.private.revealed
    with Run(tmp_path / "b", options={"seed": 1, "reveal": "debug"}) as run:
        run.train(until=1)
        assert run.private.revealed.num_rows > 0
        assert repr(run.private.revealed) == "Tally()"
    assert [look.what for look in _history(run).looks] == ["debug revealed"]
    logged = json.loads((tmp_path / "a/private/log.jsonl").read_text().splitlines()[0])
    assert logged["num_rows"] == run.private.revealed.num_rows


@pytest.mark.parametrize(
    ("options", "message"), [({"reveal": "all"}, "reveal"), ({"clip_factor": lambda n: n}, "Conjectured")]
)
def test_contradicting_settings_are_refused(tmp_path, options, message):
    with pytest.raises(BadInput, match=message):
        PrivateGradients(make_model(), loss_fn, make_plan(), out=tmp_path, **options)


@pytest.mark.parametrize("case", ["frozen", "meta", "two devices"])
def test_models_that_cannot_be_trained_here_are_refused(tmp_path, case):
    model = make_model()
    if case == "frozen":
        model.requires_grad_(False)
    else:
        model[0].to("meta")
    if case == "meta":
        model.to("meta")
    with pytest.raises(BadInput, match="no parameter" if case == "frozen" else "one CPU or CUDA device"):
        PrivateGradients(model, loss_fn, make_plan(), out=tmp_path)


def test_one_process_at_a_time(tmp_path):
    with Run(tmp_path), pytest.raises(BadInput, match="already open"):
        Run(tmp_path)
    with Run(tmp_path):
        pass


def test_an_unmeasurable_model_is_refused_before_anything_is_charged(tmp_path):
    with Run(tmp_path) as run:
        run.model.insert(1, torch.nn.BatchNorm1d(8, affine=False))
        with pytest.raises(Refused):
            run.train(until=1)
    assert not _history(run).steps


def test_a_user_random_state_is_left_alone(tmp_path):
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    with Run(tmp_path) as run:
        run.train(until=2)
    assert torch.equal(torch.rand(2), expected)


def test_only_released_gradients_enter_the_parameters():
    fake = SimpleNamespace(grads={"0.weight": torch.zeros(8, 6)})
    with pytest.raises(TypeError, match="Released"):
        private_gradients.set_grads(make_model(), fake)


def test_a_conjectured_rule_trains_and_prints_no_epsilon(tmp_path):
    plan = make_plan(unit=sf.Conjectured(rule="normalised", presence=1.0, swap=2.0), noise_multiplier=1.0)
    with PrivateGradients(make_model(), loss_fn, plan, out=tmp_path, clip_factor=lambda n: 1 / (n + 1)) as private:
        step, batches = next(iter(loader(Records(), private, micro_batch_size=4)))
        private.backward(step, batches)
        with pytest.raises(Refused):
            _ = private.epsilon
    with pytest.raises(BadInput, match="needs clip_factor"):
        PrivateGradients(make_model(), loss_fn, plan, out=tmp_path / "b")
