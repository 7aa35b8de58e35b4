"""The closed form of one step's pair against dp_accounting's, and where that one's digits end."""

import numpy as np
import pytest
from dp_accounting.pld import privacy_loss_mechanism as lib

from sfumato.accounting.pair import deviation, divergence, gaussian_epsilon, range_of_losses

ADJACENCY = {"remove": lib.AdjacencyType.REMOVE, "add": lib.AdjacencyType.ADD, "replace": lib.AdjacencyType.REPLACE}


@pytest.mark.parametrize("direction", ADJACENCY)
@pytest.mark.parametrize("prob", [1e-7, 1e-3, 0.3, 1.0 - 1e-9, 1.0])
@pytest.mark.parametrize("multiplier", [0.02, 0.1, 0.8, 10.0, 1e3, 1e5])
def test_divergence_is_that_of_the_library(multiplier, prob, direction):
    """To the library's own rounding, over the whole range of losses; what is left out below zero is added again."""
    low, high = range_of_losses(multiplier, prob, direction)
    assert low <= 0.0 < high
    epsilons = np.linspace(low, high, 60)
    found = divergence(epsilons, multiplier, prob, direction) + np.maximum(0.0, -np.expm1(np.minimum(epsilons, 0.0)))
    other = lib.GaussianPrivacyLoss(multiplier, sampling_prob=prob, adjacency_type=ADJACENCY[direction])
    np.testing.assert_allclose(found, other.get_delta_for_epsilon(epsilons), rtol=0.0, atol=1e-12)


@pytest.mark.parametrize("direction", ADJACENCY)
def test_small_losses_keep_their_digits(direction):
    """At twice the noise all losses are halved: so is the divergence, to ten digits and not to 1e-16 of one."""
    prob, multiplier = 1e-4, 1e9
    epsilons = np.linspace(-5.0, 5.0, 41) * deviation(multiplier, prob, direction)
    one = divergence(epsilons, multiplier, prob, direction)
    half = divergence(epsilons / 2.0, 2.0 * multiplier, prob, direction)
    assert one.max() < 1e-12
    np.testing.assert_allclose(half, one / 2.0, rtol=1e-6)  # a next term is a multiple of 1 / multiplier
    np.testing.assert_allclose(np.diff(half, 2), np.diff(one, 2) / 2.0, rtol=1e-5)


@pytest.mark.parametrize("distance", [1e-9, 1e-4, 0.1, 3.0, 50.0])
@pytest.mark.parametrize("delta", [1e-3, 1e-9, 1e-15])
def test_epsilon_of_a_gaussian_is_rounded_up_and_hardly(distance, delta):
    found = gaussian_epsilon(distance, delta)
    at, below = divergence(np.array([found, found * (1 - 1e-8)]), 1.0 / distance, 1.0, "remove")
    assert at <= delta
    assert found == 0.0 or below > delta
