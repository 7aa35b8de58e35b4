import numpy as np
import pytest
from tests.theory.cases import DATA, KEY

from sfumato.base import BadInput
from sfumato.theory import Spiked, sin_theta, spaced


def test_records_have_the_stated_covariances() -> None:
    data = Spiked(d1=8, d2=6, singular_values=(2.0, 1.0), noise=0.5, correlation=0.8)
    u1, u2, _, _ = data.directions(KEY)
    rows = data.records(KEY, u1, u2, (400_000,))
    x, other = rows[:, :8], rows[:, 8:]
    assert np.allclose(x.T @ other / len(rows), data.cross_covariance(u1, u2), atol=0.02)
    own = (u1 * data.s / 0.8) @ u1.T + 0.25 * np.eye(8)
    assert np.allclose(x.T @ x / len(rows), own, atol=0.02)
    assert np.allclose(other.T @ other / len(rows), (u2 * data.s / 0.8) @ u2.T + 0.25 * np.eye(6), atol=0.02)


def test_the_population_s_svd_is_its_model() -> None:
    u1, u2, beside, _ = DATA.directions(KEY)
    left, values, right = np.linalg.svd(DATA.cross_covariance(u1, u2))
    assert np.allclose(values[:3], DATA.s)
    assert np.allclose(values[3:], 0.0)
    assert float(sin_theta(left[:, :3].T, u1)) < 1e-7
    assert float(sin_theta(right[:3], u2)) < 1e-7
    assert np.allclose(u1.T @ beside, 0.0)


def test_sin_theta_is_that_of_the_angles() -> None:
    u1, _, beside, _ = DATA.directions(KEY)
    angles = np.array([0.1, 0.4, 1.2])
    mixed = np.random.default_rng(0).standard_normal((2, 3, 3)) @ (np.cos(angles) * u1 + np.sin(angles) * beside).T
    assert np.allclose(sin_theta(mixed, u1), np.sqrt(np.sum(np.sin(angles) ** 2)))
    tiny = (u1 + 1e-9 * beside).T
    assert float(sin_theta(tiny, u1)) == pytest.approx(np.sqrt(3) * 1e-9, rel=1e-3)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"singular_values": ()}, "singular_values"),
        ({"singular_values": (1.0, 2.0)}, "must not rise"),
        ({"singular_values": (1.0, 0.0)}, "positive"),
        ({"d2": 3}, "at least 2 r = 4"),
        ({"noise": -0.1}, "noise"),
        ({"correlation": 1.1}, "correlation"),
    ],
)
def test_impossible_data_are_named(change: dict, words: str) -> None:
    fields = {"d1": 8, "d2": 6, "singular_values": (2.0, 1.0), "noise": 0.5}
    with pytest.raises(BadInput, match=words):
        Spiked(**{**fields, **change})


def test_spaced() -> None:
    assert spaced(5) == (2.0, 1.75, 1.5, 1.25, 1.0)
    with pytest.raises(BadInput, match="rank"):
        spaced(0)
