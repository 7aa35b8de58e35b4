"""Training with losses that couple rows: replayed and resumed bit for bit, whatever workers and micro-batches."""

import pytest
import torch
from tests.train.case import (
    COUPLED,
    INFONCE,
    STEPS,
    Records,
    Run,
    bits,
    loss_fn,
    make_model,
    make_plan,
    two_views,
    whole_run,
)

import sfumato as sf
from sfumato.base import BadInput, Refused, ledger, seeds
from sfumato.train.keys import Keys

KINDS = list(COUPLED)


@pytest.mark.parametrize("kind", KINDS)
def test_resumed_equals_uninterrupted_bit_for_bit(kind, tmp_path):
    settings = {**COUPLED[kind], "dataset": Records(broken=(1, 2, 3))}
    with Run(tmp_path / "cut", **settings) as run:
        run.train(until=5, save_at=[3])
    with Run(tmp_path / "cut", **settings) as run:
        run.private.load(run.optimizer)
        assert run.private.step == 3
        run.train()
    assert bits(run.model) == whole_run(tmp_path / "whole", **settings)
    assert ledger.read(run.out / "private" / "ledger.jsonl").charged() == [(run.plan.to_json(), STEPS)]


@pytest.mark.parametrize("kind", ["groups", "pairs"])
def test_workers_do_not_change_a_bit(kind, tmp_path):
    alone = whole_run(tmp_path / "alone", **COUPLED[kind])
    assert whole_run(tmp_path / "two", **COUPLED[kind], num_workers=2) == alone


@pytest.mark.parametrize("kind", KINDS)
def test_micro_batches_do_not_change_the_sum(kind, tmp_path, monkeypatch):
    """Without noise and dropout; 64 rows are one micro-batch for all, three cut every group into parts."""
    monkeypatch.setattr(Keys, "key", lambda keys, *path: seeds.derive(keys.seed, *path))  # of any fingerprint
    unit = COUPLED[kind]["plan"].unit
    found = []
    for size in (3, 6, 64):
        plan = make_plan(unit=unit, noise_multiplier=0.0)
        settings = {**COUPLED[kind], "plan": plan, "micro_batch_size": size, "dropout": 0.0}
        with Run(tmp_path / str(size), **settings) as run:
            found.append(run.train(until=3))
    for one, two, three in zip(*found, strict=True):
        for name in one:
            assert torch.allclose(one[name], three[name], atol=1e-6)
            assert torch.allclose(two[name], three[name], atol=1e-6)
    assert max(float(grad.abs().max()) for grad in found[0][0].values()) > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_all_drawn_rows_are_seen_and_counted(kind, tmp_path):
    with Run(tmp_path, **{**COUPLED[kind], "options": {"seed": 1, "reveal": "debug"}}) as run:
        for step, micro_batches in run.loader():
            rows = sum(int(micro_batch.valid.sum()) for micro_batch in micro_batches)
            run.private.backward(step, micro_batches)
            assert run.private.revealed.num_rows == rows
            if step == 2:
                break
    views = getattr(run.plan.unit, "views", 1)
    assert rows % views == 0


def test_a_step_without_anybody_is_a_step(tmp_path):
    for kind in KINDS:
        sampler = sf.Poisson(num_records=60, expected_batch_size=0.02)
        plan = make_plan(unit=COUPLED[kind]["plan"].unit, sampler=sampler, steps=3)
        with Run(tmp_path / kind, **{**COUPLED[kind], "plan": plan}) as run:
            released = run.train()
        assert len(released) == 3
        assert all(float(grad.abs().sum()) > 0 for grad in released[0].values()), "noise alone"


def test_what_does_not_belong_together_is_refused_before_the_first_step(tmp_path):
    plan = make_plan()
    with (
        Run(tmp_path / "one", **{**COUPLED["batch"], "plan": plan}) as run,
        pytest.raises(Refused, match="Group or Pair"),
    ):
        run.train(until=1)
    with Run(tmp_path / "two", plan=COUPLED["pairs"]["plan"]) as run, pytest.raises(BadInput, match="Contrast"):
        run.train(until=1)
    assert not ledger.read(tmp_path / "two/private/ledger.jsonl").steps, "nothing was charged"


def test_the_twin_takes_the_mean_loss_of_all_rows_of_a_step():
    """Whatever is clipped together, rows of a loss of their own count alike: nine records, each once or twice."""
    for kind in ("rows in one group", "rows in groups", "several rows"):
        plan = make_plan(unit=COUPLED[kind]["plan"].unit, sampler=sf.FullBatch(num_records=9), steps=1)
        model, want = make_model(dropout=0.0), make_model(dropout=0.0)
        inputs = torch.stack([Fixed()[i][0] for i in range(9)])
        loss_fn(want, (inputs, torch.zeros(9, dtype=torch.int64))).mean().backward()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        sf.train.train_without_privacy(model, loss_fn, Fixed(), plan, optimizer=optimizer, micro_batch_size=4)
        for one, two in zip(model.parameters(), want.parameters(), strict=True):
            torch.testing.assert_close(one, two - 0.1 * two.grad, rtol=1e-4, atol=1e-6)


def test_the_twin_takes_the_loss_over_all_rows_of_a_step():
    """One step of plain SGD against autograd on the whole draw, for each unit's plan."""
    for kind in ("batch", "groups", "views", "pairs"):
        plan = make_plan(unit=COUPLED[kind]["plan"].unit, sampler=sf.FullBatch(num_records=9), steps=1)
        dataset = Fixed()
        model, want = make_model(dropout=0.0), make_model(dropout=0.0)
        views = getattr(plan.unit, "views", 1)
        batch = (torch.stack([dataset[i][0] for i in range(9)]), torch.zeros(9))
        if views == 1:
            u, v = two_views(want, batch)
            z = u @ v.mT / INFONCE.temperature
            loss = 0.5 * (z.logsumexp(1) + z.logsumexp(0) - 2 * z.diagonal()).mean()
            loss.backward()
            for p in want.parameters():
                p.data -= 0.1 * p.grad
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        seen: list[float] = []
        sf.train.train_without_privacy(
            model, COUPLED[kind]["loss"], dataset, plan, optimizer=optimizer, micro_batch_size=4,
            on_step=lambda step, value, seen=seen: seen.append(value),
        )  # fmt: skip
        assert len(seen) == 1
        if views == 1:
            assert seen[0] == pytest.approx(float(loss.detach()), rel=1e-5)
            for one, two in zip(model.parameters(), want.parameters(), strict=True):
                torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-6)


class Fixed:
    """Nine rows without augmentation."""

    def __len__(self) -> int:
        return 9

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return torch.randn(6, generator=torch.Generator().manual_seed(index)), 0
