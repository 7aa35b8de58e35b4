"""Release: the noise it adds, and that nothing else makes a `Released`."""

import copy
import dataclasses
import pickle
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from scipy import stats

from sfumato.base import Refused
from sfumato.mechanisms import Clipped, Released, release


@dataclass(frozen=True)
class Noise:
    noise_std: float = 2.0
    divisor: float = 10.0
    presence: float | None = 1.0
    swap: float | None = 2.0


KEY = bytes(range(32))


def _clipped(dtype=torch.float32, size=40_000, names="ab"):
    sums = {name: torch.full((size // 4, 4), 3.0, dtype=torch.float64) for name in names}
    return Clipped(sums=sums, dtypes=dict.fromkeys(sums, dtype), presence=1.0, swap=2.0)


def test_noise_is_normal_with_the_plans_std_over_its_divisor():
    for grad in release(_clipped(), Noise(), KEY).grads.values():
        assert grad.shape == (10_000, 4)
        standardised = (grad.double().flatten().numpy() * 10.0 - 3.0) / 2.0
        assert stats.kstest(standardised, "norm").pvalue > 1e-3


def test_parameters_of_one_shape_get_independent_noise():
    """One key for all parameters gives equal leaves the same noise."""
    one, two = (g.flatten().numpy() for g in release(_clipped(), Noise(), KEY).grads.values())
    assert abs(np.corrcoef(one, two)[0, 1]) < 0.03
    assert not np.array_equal(np.sort(one), np.sort(two))


def test_noise_is_a_function_of_key_and_name():
    first, again = release(_clipped(), Noise(), KEY).grads, release(_clipped(names="ba"), Noise(), KEY).grads
    other = release(_clipped(), Noise(), bytes(32)).grads
    assert all(torch.equal(first[name], again[name]) for name in "ab")
    assert abs(np.corrcoef(first["a"].flatten(), other["a"].flatten())[0, 1]) < 0.03


def test_noise_is_drawn_and_added_in_float64():
    """The cast to the parameter's dtype comes last: a sum of 2^30 keeps its noise to the last bit of float64."""
    sums = {"a": torch.full((1000,), 2.0**30, dtype=torch.float64)}
    clipped = Clipped(sums=sums, dtypes={"a": torch.float64}, presence=1.0, swap=2.0)
    noise = release(clipped, Noise(divisor=1.0), KEY).grads["a"] - 2.0**30
    assert noise.dtype == torch.float64
    assert len(noise.unique()) == 1000
    assert float(noise.std()) == pytest.approx(2.0, rel=0.1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_gradient_has_the_parameters_dtype(dtype):
    assert release(_clipped(dtype, size=8), Noise(), KEY).grads["a"].dtype == dtype


def test_the_sum_is_left_as_it_was():
    clipped = _clipped(size=8)
    release(clipped, Noise(), KEY)
    assert bool((clipped.sums["a"] == 3.0).all())


@pytest.mark.parametrize("plan", [Noise(presence=2.0), Noise(swap=1.0), Noise(presence=None, swap=None)])
def test_distances_other_than_the_plans_are_refused(plan):
    with pytest.raises(Refused, match="the plan accounts for"):
        release(_clipped(size=8), plan, KEY)


def test_nothing_else_makes_a_released():
    real = release(_clipped(size=8), Noise(), KEY)
    with pytest.raises(TypeError):
        Released(grads={}, token=object())
    with pytest.raises(TypeError):
        Released(grads={})
    with pytest.raises((TypeError, ValueError)):
        dataclasses.replace(real, grads={})
    for forge in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match="neither copied nor pickled"):
            forge(real)
    with pytest.raises(TypeError, match="final"):
        type("Mine", (Released,), {})


def test_a_released_cannot_be_changed():
    real = release(_clipped(size=8), Noise(), KEY)
    with pytest.raises(dataclasses.FrozenInstanceError):
        real.grads = {}
    with pytest.raises(TypeError):
        real.grads["a"] = torch.zeros(1)


def test_neither_type_shows_its_tensors():
    clipped = _clipped(size=8)
    assert "tensor" not in repr(clipped)
    assert "tensor" not in repr(release(clipped, Noise(), KEY))
