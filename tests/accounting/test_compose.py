"""The grid and the composition: against dp_accounting's own, against direct convolution, and bounded in size."""

import itertools
import math
import tracemalloc

import numpy as np
import pytest
from dp_accounting.pld import privacy_loss_distribution as lib
from dp_accounting.pld.pld_pmf import DensePLDPmf
from hypothesis import given, settings
from hypothesis import strategies as st

from sfumato.accounting import compose as room
from sfumato.accounting.compose import compose
from sfumato.accounting.conventions import NeighborRel, PldTerms
from sfumato.accounting.epsilon import ROUNDING_PER_STEP
from sfumato.base import Refused

ADD, REPLACE = NeighborRel.ADD_OR_REMOVE_ONE, NeighborRel.REPLACE_ONE


def term(prob, multiplier, relation=ADD, **more):
    return PldTerms(noise_multiplier=multiplier, sampling_prob=prob, relation=relation, **more)


@pytest.mark.parametrize("relation", [ADD, REPLACE])
@pytest.mark.parametrize(("prob", "multiplier", "steps"), [(0.02, 0.8, 300), (0.3, 1.2, 20), (0.01, 0.5, 2000)])
def test_on_an_ordinary_grid_it_is_the_librarys(prob, multiplier, steps, relation):
    found = compose(((term(prob, multiplier, relation), steps),), 1e-3)
    other = lib.from_gaussian_mechanism(
        multiplier, value_discretization_interval=1e-3, sampling_prob=prob, neighboring_relation=relation
    ).self_compose(steps)
    for delta in (1e-3, 1e-6, 1e-9):
        assert found.epsilon(delta) == pytest.approx(other.get_epsilon_for_delta(delta), rel=2e-5)


@pytest.mark.parametrize("relation", [ADD, REPLACE])
def test_the_truncated_step_is_the_librarys(relation):
    found = compose(((term(0.05, 1.0, relation, truncation=(1000, 55)), 30),), 1e-3)
    other = lib.from_truncated_subsampled_gaussian_mechanism(
        1000, 0.05, 55, 1.0, value_discretization_interval=1e-3, neighboring_relation=relation
    ).self_compose(30)
    assert found.epsilon(1e-6) == pytest.approx(other.get_epsilon_for_delta(1e-6), rel=1e-6)


@settings(max_examples=25, deadline=None)
@given(
    width=st.floats(1e-9, 10.0),
    first=st.integers(-40, 300),
    masses=st.lists(st.floats(0.0, 1.0), min_size=2, max_size=60).filter(lambda masses: sum(masses) > 0.1),
    delta=st.sampled_from([1e-1, 1e-3, 1e-9]),
)
def test_epsilon_of_many_bins_at_once_is_that_of_one_by_one(width, first, masses, delta):
    probs = np.array(masses) / sum(masses)
    losses = DensePLDPmf(width, first, probs, delta / 3.0, True)
    found = room._epsilon(losses, delta)
    assert losses.get_delta_for_epsilon(found * (1 + 1e-9)) <= delta * (1 + 1e-6)
    assert found == 0.0 or losses.get_delta_for_epsilon(found * (1 - 1e-6) - 1e-300) >= delta * (1 - 1e-6)


@pytest.mark.parametrize(("prob", "multiplier", "width"), [(1e-3, 0.5, 1e-2), (1e-5, 0.4, 1e-2), (0.1, 1.0, 0.05)])
def test_rounding_is_within_its_charge(prob, multiplier, width):
    """Against a direct convolution, where the losses are few bins and the rounding of the transform is at its worst."""
    one = room._gaussian(multiplier, prob, width, "remove")
    direct, lower, steps = one._probs.copy(), one._lower_loss, 1
    while steps < 512 and len(direct) < 30_000:
        direct, lower, steps = np.convolve(direct, direct), 2 * lower, 2 * steps
        direct = direct[: int(np.flatnonzero(direct > 1e-40)[-1]) + 1]
    infinite = -math.expm1(steps * math.log1p(-one._infinity_mass))
    exact = DensePLDPmf(width, lower, direct, infinite, True)
    found = room._power(one, steps, 1e-18, 10**7)
    for loss in np.concatenate([[0.0], np.geomspace(width, 20.0, 12)]):
        too_small = exact.get_delta_for_epsilon(float(loss)) - found.get_delta_for_epsilon(float(loss))
        assert too_small <= ROUNDING_PER_STEP * steps


EXTREMES = list(itertools.product((1e-7, 1e-2, 0.5), (0.05, 1.0, 1e5), (30, 10**7)))


@pytest.mark.parametrize(("prob", "multiplier", "steps"), EXTREMES)
def test_no_input_takes_more_than_its_share_of_memory(prob, multiplier, steps):
    tracemalloc.start()
    try:
        found = compose(((term(prob, multiplier), steps),), 1e-3)
        assert found.present.size <= room._MAX_BINS
        assert found.epsilon(1e-6) >= 0.0
    except Refused:
        assert multiplier < 10.0, "only what no claim can be made of is refused"
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 200e6


def test_the_grid_follows_the_losses():
    """A finer one does not change the figure, a coarser one does; it is never coarser than what is asked for."""
    small = ((term(0.0085, 873.0), 2000),)
    assert compose(small, 1e-4).present._discretization < 1e-6
    assert compose(small, 1e-4).epsilon(1 / 600_000) == pytest.approx(
        compose(small, 1e-6).epsilon(1 / 600_000), rel=2e-4
    )
    assert compose(((term(0.02, 0.8), 300),), 1e-4).present._discretization == 1e-4
