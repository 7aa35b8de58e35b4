"""The private step against a plain loop, and against the plan's promises: clip rule, distance, noise."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.theory.cases import KEY, linear

from sfumato.base import BadInput, seeds
from sfumato.mechanisms import clip_factor
from sfumato.plan import Example, Group
from sfumato.sampling import FixedSize, Poisson
from sfumato.theory import Spiked, Sums, centred_cross_covariance, from_population, from_records, gradients, simulate
from sfumato.theory.update import group_gradients

SMALL = Spiked(d1=8, d2=6, singular_values=(2.0, 1.0), noise=0.5)


def layers(repeats: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((repeats, 2, 8)), rng.standard_normal((repeats, 2, 6))


def one_group(g1: np.ndarray, g2: np.ndarray, rows: np.ndarray, factor, rho: float = 1.0) -> list[np.ndarray]:
    """The clipped gradient of one group, as the paper writes it."""
    if len(rows) < 2:
        return [np.zeros_like(g1), np.zeros_like(g2)]
    on = gradients(g1, g2, centred_cross_covariance(rows[:, :8], rows[:, 8:]), rho)
    norm = np.sqrt(sum(np.sum(o**2) for o in on))
    return [o * float(factor(torch.tensor([norm], dtype=torch.float64))[0]) for o in on]


def test_group_gradients_are_those_of_each_group_whatever_pads_it() -> None:
    rng = np.random.default_rng(1)
    g1, g2 = layers(2)
    rows, sizes = rng.standard_normal((2, 3, 5, 14)), np.array([[5, 2, 4], [3, 5, 2]])
    on_1, on_2 = group_gradients(g1, g2, rows, sizes, 0.7)
    for repeat in range(2):
        for group in range(3):
            own = rows[repeat, group, : sizes[repeat, group]]
            s = centred_cross_covariance(own[:, :8], own[:, 8:])
            expected = gradients(g1[repeat], g2[repeat], s, 0.7)
            assert np.allclose(on_1[repeat, group], expected[0], rtol=1e-12, atol=1e-12)
            assert np.allclose(on_2[repeat, group], expected[1], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("num_groups", "clip_norm"), [(1, 0.5), (4, 3.0), (60, 0.5)])
def test_the_sum_is_the_loop_over_drawn_groups(num_groups: int, clip_norm: float) -> None:
    run = linear(data=SMALL, num_records=100, batch_size=40, num_groups=num_groups, clip_norm=clip_norm)
    records = np.random.default_rng(2).standard_normal((3, 100, 14))
    g1, g2 = layers(3)
    for step in (0, 7):
        found = from_records(run, records, KEY)(step, g1, g2)
        drawn = Poisson(sampling_prob=0.4).draw(seeds.derive(KEY, "draw", step), 300)
        ids = seeds.integers(seeds.derive(KEY, "group", step), len(drawn), num_groups)
        for repeat in range(3):
            mine = drawn // 100 == repeat
            own = [records[repeat, drawn[mine & (ids == group)] % 100] for group in range(num_groups)]
            if num_groups == 60:
                assert min(map(len, own)) == 0
            parts = [one_group(g1[repeat], g2[repeat], rows, clip_factor(run.unit)) for rows in own]
            assert np.allclose(found.layers[0][repeat], sum(part[0] for part in parts), atol=1e-11)
            assert np.allclose(found.layers[1][repeat], sum(part[1] for part in parts), atol=1e-11)


def test_steps_and_repeats_draw_differently() -> None:
    run = linear(data=SMALL, num_records=100, batch_size=40)
    g1, g2 = (np.broadcast_to(layer, (2, *layer.shape[1:])) for layer in layers(1))
    records = np.broadcast_to(np.random.default_rng(2).standard_normal((1, 100, 14)), (2, 100, 14)).copy()
    first, second = (from_records(run, records, KEY)(step, g1, g2).layers[0] for step in (0, 1))
    assert not np.allclose(first[0], second[0])
    assert not np.allclose(first[0], first[1])


def test_a_joining_record_moves_the_sum_by_up_to_the_plan_s_presence() -> None:
    run = linear(data=SMALL, num_records=3, batch_size=3, clip_norm=0.5)
    g1, g2 = layers(1)
    rng, largest = np.random.default_rng(5), 0.0
    for _ in range(200):
        rows = rng.standard_normal((3, 14))
        rows[2] *= 10.0 ** rng.uniform(0, 3)
        whole, without = (one_clipped(run, g1, g2, own) for own in (rows, rows[:2]))
        largest = max(largest, float(np.linalg.norm(whole - without)))
    assert largest <= run.plan.presence
    assert largest > 0.8 * run.plan.presence
    one = 100 * rng.standard_normal(14)
    turned = one * np.repeat([100, -100], [8, 6])  # two views that contradict what the others agree on
    whole, without = (one_clipped(run, g1, g2, own) for own in (np.stack([one, -one, turned]), np.stack([one, -one])))
    assert 0.99 * run.plan.presence < float(np.linalg.norm(whole - without)) <= run.plan.presence


def one_clipped(run, g1, g2, rows) -> np.ndarray:
    own = replace(run, plan=replace(run.plan, sampler=Poisson(num_records=len(rows), expected_batch_size=len(rows))))
    found = from_records(own, rows[None], KEY)(0, g1, g2)
    return np.concatenate([layer.ravel() for layer in found.layers])


def test_the_population_is_the_gradient_at_s_for_every_group() -> None:
    run = linear(data=SMALL, num_groups=5, clip_norm=1e6)
    g1, g2 = layers(2)
    s = np.random.default_rng(0).standard_normal((8, 6))
    found = from_population(run, s)(0, g1, g2)
    assert np.allclose(found.layers[0], 5 * gradients(g1, g2, s, 1.0)[0])
    tight = linear(data=SMALL, num_groups=5, clip_norm=0.01)
    on_1, on_2 = from_population(tight, s)(0, g1, g2).layers
    norms = np.sqrt(np.square(on_1).sum((1, 2)) + np.square(on_2).sum((1, 2)))
    assert np.allclose(norms, 5 * 0.01 * (1 - 1e-3))


def test_noise_is_the_plan_s_on_the_mean_over_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    run = linear(data=SMALL, num_groups=4, clip_norm=3.0, noise_std=0.2, steps=1, learning_rate=0.5)
    assert run.plan.presence == 6.0
    assert run.noise_std == pytest.approx(0.2)
    seen = []
    monkeypatch.setattr("sfumato.theory.course.sin_theta", lambda layer, u: seen.append(layer) or np.ones(len(layer)))
    simulate(run, KEY, repeats=4000, population=True)
    simulate(linear(data=SMALL, noise_std=0.0, steps=1, learning_rate=0.5), KEY, repeats=1, population=True)
    for noisy, clean in ((seen[0], seen[2]), (seen[1], seen[3])):
        assert np.std(noisy - clean) == pytest.approx(0.5 * 0.2, rel=0.02)
        assert np.abs(np.mean(noisy - clean, axis=0)).max() < 0.01
    assert abs(np.corrcoef(seen[0][:, 0, 0], seen[1][:, 0, 0])[0, 1]) < 0.1


def test_a_run_is_a_function_of_setting_and_key() -> None:
    run = linear(data=SMALL, steps=5, num_records=100, batch_size=40)
    first, again, other = (simulate(run, key, repeats=2).sin_theta for key in (KEY, KEY, seeds.derive(KEY, "b")))
    assert np.array_equal(first, again)
    assert not np.allclose(first, other)
    assert first.shape == (5, 2)


def test_measured_steps_end_with_the_last() -> None:
    run = linear(data=SMALL, steps=7, num_records=100, batch_size=40)
    assert simulate(run, KEY, repeats=1, every=3).steps.tolist() == [3, 6, 7]
    assert np.isnan(simulate(run, KEY, repeats=1).final_error)


def test_what_was_not_derived_is_refused() -> None:
    run = linear(data=SMALL)
    with pytest.raises(BadInput, match="unit Group with flat"):
        replace(run, plan=replace(run.plan, unit=Example(clip_norm=1.0)))
    with pytest.raises(BadInput, match="unit Group with flat"):
        replace(run, plan=replace(run.plan, unit=Group(clip_norm=1.0, num_groups=1, clip="automatic")))
    with pytest.raises(BadInput, match="Poisson"):
        replace(run, plan=replace(run.plan, sampler=FixedSize(num_records=10, batch_size=5), relation=None))
    with pytest.raises(BadInput, match="no noise yet"):
        replace(run, plan=replace(run.plan, noise_multiplier=None))
    with pytest.raises(BadInput, match="learning_rate"):
        replace(run, learning_rate=0.0)
    with pytest.raises(BadInput, match="start_angle"):
        replace(run, start_angle=1.6)
    with pytest.raises(BadInput, match="repeats and every"):
        simulate(run, KEY, repeats=0)


def test_weights_that_explode_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def explode(step: int, g1: np.ndarray, g2: np.ndarray) -> Sums:
        return Sums(layers=(g1 * np.inf, g2), factor=np.ones(len(g1)))

    monkeypatch.setattr("sfumato.theory.course.from_population", lambda run, s: explode)
    run = linear(data=SMALL, learning_rate=50.0)
    with np.errstate(invalid="ignore"), pytest.raises(BadInput, match="learning_rate 50 is too large"):
        simulate(run, KEY, repeats=1, population=True)
