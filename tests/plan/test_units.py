"""Distances of the units: those stated, those attained, and never one that is exceeded."""

import numpy as np
import pytest

from sfumato.base import BadInput
from sfumato.plan import Conjectured, Example, Unit


def _contribution(unit, gradient):
    """The clip rule of the docstring, on one gradient."""
    norm = np.linalg.norm(gradient)
    if not np.all(np.isfinite(gradient)):
        return np.zeros_like(gradient)
    factor = min(1.0, unit.clip_norm / norm) if unit.clip == "flat" else unit.clip_norm / (norm + unit.gamma)
    return factor * gradient


@pytest.mark.parametrize("clip", ["flat", "automatic"])
def test_example_distances(clip):
    """Presence and swap are attained by large, opposite gradients, and by nothing exceeded."""
    unit = Example(clip_norm=0.7, clip=clip, gamma=0.01)
    assert (unit.presence, unit.swap) == (0.7, 1.4)
    large = 1e6 * np.array([3.0, 4.0])
    one, other = _contribution(unit, large), _contribution(unit, -large)
    assert np.linalg.norm(one) == pytest.approx(unit.presence, rel=1e-6)
    assert np.linalg.norm(one - other) == pytest.approx(unit.swap, rel=1e-6)
    rng = np.random.default_rng(0)
    gradients = rng.normal(size=(2000, 3)) * 10.0 ** rng.uniform(-4, 4, size=(2000, 1))
    clipped = np.array([_contribution(unit, gradient) for gradient in gradients])
    assert np.linalg.norm(clipped, axis=1).max() <= unit.presence * (1 + 1e-12)
    assert np.linalg.norm(clipped[1:] - clipped[:-1], axis=1).max() <= unit.swap * (1 + 1e-12)
    assert not _contribution(unit, np.array([np.nan, 1.0])).any()


def test_units_follow_the_protocol():
    for unit in (Example(clip_norm=1.0), Conjectured(rule="top-k", presence=1.0, swap=1.5)):
        assert isinstance(unit, Unit)
        assert unit.largest_mean(100.0) == 1.0
    assert Example(clip_norm=1.0).proved
    assert not Conjectured(rule="top-k", presence=1.0, swap=1.5).proved


def test_descriptions():
    assert "min(1, C/norm), C = 2" in Example(clip_norm=2.0).describe()
    assert "C/(norm + 0.05)" in Example(clip_norm=2.0, clip="automatic", gamma=0.05).describe()
    described = Conjectured(rule="keep the largest half", presence=1.0, swap=1.5).describe()
    assert "keep the largest half" in described
    assert "not proved" in described


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"clip_norm": 0.0}, "clip_norm"),
        ({"clip_norm": float("inf")}, "clip_norm"),
        ({"clip_norm": "1"}, "clip_norm"),
        ({"clip_norm": True}, "clip_norm"),
        ({"clip_norm": 1.0, "gamma": 0.0}, "gamma"),
        ({"clip_norm": 1.0, "clip": "adaptive"}, "clip"),
    ],
)
def test_impossible_examples(fields, named):
    with pytest.raises(BadInput, match=named):
        Example(**fields)


@pytest.mark.parametrize(
    "fields", [{"presence": 0.0}, {"swap": -1.0}, {"swap": float("nan")}, {"rule": " "}, {"rule": None}]
)
def test_impossible_conjectures(fields):
    with pytest.raises(BadInput, match=next(iter(fields))):
        Conjectured(**({"rule": "x", "presence": 1.0, "swap": 2.0} | fields))
