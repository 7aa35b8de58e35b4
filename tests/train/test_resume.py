"""When a step is replayed for nothing, when it is charged again, and when it is refused."""

import re
import shutil

import pytest
import torch
from tests.train.case import NUM_RECORDS, STEPS, Records, Run, bits, make_plan, whole_run

import sfumato as sf
from sfumato.base import BadInput, ledger


def _history(run):
    return ledger.read(run.out / "private" / "ledger.jsonl")


def test_resumed_equals_uninterrupted_bit_for_bit(tmp_path):
    with Run(tmp_path / "cut") as run:
        run.train(until=5, save_at=[3])
    with Run(tmp_path / "cut") as run:
        run.private.load(run.optimizer)
        assert run.private.step == 3
        run.train()
    assert bits(run.model) == whole_run(tmp_path / "whole")
    assert _history(run).charged() == [(run.plan.to_json(), STEPS)]


def _killed(out, **changes):
    with Run(out, **changes) as run:
        run.train(until=5, save_at=[2, 4])


@pytest.mark.parametrize("name", ["tensors.safetensors", "state.json"])
@pytest.mark.parametrize("damaged", [1, 2])
def test_a_damaged_checkpoint_costs_time_and_no_privacy(tmp_path, name, damaged):
    """A flipped bit of weights or of Adam's state: the checkpoint before it is taken, and nothing is charged."""
    _killed(tmp_path / "cut")
    for folder in sorted((tmp_path / "cut/private/checkpoints").iterdir())[2 - damaged :]:
        raw = bytearray((folder / name).read_bytes())
        raw[-9] ^= 4
        (folder / name).write_bytes(raw)
    if damaged == 2:
        with Run(tmp_path / "cut") as run, pytest.raises(BadInput, match="no checkpoint"):
            run.private.load(run.optimizer)
        shutil.rmtree(tmp_path / "cut/private/checkpoints")
    with Run(tmp_path / "cut") as run:
        run.private.load(run.optimizer)
        assert run.private.step == (2 if damaged == 1 else 0)
        run.train()
    assert bits(run.model) == whole_run(tmp_path / "whole")
    assert _history(run).charged() == [(run.plan.to_json(), STEPS)]


@pytest.mark.parametrize(("before", "after"), [(0, 2), (2, 0), (2, 1)])
def test_the_number_of_workers_moves_no_bit(tmp_path, before, after):
    _killed(tmp_path / "cut", num_workers=before)
    with Run(tmp_path / "cut", num_workers=after) as run:
        run.private.load(run.optimizer)
        run.train()
        assert run.private.attempt == 0
    assert bits(run.model) == whole_run(tmp_path / "whole")


def test_rows_are_made_with_one_thread_wherever_they_are_made(tmp_path):
    class Threads(Records):
        def __getitem__(self, index):
            self.threads = torch.get_num_threads()
            return super().__getitem__(index)

    torch.set_num_threads(2)
    try:
        with Run(tmp_path, dataset=Threads()) as run:
            run.train(until=2)
            assert run.dataset.threads == 1
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)


TRAINED = {"checkpoint_every": 3, "keep_last": 2, "report_every": 1, "reveal": None, "measure": None, "num_workers": 0}
OTHERWISE = {"checkpoint_every": 2, "keep_last": 1, "report_every": 4, "reveal": "debug", "num_workers": 1}


def test_how_a_run_is_watched_moves_no_bit(tmp_path):
    """Checkpoints, reports, what is shown and where the folder lies: killed and resumed with others, bits are equal."""

    def fit(out, dataset, **options):
        with Run(tmp_path / "unused", options={"seed": 1}) as run:
            model, optimizer = run.model, run.optimizer
        trainer = sf.Trainer(
            model=model, loss_fn=run.loss, dataset=dataset, plan=run.plan, out=out, optimizer=optimizer,
            micro_batch_size=4, seed=1, **options,
        )  # fmt: skip
        trainer.fit()
        return bits(model)

    whole = fit(tmp_path / "whole", Records(), **TRAINED)

    def stop(progress):
        if progress.step == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path / "cut", Records(), **TRAINED, on_progress=stop)
    shutil.move(tmp_path / "cut", tmp_path / "elsewhere")
    assert fit(tmp_path / "elsewhere", Records(), **OTHERWISE, measure=lambda step: 0.0) == whole
    history = ledger.read(tmp_path / "elsewhere/private/ledger.jsonl")
    assert (len(history.attempts), len(history.steps)) == (1, STEPS)


def test_a_finished_run_is_not_refused_for_what_changed_since(tmp_path):
    with Run(tmp_path) as run:
        run.train(save_at=[STEPS])
    with Run(tmp_path, lr=0.1) as run:
        run.private.load(run.optimizer)
        assert list(run.loader()) == []
        assert len(_history(run).attempts) == 1


def test_a_replayed_step_releases_the_same_bits(tmp_path):
    with Run(tmp_path) as run:
        first = run.train(until=3)
    with Run(tmp_path) as run:
        again = run.train(until=3)
    for one, two in zip(first, again, strict=True):
        assert all(torch.equal(one[name], two[name]) for name in one)
    assert len(_history(run).steps) == 3


def test_changed_settings_are_refused_by_name_and_cost(tmp_path):
    with Run(tmp_path) as run:
        run.train(until=4)
    with Run(tmp_path, lr=0.1, micro_batch_size=5) as run, pytest.raises(BadInput) as error:
        run.loader()
    text = str(error.value)
    assert "optimizer.groups.0.lr: 0.05 -> 0.1" in text
    assert "micro_batch_size: 4 -> 5" in text
    named = [float(number) for number in re.findall(r"\d+\.\d\d(?=;| at delta)", text)]
    assert named == pytest.approx([run.plan.epsilon(steps=4), run.plan.epsilon(steps=12)], abs=0.02)
    assert "accept_new_attempt=True" in text


@pytest.mark.parametrize(
    "change",
    [
        {"plan": make_plan(noise_multiplier=2.0)},
        {"dataset": Records(name="others")},
        {"options": {"seed": 2}},
        {"options": {}},
        {"options": {"seed": 1, "loss_scale": 2.0}},
        {"options": {"seed": 1, "autocast": torch.bfloat16}},
        {"options": {"seed": 1, "settings": {"warmup": 3}}},
        {"dropout": 0.2},
    ],
    ids=["plan", "data", "seed", "secret", "loss_scale", "autocast", "settings", "model"],
)
def test_every_change_is_another_fingerprint(tmp_path, change):
    with Run(tmp_path) as run:
        run.train(until=1)
    with Run(tmp_path, **change) as run, pytest.raises(BadInput, match="other settings"):
        run.loader()


def test_changed_settings_before_the_first_step_cost_nothing(tmp_path):
    with Run(tmp_path) as run:
        run.loader()
    with Run(tmp_path, lr=0.1) as run:
        run.loader()
        assert run.private.attempt == 1
        assert run.private.epsilon == 0.0


def test_an_accepted_new_attempt_draws_anew_and_charges_again(tmp_path):
    with Run(tmp_path) as run:
        first = run.train(until=3)
    with Run(tmp_path, options={"seed": 1, "accept_new_attempt": True}, lr=0.1) as run:
        second = run.train(until=3)
        assert run.private.attempt == 1
    assert [count for _, count in _history(run).charged()] == [3, 3]
    assert not any(torch.allclose(first[0][name], second[0][name], atol=1e-3) for name in first[0])


def test_other_weights_are_a_conflict(tmp_path):
    """The same fingerprint, but the step cannot come out the same: nothing leaves, unless charged again."""
    with Run(tmp_path) as run:
        first = run.train(until=2)
    with Run(tmp_path, model_seed=5) as run, pytest.raises(BadInput, match=r"does not come out the same.*epsilon"):
        run.train(until=1)
    assert all(p.grad is None for p in run.model.parameters())
    assert len(_history(run).steps) == 2
    with Run(tmp_path, model_seed=5, options={"seed": 1, "accept_new_attempt": True}) as run:
        drawn_before = len(run.dataset.seen)
        second = run.train(until=2)
        assert run.private.attempt == 1
    assert drawn_before == 0
    assert [count for _, count in _history(run).charged()] == [2, 2]
    assert not torch.allclose(first[0]["0.weight"], second[0]["0.weight"], atol=1e-3)


def test_changed_records_are_a_conflict(tmp_path):
    """Same names, same sizes, other contents: the clipped sum tells."""
    with Run(tmp_path, dataset=Records(broken=range(0, NUM_RECORDS, 2))) as run:
        run.train(until=1)
    with Run(tmp_path) as run, pytest.raises(BadInput, match="does not come out the same"):
        run.train(until=1)


def test_a_copied_run_with_another_learning_rate_shares_no_noise(tmp_path):
    """Copied before the first step and trained twice: the difference of the releases is not a difference of sums."""
    with Run(tmp_path / "a", options={}):
        pass
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    with Run(tmp_path / "a", options={}) as one, Run(tmp_path / "b", options={}, lr=0.1) as two:
        first, second = one.train(until=1)[0], two.train(until=1)[0]
    noise_std = one.plan.noise_std / one.plan.divisor
    gap = torch.cat([(first[name] - second[name]).flatten() for name in first])
    assert float(gap.std()) == pytest.approx(2**0.5 * noise_std, rel=0.2)


def test_a_copied_run_that_takes_another_path_shares_no_noise(tmp_path):
    """Same fingerprint, copied ledger, other weights: the sum's own hash keys the noise."""
    with Run(tmp_path / "a", options={}):
        pass
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    with Run(tmp_path / "a", options={}) as one, Run(tmp_path / "b", options={}, model_seed=1) as two:
        first, second = one.train(until=1)[0], two.train(until=1)[0]
    gap = torch.cat([(first[name] - second[name]).flatten() for name in first])
    assert float(gap.std()) == pytest.approx(2**0.5 * one.plan.noise_std / one.plan.divisor, rel=0.25)


def test_a_checkpoint_of_another_ledger_is_refused(tmp_path):
    for name in "ab":
        with Run(tmp_path / name, options={}) as run:
            run.train(until=2, save_at=[2])
    shutil.rmtree(tmp_path / "a/private/checkpoints")
    shutil.copytree(tmp_path / "b/private/checkpoints", tmp_path / "a/private/checkpoints")
    with Run(tmp_path / "a", options={}) as run, pytest.raises(BadInput, match="not written by the run"):
        run.private.load(run.optimizer)


def test_load_without_the_optimizer_that_is_asked_for(tmp_path):
    with Run(tmp_path) as run:
        run.train(until=1)
        run.private.save()
        with pytest.raises(BadInput, match="without the optimizer"):
            run.private.load(run.optimizer)


def test_a_finished_run_taken_back_keeps_its_noise(tmp_path):
    every = make_plan(sampler=sf.FullBatch(num_records=NUM_RECORDS), steps=3)  # draws do not depend on the keys
    with Run(tmp_path, plan=every, micro_batch_size=NUM_RECORDS, dropout=0.0, dataset=Fixed()) as run:
        first = run.train(until=3, save_at=[1])
        run.dataset = Fixed(name="renamed")
        batches = run.loader()  # joins where nothing is left to do
        run.private.load(run.optimizer)
        step, micro_batches = next(iter(batches))
        run.private.backward(step, micro_batches)
        for name, parameter in run.model.named_parameters():
            assert torch.equal(parameter.grad, first[step][name])
        assert len(_history(run).steps) == 3


class Fixed(Records):
    """Rows without augmentation."""

    def __getitem__(self, index):
        torch.manual_seed(index)
        return super().__getitem__(index)
