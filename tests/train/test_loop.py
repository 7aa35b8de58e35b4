"""The Trainer, its average and its schedule, and the twin without privacy."""

import json
import logging
import math

import pytest
import torch
from tests.train.case import NUM_RECORDS, STEPS, Records, Run, bits, loss_fn, make_model, make_plan

import sfumato as sf
from sfumato.base import BadInput, Refused, ledger
from sfumato.train import Trainer, WeightAverage, World, train_without_privacy, warmup_cosine
from sfumato.train.schedule import warmup_cosine_factor


def _trainer(out, **changes):
    model = make_model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)
    settings = {
        "model": model,
        "loss_fn": loss_fn,
        "dataset": Records(broken=(1,)),
        "plan": make_plan(),
        "out": out,
        "optimizer": optimizer,
        "scheduler": warmup_cosine(optimizer, warmup_steps=2, total_steps=STEPS),
        "micro_batch_size": 4,
        "checkpoint_every": 3,
        "ema_decay": 0.9,
        "seed": 1,
    }
    return Trainer(**{**settings, **changes})


class _Stop(Exception):
    """As if the user had pressed Ctrl-C."""


def test_a_whole_run(tmp_path):
    seen = []
    done = _trainer(tmp_path, on_progress=seen.append, report_every=2).fit()
    assert done.steps == STEPS
    assert [p.step for p in seen] == [2, 4, 6, 8]
    assert all(p.total == STEPS and p.eta_seconds >= 0 and p.loss is None for p in seen)
    assert [p.epsilon for p in seen] == sorted(p.epsilon for p in seen)
    assert done.epsilon == pytest.approx(seen[-1].epsilon, rel=1e-2)
    assert [path.name for path in sorted((tmp_path / "private/checkpoints").iterdir())] == [
        "step-00000006",
        "step-00000008",
    ]


def test_public_progress_holds_steps_and_epsilon_only(tmp_path):
    _trainer(tmp_path, report_every=4).fit()
    lines = [json.loads(line) for line in (tmp_path / "export/progress.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [4, 8]
    assert {name for line in lines for name in line} == {"step", "epsilon"}
    assert [path.name for path in (tmp_path / "export").iterdir()] == ["progress.jsonl"]


def test_replayed_steps_are_not_reported_twice(tmp_path):
    def interrupt(progress):
        if progress.step == 5:
            raise _Stop

    with pytest.raises(_Stop):
        _trainer(tmp_path, on_progress=interrupt, report_every=1).fit()
    _trainer(tmp_path, report_every=1).fit()
    lines = [json.loads(line) for line in (tmp_path / "export/progress.jsonl").read_text().splitlines()]
    assert [line["epsilon"] for line in lines] == sorted(line["epsilon"] for line in lines)
    assert [line["step"] for line in lines][-3:] == [6, 7, 8]
    assert len(lines) <= STEPS + 1


@pytest.mark.parametrize("stop", [2, 5])
def test_the_same_call_again_resumes(tmp_path, stop):
    whole = _trainer(tmp_path / "whole")
    done = whole.fit()

    def interrupt(progress):
        if progress.step == stop:
            raise _Stop

    with pytest.raises(_Stop):
        _trainer(tmp_path / "cut", on_progress=interrupt, report_every=1).fit()
    again = _trainer(tmp_path / "cut", report_every=1)
    resumed = again.fit()
    assert bits(again.model) == bits(whole.model)
    assert all(torch.equal(resumed.average.weights[n], w) for n, w in done.average.weights.items())
    assert ledger.read(tmp_path / "cut/private/ledger.jsonl").charged()[0][1] == STEPS


def test_a_finished_run_is_not_run_again(tmp_path):
    first = _trainer(tmp_path)
    first.fit()
    again = _trainer(tmp_path)
    assert again.fit().steps == STEPS
    assert bits(again.model) == bits(first.model)


def test_loss_shows_only_when_revealed(tmp_path):
    seen = []
    _trainer(tmp_path, on_progress=seen.append, reveal="debug").fit()
    assert all(0 < p.loss < 10 for p in seen)
    assert [look.what for look in ledger.read(tmp_path / "private/ledger.jsonl").looks] == ["debug revealed"]


def test_a_run_without_a_proof_reports_no_epsilon(tmp_path):
    seen = []
    done = _trainer(tmp_path, plan=make_plan(is_simulation=True), on_progress=seen.append).fit()
    assert done.epsilon is None
    assert {p.epsilon for p in seen} == {None}
    assert ledger.read(tmp_path / "private/ledger.jsonl").looks[0].what == "simulation"


def test_a_changed_schedule_is_a_setting_that_the_caller_names(tmp_path):
    def interrupt(progress):
        raise _Stop

    with pytest.raises(_Stop):
        _trainer(tmp_path, settings={"warmup_steps": 2}, on_progress=interrupt).fit()
    with pytest.raises(BadInput, match=r"settings.warmup_steps: 2 -> 3"):
        _trainer(tmp_path, settings={"warmup_steps": 3}).fit()


def test_a_plan_without_noise_yet_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(BadInput, match="no noise yet"):
        _trainer(tmp_path / "run", plan=make_plan(noise_multiplier=None)).fit()
    assert not (tmp_path / "run").exists()


# ---------------------------------------------------------------- average and schedule


def test_the_average_follows_its_recursion():
    model = make_model()
    average = WeightAverage(model, 0.9)
    expected = model[0].weight.detach().clone()
    for step in range(5):
        with torch.no_grad():
            model[0].weight.fill_(step)
        average.update(model)
        expected = 0.9 * expected + 0.1 * step
    torch.testing.assert_close(average.weights["0.weight"], expected)


def test_the_average_is_applied_for_a_while():
    model = make_model()
    average = WeightAverage(model, 0.5)
    before = bits(model)
    with torch.no_grad():
        model[0].weight.add_(1.0)
    changed = bits(model)
    with average.applied(model):
        assert bits(model) == before
    assert bits(model) == changed
    with pytest.raises(BadInput, match="ema_decay"):
        WeightAverage(model, 1.0)


@pytest.mark.parametrize(("warmup", "total", "final"), [(0, 10, 0.0), (3, 10, 0.1), (10, 10, 0.0), (1, 1, 0.5)])
def test_the_schedule_rises_then_falls_by_half_a_cosine(warmup, total, final):
    factors = [warmup_cosine_factor(s, warmup_steps=warmup, total_steps=total, final=final) for s in range(total + 1)]
    assert factors[:warmup] == [(s + 1) / warmup for s in range(warmup)]
    assert factors[warmup] == pytest.approx(1.0)
    assert factors[warmup:] == sorted(factors[warmup:], reverse=True)
    if total > warmup:
        assert factors[total] == pytest.approx(final)
        middle = (1 + math.cos(math.pi / 2)) / 2
        assert warmup_cosine_factor(
            (warmup + total) // 2, warmup_steps=warmup, total_steps=warmup + 2 * ((total - warmup) // 2)
        ) == pytest.approx(middle)


def test_the_schedule_drives_the_learning_rate():
    optimizer = torch.optim.SGD(make_model().parameters(), lr=2.0)
    scheduler = warmup_cosine(optimizer, warmup_steps=2, total_steps=4)
    rates = []
    for _ in range(4):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates == pytest.approx([1.0, 2.0, 2.0, 1.0])
    for wrong in ({"warmup_steps": 5}, {"warmup_steps": -1}, {"warmup_steps": 1, "final": 2.0}):
        with pytest.raises(BadInput):
            warmup_cosine(optimizer, total_steps=4, **wrong)


# ---------------------------------------------------------------- the twin without privacy


def test_the_twin_is_ordinary_training(caplog):
    """Full batch, no dropout: the same weights as a loop written out."""
    plan = make_plan(sampler=sf.FullBatch(num_records=NUM_RECORDS), steps=4)

    class Fixed(Records):
        def draw(self, index, rng):
            return torch.full((6,), index / 10.0), index % 3

    model, reference = make_model(dropout=0.0), make_model(dropout=0.0)
    losses = []
    with caplog.at_level(logging.WARNING):
        train_without_privacy(
            model,
            loss_fn,
            Fixed(),
            plan,
            optimizer=torch.optim.SGD(model.parameters(), lr=0.5),
            micro_batch_size=7,
            on_step=lambda step, loss: losses.append(loss),
        )
    assert "NOT PRIVATE" in caplog.text
    optimizer = torch.optim.SGD(reference.parameters(), lr=0.5)
    rows = [Fixed().draw(i, None) for i in range(NUM_RECORDS)]
    batch = torch.stack([x for x, _ in rows]), torch.tensor([y for _, y in rows])
    for step in range(4):
        loss = loss_fn(reference, batch).mean()
        assert losses[step] == pytest.approx(loss.item(), rel=1e-5)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    for one, two in zip(model.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-6)


def test_the_twin_takes_empty_draws_and_bad_rows_in_its_stride():
    plan = make_plan(sampler=sf.Poisson(num_records=NUM_RECORDS, expected_batch_size=1.0), steps=12)
    model = make_model()
    done = []
    train_without_privacy(
        model,
        loss_fn,
        Records(broken=range(30)),
        plan,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.5),
        micro_batch_size=2,
        on_step=lambda step, loss: done.append(step),
    )
    assert done == list(range(1, 13))


def test_the_twin_runs_in_one_process(monkeypatch):
    monkeypatch.setattr("sfumato.train.nonprivate.join_world", lambda device: World(size=2))
    with pytest.raises(Refused, match="one process"):
        train_without_privacy(make_model(), loss_fn, Records(), make_plan(), optimizer=None, micro_batch_size=2)


def test_the_trainer_is_a_loop_over_the_primitive(tmp_path):
    model = make_model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)
    changes = {"scheduler": None, "ema_decay": None, "dataset": Records()}
    trainer = _trainer(tmp_path / "a", model=model, optimizer=optimizer, **changes)
    trainer.fit()
    with Run(tmp_path / "b", options={"seed": 1, "settings": {"ema_decay": None}}) as run:
        run.train()
    assert bits(trainer.model) == bits(run.model)
