"""Fixed-size and full-batch samplers: declared sizes, marginal and pairwise frequencies, errors."""

import numpy as np
import pytest
from scipy.stats import chisquare

from sfumato.base import BadInput, FixedSizeDraw, FullBatchDraw, Relation
from sfumato.base.seeds import derive
from sfumato.sampling import FixedSize, FullBatch

SEED = bytes(range(32))


def _masks(sampler, num_records, repeats):
    masks = np.zeros((repeats, num_records), bool)
    for i in range(repeats):
        masks[i, sampler.draw(derive(SEED, "draw", i), num_records)] = True
    return masks


@pytest.mark.parametrize("batch_size", [3, 20, 37])
def test_marginals_and_pairs(batch_size):
    """Every record with probability n/N; a pair with probability n(n-1)/N(N-1), below the product: no replacement."""
    num_records, repeats = 40, 4000
    masks = _masks(FixedSize(num_records=num_records, batch_size=batch_size), num_records, repeats)
    assert np.all(masks.sum(1) == batch_size)
    prob = batch_size / num_records
    deviation = np.sqrt(prob * (1 - prob) / repeats)
    assert np.abs(masks.mean(0) - prob).max() < 4.5 * deviation
    pair = prob * (batch_size - 1) / (num_records - 1)
    together = (masks[:, 0] & masks[:, 1]).mean()
    assert abs(together - pair) < 4.5 * np.sqrt(pair * (1 - pair) / repeats)


def test_positions_are_uniform_over_a_large_range():
    num_records = 10_000
    sampler = FixedSize(num_records=num_records, batch_size=500)
    drawn = np.concatenate([sampler.draw(derive(SEED, "large", i), num_records) for i in range(40)])
    counts = np.bincount(drawn // 100, minlength=100)
    assert chisquare(counts).pvalue > 1e-3


def test_facts_of_a_fixed_size_sampler():
    sampler = FixedSize(num_records=200, batch_size=50)
    assert sampler.draw_event == FixedSizeDraw(num_records=200, batch_size=50)
    assert sampler.default_relation is Relation.REPLACE_ONE
    assert (sampler.divisor, sampler.expected_batch_size, sampler.sampling_prob) == (50.0, 50.0, 0.25)


def test_full_batch():
    sampler = FullBatch(num_records=5)
    np.testing.assert_array_equal(sampler.draw(SEED, 5), np.arange(5))
    assert sampler.draw_event == FullBatchDraw(num_records=5)
    assert sampler.default_relation is Relation.REPLACE_ONE
    assert (sampler.divisor, sampler.expected_batch_size, sampler.sampling_prob) == (5.0, 5.0, 1.0)


@pytest.mark.parametrize("sampler", [FixedSize(num_records=10, batch_size=2), FullBatch(num_records=10)])
def test_another_size_of_data_set_is_refused(sampler):
    with pytest.raises(BadInput, match=r"declares num_records = 10, the data set has 11"):
        sampler.draw(SEED, 11)


@pytest.mark.parametrize("batch_size", [0, 11, 2.5])
def test_impossible_batch_sizes(batch_size):
    with pytest.raises(BadInput, match="batch_size"):
        FixedSize(num_records=10, batch_size=batch_size)
