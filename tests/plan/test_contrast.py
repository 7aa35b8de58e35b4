"""The bounds of pair losses: golden values, growth in n, and attacks at the level of similarities.

A neighbour moves the sum by at most B times: |D| over the new row and column plus |D' - D| over old pairs. Here the
attack chooses Z freely in [-1, 1], so what it finds is the bound that the proofs speak of.
"""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sfumato.base import BadInput, Refused
from sfumato.plan import ConjecturedLoss, InfoNCE, Pair, Plan, Sigmoid, SpreadOut
from sfumato.sampling import Poisson

LOSSES = [
    *(InfoNCE(temperature=tau, symmetric=both) for tau in (1.0, 0.5, 0.2) for both in (False, True)),
    *(Sigmoid(temperature=tau, bias=bias) for tau in (1.0, 0.5, 0.2) for bias in (0.0, -2.0)),
    SpreadOut(),
]


def weights(loss, z: np.ndarray) -> np.ndarray:
    """dL / dZ written out by hand."""
    n = len(z)
    if n == 0:
        return z
    if isinstance(loss, InfoNCE):
        rows = softmax(z / loss.temperature, 1) - np.eye(n)
        columns = softmax(z / loss.temperature, 0) - np.eye(n)
        return ((rows + columns) / 2 if loss.symmetric else rows) / loss.temperature
    if isinstance(loss, Sigmoid):
        y = 2 * np.eye(n) - 1
        return -y / loss.temperature / (1 + np.exp(y * (z / loss.temperature + loss.bias)))
    return 2 * z * (1 - np.eye(n)) / max(n - 1, 1)


def softmax(x: np.ndarray, axis: int) -> np.ndarray:
    e = np.exp(x - x.max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)


def joining(loss, z: np.ndarray) -> float:
    """What the last record moves in units of B, if pair gradients may point anywhere."""
    after = weights(loss, z)
    before = weights(loss, z[:-1, :-1])
    return np.abs(after[-1]).sum() + np.abs(after[:-1, -1]).sum() + np.abs(after[:-1, :-1] - before).sum()


def exchanging(loss, one: np.ndarray, two: np.ndarray) -> float:
    """The same where the last record is exchanged: `two` differs in the last row and column."""
    a, b = weights(loss, one), weights(loss, two)
    row = np.abs(a[-1]).sum() + np.abs(b[-1]).sum() + np.abs(a[:-1, -1]).sum() + np.abs(b[:-1, -1]).sum()
    return row + np.abs(a[:-1, :-1] - b[:-1, :-1]).sum()


def worst(n: int) -> np.ndarray:
    """u_i = u, v_i = -u for i < n; u_n = -u, v_n = u."""
    u = np.array([*[1.0] * (n - 1), -1.0])
    v = np.array([*[-1.0] * (n - 1), 1.0])
    return np.outer(u, v)


@pytest.mark.parametrize(("tau", "want"), [(1.0, 0.1575), (0.5, 1.448), (0.2, 9.956)])
def test_published_recipe_claims_less_than_is_attained(tau: float, want: float) -> None:
    """n = 100, mean loss, B = 1: the figures of PAPERS section 2, and the public code's formula below them."""
    loss, n = InfoNCE(temperature=tau, symmetric=False), 100
    attained = joining(loss, worst(n)) / n
    assert attained == pytest.approx(want, rel=5e-4)
    assert attained <= loss.joining(n) / n * (1 + 1e-12)
    assert {1.0: 0.1489, 0.5: 0.721, 0.2: 2.001}[tau] < attained


@pytest.mark.parametrize("loss", [loss for loss in LOSSES if isinstance(loss, InfoNCE)], ids=str)
@pytest.mark.parametrize("n", [2, 3, 8, 64])
def test_joining_is_attained(loss: InfoNCE, n: int) -> None:
    assert joining(loss, worst(n)) == pytest.approx(loss.joining(n), rel=1e-9)


@pytest.mark.parametrize("loss", LOSSES, ids=str)
def test_random_and_extreme_similarities_stay_below(loss) -> None:
    rng = np.random.default_rng(0)
    for n in (1, 2, 3, 5, 9):
        for trial in range(60):
            z = rng.uniform(-1, 1, (n, n)) if trial % 2 else rng.choice([-1.0, 1.0], (n, n))
            other = z.copy()
            other[-1] = rng.choice([-1.0, 1.0], n)
            other[:, -1] = rng.choice([-1.0, 1.0], n)
            assert joining(loss, z) <= loss.joining(n) * (1 + 1e-12) + 1e-12
            assert exchanging(loss, z, other) <= loss.exchanging(n) * (1 + 1e-12) + 1e-12


@pytest.mark.parametrize("loss", LOSSES, ids=str)
def test_climbing_does_not_pass_the_bounds(loss) -> None:
    """Coordinate ascent over all signs from random starts: the largest movement that it finds."""
    rng, n = np.random.default_rng(1), 5
    best_join = best_exchange = 0.0
    for _ in range(4):
        z, other = (rng.choice([-1.0, 1.0], (n, n)) for _ in range(2))
        for _ in range(3):
            for i, j in np.ndindex(n, n):
                z = max((with_entry(z, i, j, s) for s in (-1.0, 1.0)), key=lambda x: joining(loss, x))
        best_join = max(best_join, joining(loss, z))
        for _ in range(3):
            for i, j in np.ndindex(n, n):
                pick = [(with_entry(z, i, j, s), other) for s in (-1.0, 1.0)]
                pick += [(z, with_entry(other, i, j, s)) for s in (-1.0, 1.0)]
                z, other = max(((a, shared(a, b)) for a, b in pick), key=lambda pair: exchanging(loss, *pair))
        best_exchange = max(best_exchange, exchanging(loss, z, other))
    assert best_join <= loss.joining(n) * (1 + 1e-12)
    assert best_exchange <= loss.exchanging(n) * (1 + 1e-12)
    assert best_join >= 0.66 * loss.joining(n), "the attack is too weak to say anything"
    assert best_exchange >= 0.66 * loss.exchanging(n), "the attack is too weak to say anything"


def with_entry(z: np.ndarray, i: int, j: int, value: float) -> np.ndarray:
    z = z.copy()
    z[i, j] = value
    return z


def shared(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    """`two` with the pairs of the records that both data sets have."""
    two = two.copy()
    two[:-1, :-1] = one[:-1, :-1]
    return two


@settings(deadline=None, max_examples=60)
@given(st.floats(0.05, 5.0), st.integers(1, 10_000), st.booleans())
def test_bounds_grow_with_n_to_those_for_every_n(tau: float, n: int, both: bool) -> None:
    loss = InfoNCE(temperature=tau, symmetric=both)
    for bound in (loss.joining, loss.exchanging):
        assert bound(n) <= bound(n + 1) * (1 + 1e-12) <= bound(None) * (1 + 1e-9)
    assert loss.joining(n) <= loss.exchanging(n) <= 2 * loss.joining(n) * (1 + 1e-12)
    assert loss.joining(None) == pytest.approx((2 + 2 * math.exp(2 / tau)) / tau)
    assert loss.exchanging(None) == pytest.approx((4 + 2 * math.exp(2 / tau)) / tau)


def test_mask_of_near_duplicates_would_break_the_bound() -> None:
    """Why plain losses only: a joining record that masks others out of their softmax moves far more."""
    n, loss = 200, InfoNCE(temperature=1.0, symmetric=False)
    z = np.ones((n, n))
    before = softmax(z[:-1, :-1], 1)
    masked = np.where(np.arange(n - 1)[None] == np.arange(n - 1)[:, None], 1.0, 0.0)  # all others count as duplicates
    assert np.abs(masked - before).sum() > 10 * loss.joining(n)


def test_what_has_no_bound_is_refused() -> None:
    assert Sigmoid(temperature=0.1).joining(None) == math.inf
    with pytest.raises(BadInput, match="temperature"):
        InfoNCE(temperature=0.0)
    with pytest.raises(BadInput, match="too small"):
        InfoNCE(temperature=0.001)
    with pytest.raises(BadInput, match="bias"):
        Sigmoid(temperature=1.0, bias=math.nan)


def test_claims_of_a_conjectured_loss_are_charged_but_never_proved() -> None:
    loss = ConjecturedLoss(rule="cubes", join=9.0, exchange=12.0, weight=3.0)
    unit = Pair(clip_norm=0.5, loss=loss)
    assert (unit.presence, unit.swap, unit.proved) == (4.5, 6.0, False)
    assert Pair(clip_norm=0.5, loss=InfoNCE(temperature=1.0)).proved
    plan = Plan(
        unit=unit, sampler=Poisson(num_records=100, expected_batch_size=10, cap=40), steps=2, noise_multiplier=1.0
    )
    assert plan.noise_std == 4.5
    assert Plan.from_json(plan.to_json()) == plan
    with pytest.raises(Refused, match="cubes"):
        plan.epsilon()
    for wrong in ({"join": 0.0}, {"rule": " "}):
        with pytest.raises(BadInput):
            ConjecturedLoss(**{"rule": "x", "join": 1.0, "exchange": 1.0, **wrong})
