"""Calibration: the reported epsilon never exceeds the target, and what was found cannot be had for less."""

from dataclasses import replace

import pytest

from sfumato.accounting import (
    calibrate,
    calibrate_batch,
    calibrate_noise_multiplier,
    calibrate_steps,
    epsilon_pld,
    epsilon_rdp,
)
from sfumato.base import (
    BadInput,
    CappedPoissonDraw,
    FixedSizeDraw,
    FullBatchDraw,
    GaussianStep,
    PoissonDraw,
    Refused,
    Relation,
)

DELTA = 1e-6


def _step(prob=0.02, multiplier=1.0, relation=Relation.ZERO_OUT, presence=3.0):
    return GaussianStep(
        draw=PoissonDraw(sampling_prob=prob),
        relation=relation,
        std=multiplier * presence,
        presence=presence,
        swap=2 * presence,
    )


def _at(step, multiplier):
    return replace(step, std=multiplier * step.presence)


@pytest.mark.parametrize(
    ("relation", "target"),
    [(Relation.ZERO_OUT, 0.05), (Relation.ZERO_OUT, 2.0), (Relation.REPLACE_ONE, 1.0)],
)
def test_noise_meets_the_target_and_hardly_more(target, relation):
    step = _step(relation=relation)
    found = calibrate_noise_multiplier(step, 200, epsilon=target, delta=DELTA)
    assert epsilon_pld([(_at(step, found), 200)], DELTA) <= target
    assert epsilon_pld([(_at(step, found * 0.998), 200)], DELTA) > target
    assert found == float(f"{found:.5g}")  # what is printed is what is used


def test_a_search_that_ends_too_low_is_lifted(monkeypatch):
    """Whatever the search brings, the reported epsilon decides."""
    monkeypatch.setattr(calibrate, "_newton", lambda multiplier, epsilon_at, excess: multiplier * 0.9995)
    step = _step()
    found = calibrate_noise_multiplier(step, 200, epsilon=2.0, delta=DELTA, accountant="rdp")
    assert epsilon_rdp([(_at(step, found), 200)], DELTA) <= 2.0


def test_published_noise_multipliers():
    """q = .005, 10^4 steps, epsilon 8, delta 1e-6: .6826 (PLD) and .7049 (RDP) in the literature's tools."""
    step = _step(prob=0.005)
    assert epsilon_pld([(_at(step, 0.6826), 10_000)], 1e-6) < 8.0 < epsilon_pld([(_at(step, 0.6822), 10_000)], 1e-6)
    rdp = calibrate_noise_multiplier(step, 10_000, epsilon=8, delta=1e-6, accountant="rdp")
    assert rdp == pytest.approx(0.7049, abs=2e-4)


@pytest.mark.parametrize("draw", [FixedSizeDraw(num_records=10_000, batch_size=200), FullBatchDraw(num_records=10_000)])
def test_noise_is_std_over_presence_for_every_draw(draw):
    """Also where the accountant is given std / swap."""
    step = GaussianStep(draw=draw, relation=Relation.REPLACE_ONE, std=1.0, presence=2.0, swap=3.0)
    found = calibrate_noise_multiplier(step, 100, epsilon=4.0, delta=DELTA, accountant="rdp")
    assert epsilon_rdp([(_at(step, found), 100)], DELTA) <= 4.0
    assert epsilon_rdp([(_at(step, found * 0.998), 100)], DELTA) > 4.0


def test_default_accountant():
    fixed = replace(
        _step(multiplier=4.0, relation=Relation.REPLACE_ONE), draw=FixedSizeDraw(num_records=1000, batch_size=10)
    )
    found = calibrate_steps(fixed, epsilon=1.0, delta=DELTA)
    assert found == calibrate_steps(fixed, epsilon=1.0, delta=DELTA, accountant="rdp")
    with pytest.raises(Refused, match="use accountant 'rdp'"):
        calibrate_noise_multiplier(fixed, 10, epsilon=2.0, delta=DELTA, accountant="pld")


def test_steps():
    step = _step()
    found = calibrate_steps(step, epsilon=2.0, delta=DELTA)
    assert epsilon_pld([(step, found)], DELTA) <= 2.0
    assert epsilon_pld([(step, found + 2)], DELTA) > 2.0
    assert calibrate_steps(step, epsilon=2.0, delta=DELTA, accountant="rdp") < found


def test_batch():
    def step_at(batch):
        return _step(prob=batch / 5000)

    found = calibrate_batch(step_at, 5000, 200, epsilon=2.0, delta=DELTA)
    assert epsilon_pld([(step_at(found), 200)], DELTA) <= 2.0
    assert epsilon_pld([(step_at(found + 1), 200)], DELTA) > 2.0
    assert calibrate_batch(lambda b: _step(prob=b / 50, multiplier=500.0), 50, 2, epsilon=2.0, delta=DELTA) == 50


def test_targets_out_of_reach():
    with pytest.raises(Refused, match="one step already exceeds"):
        calibrate_steps(_step(prob=0.5, multiplier=0.5), epsilon=0.1, delta=DELTA, accountant="rdp")
    with pytest.raises(Refused, match="a batch of one already exceeds"):
        calibrate_batch(lambda b: _step(prob=b / 5, multiplier=0.5), 5, 10, epsilon=0.1, delta=DELTA, accountant="rdp")
    with pytest.raises(Refused, match="no noise multiplier"):
        calibrate_noise_multiplier(_step(), 10, epsilon=1e-4, delta=1e-13, accountant="rdp")


@pytest.mark.parametrize(("steps", "delta"), [(100_000, 1e-13), (4, 1e-20), (1, 1e-300)])
def test_a_delta_that_rounding_uses_up_is_said_whatever_is_sought(steps, delta):
    """No noise helps then, and no fewer steps or records: "no noise up to 1e+12 reaches epsilon" was no reason."""
    for seek in (
        lambda **more: calibrate_noise_multiplier(_step(), steps, epsilon=8.0, delta=delta, **more),
        lambda **more: calibrate_batch(lambda b: _step(b / 50, 500.0), 50, steps, epsilon=8.0, delta=delta, **more),
    ):
        with pytest.raises(Refused, match=r"below what double precision resolves .* use accountant 'rdp'"):
            seek()
        assert seek(accountant="rdp") > 0
    if delta < 1e-16:
        with pytest.raises(Refused, match="below what double precision resolves"):
            calibrate_steps(_step(), epsilon=8.0, delta=delta)


def test_a_delta_that_a_cap_uses_up_is_said():
    step = replace(_step(), draw=CappedPoissonDraw(sampling_prob=0.02, cap=25, num_records=1000))
    with pytest.raises(Refused, match="the cap is reached in some step uses up delta"):
        calibrate_noise_multiplier(step, 100, epsilon=8.0, delta=DELTA, accountant="rdp")
    with pytest.raises(Refused, match="the cap is reached in some step uses up delta"):
        calibrate_steps(step, epsilon=8.0, delta=DELTA, accountant="rdp")


@pytest.mark.parametrize(
    ("changes", "named"),
    [({"epsilon": 0.0}, "epsilon"), ({"epsilon": 2000.0}, "epsilon"), ({"epsilon": 1.0, "delta": 2.0}, "delta")],
)
def test_bad_targets(changes, named):
    with pytest.raises(BadInput, match=named):
        calibrate_noise_multiplier(_step(), 10, **({"delta": DELTA} | changes))
    with pytest.raises(BadInput, match="number of steps"):
        calibrate_noise_multiplier(_step(), 0, epsilon=1.0, delta=DELTA)
