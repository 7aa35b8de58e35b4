"""Each predicted term against its closed form, and against what it claims to predict."""

from dataclasses import replace

import numpy as np
import pytest
from tests.theory.cases import DATA, KEY, linear

from sfumato.base import BadInput, seeds
from sfumato.theory import (
    LEARNING_RATES,
    Spiked,
    from_population,
    predict,
    predict_each,
    privacy_floor,
    sampling_floor,
    simulate,
    sin_theta,
    statistical_error,
    with_best_learning_rate,
)

NOISY = Spiked(d1=30, d2=20, singular_values=(2.0, 1.0), noise=0.5, correlation=0.7)


def test_unclipped_terms_are_geometric() -> None:
    run = linear(noise_std=0.02, steps=40, learning_rate=0.02)
    terms = predict(run)
    keep = (1 - 0.02 * DATA.s) ** 40
    tangents = np.tan(0.3) ** 2 * keep**2
    floors = 0.02 * 0.02**2 / 2 / DATA.s**2 / (1 - 0.02 * DATA.s / 2) * 37
    assert terms.optimisation == pytest.approx(np.sum(tangents / (1 + tangents)), rel=0.02)
    assert terms.privacy == pytest.approx(np.sum(floors * (1 - keep**2) / (1 + tangents)), rel=0.02)
    assert terms.total == terms.optimisation + terms.privacy + terms.sampling + terms.statistical
    assert terms.clip_factor == 1.0
    assert terms.valid


def test_terms_tend_to_their_floors() -> None:
    run = linear(noise_std=0.02, steps=3000, learning_rate=0.004, num_groups=4, clip_norm=50.0)
    terms = predict(run)
    assert terms.optimisation < 1e-9
    assert terms.privacy == pytest.approx(privacy_floor(run), rel=0.02)
    assert terms.sampling == pytest.approx(sampling_floor(run), rel=0.02)
    assert terms.statistical == pytest.approx(statistical_error(run), rel=0.02)


def test_the_privacy_floor_is_the_papers_formula() -> None:
    run = linear(noise_std=0.1)
    assert privacy_floor(run) == pytest.approx(0.05 * 0.1**2 / 2 * 37 * (1 / 4 + 1 / 2.25 + 1), rel=1e-12)
    assert privacy_floor(run, factor=0.5) == pytest.approx(2 * privacy_floor(run), rel=1e-12)
    assert privacy_floor(replace(run, rho=2.0)) == pytest.approx(2 * privacy_floor(run), rel=1e-12)


def test_the_statistical_error_is_that_of_the_records_own_svd() -> None:
    run = linear(data=NOISY, num_records=2000)
    u1, u2, _, _ = NOISY.directions(KEY)
    rows = NOISY.records(KEY, u1, u2, (100, 2000))
    x, other = rows[..., :30] - rows[..., :30].mean(1, keepdims=True), rows[..., 30:]
    left = np.linalg.svd(np.swapaxes(x, 1, 2) @ other / 1999)[0][..., :2]
    squares = sin_theta(np.swapaxes(left, 1, 2), u1) ** 2
    assert statistical_error(run) == pytest.approx(float(squares.mean()), rel=0.05)


def test_the_sampling_term_is_what_draws_add_to_the_records_own_svd() -> None:
    run = linear(data=NOISY, noise_std=0.0, num_records=2000, batch_size=100, steps=200, start_angle=0.0)
    course = simulate(run, KEY, repeats=24, every=10)
    measured = np.mean(course.sin_theta[course.steps > 80] ** 2)
    terms = predict(run)
    assert terms.statistical > terms.sampling > 0.5 * terms.statistical
    assert terms.total == pytest.approx(float(measured), rel=0.06)


@pytest.mark.parametrize("rho", [0.5, 3.0])
def test_the_weight_of_the_penalty_enters_as_stated(rho: float) -> None:
    run = replace(linear(noise_std=0.05, steps=400, start_angle=0.0), rho=rho)
    course = simulate(run, KEY, repeats=32, every=20, population=True)
    measured = np.mean(course.sin_theta[course.steps > 100] ** 2)
    assert privacy_floor(run) == pytest.approx(float(measured), rel=0.06)


def test_an_unbalanced_minimiser_has_the_same_privacy_term() -> None:
    run = linear(noise_std=0.05, learning_rate=0.02)
    u1, u2, _, _ = DATA.directions(KEY)
    root = np.sqrt(DATA.s)[:, None]
    a = np.array([[1.4, 0.3, 0.0], [-0.2, 0.8, 0.3], [0.1, 0.0, 1.2]])
    g1 = np.broadcast_to(a @ (root * u1.T), (32, 3, 40)).copy()
    g2 = np.broadcast_to(np.linalg.inv(a).T @ (root * u2.T), (32, 3, 30)).copy()
    sums, rng, seen = from_population(run, DATA.cross_covariance(u1, u2)), seeds.generator(KEY), []
    for step in range(600):
        on = sums(step, g1, g2).layers
        g1, g2 = (g - 0.02 * (o + 0.05 * rng.standard_normal(g.shape)) for g, o in zip((g1, g2), on))
        seen.append(np.mean(sin_theta(g1, u1) ** 2))
    assert privacy_floor(run) == pytest.approx(np.mean(seen[200:]), rel=0.06)


INSIDE = {
    "early": linear(steps=20),
    "one group, rarely clipped": linear(noise_std=0.2, clip_norm=0.9, steps=150),
    "one group, always clipped": linear(noise_std=0.25, clip_norm=0.25, steps=150, learning_rate=0.02),
    "25 groups, always clipped": linear(noise_std=0.03, clip_norm=0.5, num_groups=25, steps=120, learning_rate=0.06),
    "groups of eight": linear(noise_std=0.01, clip_norm=0.5, num_groups=50, steps=80, learning_rate=0.1),
    "weak correlation": linear(data=NOISY, noise_std=0.05, steps=100),
}


@pytest.mark.parametrize("name", INSIDE)
def test_prediction_and_simulation_agree_inside_the_stated_range(name: str) -> None:
    run = INSIDE[name]
    terms, course = predict(run), simulate(run, KEY, repeats=16, every=10)
    late = float(np.sqrt(np.mean(course.sin_theta[-3:] ** 2))) if run.plan.steps > 50 else course.final
    assert terms.valid
    assert terms.sin_theta < 0.5
    assert late == pytest.approx(terms.sin_theta, rel=0.08)
    assert float(course.clip_factor[-3:].mean()) == pytest.approx(terms.clip_factor, rel=0.15)


def test_outside_of_it_the_prediction_is_too_small() -> None:
    """Noise that fills the subspace: sin Theta nears sqrt(r), and the expansion around the signal has no say."""
    run = linear(noise_std=0.7, clip_norm=0.5, steps=150)
    terms, course = predict(run), simulate(run, KEY, repeats=8, every=150)
    assert terms.sin_theta > 0.7
    assert course.final > 1.04 * terms.sin_theta
    assert float(course.clip_factor[-1].mean()) < 0.5 * terms.clip_factor


def test_a_rate_that_is_too_large_is_marked_and_not_chosen() -> None:
    run = linear(noise_std=0.0, clip_norm=50.0)
    rates = (0.1, 0.24, 0.26, 0.9, 5.0)
    assert [terms.valid for terms in predict_each(run, rates)] == [True, True, False, False, False]
    with pytest.raises(BadInput, match="none of the learning rates"):
        with_best_learning_rate(run, (0.9, 5.0))
    with pytest.raises(BadInput, match="must be positive"):
        predict_each(run, (0.1, 0.0))


def test_the_chosen_rate_is_the_best_of_the_grid() -> None:
    run = linear(noise_std=0.1, clip_norm=0.9, steps=100)
    chosen = with_best_learning_rate(run)
    each = zip(LEARNING_RATES, predict_each(run, LEARNING_RATES))
    totals = {rate: terms.total for rate, terms in each if terms.valid}
    assert totals[chosen.learning_rate] == min(totals.values())
    assert predict(chosen).total == pytest.approx(min(totals.values()), rel=1e-12)
    assert min(LEARNING_RATES) < chosen.learning_rate < max(LEARNING_RATES)
