"""Clip factors: below the clip norm for every norm, zero for what is not finite."""

import pytest
import torch

from sfumato.base import BadInput
from sfumato.mechanisms import automatic, flat
from sfumato.mechanisms.clip import MARGIN

NORMS = torch.tensor([0.0, 1e-38, 1e-8, 0.5, 0.998, 0.999, 1.0, 1.001, 3.0, 1e4, 1e30, 3e38])


@pytest.mark.parametrize("clip_norm", [1e-3, 1.0, 250.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("rule", [flat, automatic])
def test_nobody_passes_the_clip_norm(rule, dtype, clip_norm):
    norms = NORMS.to(dtype) * clip_norm
    norms = norms[norms.isfinite()]
    reached = rule(clip_norm)(norms).double() * norms.double()
    assert float(reached.max()) <= clip_norm * (1 - MARGIN) * (1 + 1e-6)
    assert float(reached.max()) > clip_norm * 0.99


@pytest.mark.parametrize("rule", [flat, automatic])
def test_what_is_not_finite_weighs_exactly_zero(rule):
    factors = rule(1.0)(torch.tensor([float("inf"), float("-inf"), float("nan")]))
    assert factors.tolist() == [0.0, 0.0, 0.0]


def test_flat_keeps_short_gradients():
    assert flat(2.0)(torch.tensor([0.0, 1.0, 1.99])).tolist() == [1.0, 1.0, 1.0]


def test_automatic_brings_all_to_nearly_one_length():
    norms = torch.tensor([0.1, 1.0, 100.0])
    expected = norms / (norms + 0.01) * (1 - MARGIN)
    assert torch.allclose(automatic(1.0, 0.01)(norms) * norms, expected)


@pytest.mark.parametrize("wrong", [0.0, -1.0, float("nan"), float("inf")])
def test_clip_norm_and_gamma_are_positive_and_finite(wrong):
    for make in (flat, automatic, lambda value: automatic(1.0, value)):
        with pytest.raises(BadInput):
            make(wrong)
