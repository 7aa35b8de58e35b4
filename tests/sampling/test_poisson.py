"""Poisson draws: independent inclusions of the right frequency, exact edges, O(batch) work."""

import tracemalloc

import numpy as np
import pytest
from scipy.stats import binom, chisquare, kstest

import sfumato.sampling.poisson as poisson_module
from sfumato.base import BadInput, CappedPoissonDraw, PoissonDraw, Relation
from sfumato.base.seeds import derive
from sfumato.sampling import Poisson

SEED = bytes(range(32))
GOLDEN = [126, 314, 636, 671, 812, 860, 932]
GOLDEN_CAPPED = [314, 636, 671]


def _masks(sampler, num_records, repeats):
    masks = np.zeros((repeats, num_records), bool)
    for i in range(repeats):
        masks[i, sampler.draw(derive(SEED, "draw", i), num_records)] = True
    return masks


@pytest.mark.parametrize("prob", [0.05, 0.3, 0.9])
def test_inclusions_are_independent_with_the_declared_probability(prob):
    """Marginals, sizes, neighbouring and distant pairs. A gap that is off by one, or reused, fails here."""
    num_records, repeats = 30, 8000
    masks = _masks(Poisson(sampling_prob=prob), num_records, repeats)
    deviation = np.sqrt(prob * (1 - prob) / repeats)
    assert np.abs(masks.mean(0) - prob).max() < 4.5 * deviation
    correlations = np.corrcoef(masks.T.astype(float))[np.triu_indices(num_records, 1)]
    assert np.abs(correlations).max() < 5.0 / np.sqrt(repeats)
    observed = np.bincount(masks.sum(1), minlength=num_records + 1)
    expected = repeats * binom.pmf(np.arange(num_records + 1), num_records, prob)
    keep = expected > 5
    rest_observed, rest_expected = observed[~keep].sum(), expected[~keep].sum()
    scale = repeats / (expected[keep].sum() + rest_expected)
    result = chisquare(np.append(observed[keep], rest_observed), scale * np.append(expected[keep], rest_expected))
    assert result.pvalue > 1e-3


def test_steps_are_independent():
    """The same record in two steps: the product of the probabilities."""
    masks = _masks(Poisson(sampling_prob=0.2), 200, 400)
    both = (masks[1:] & masks[:-1]).mean()
    assert abs(both - 0.04) < 4.5 * np.sqrt(0.04 * 0.96 / masks[1:].size)


def test_gaps_follow_the_geometric_law():
    """The distribution of single gaps, tail included."""
    prob = 0.01
    gaps = poisson_module._gaps(derive(SEED, "law"), 200_000, prob, 10**9)
    assert gaps.min() == 1
    # A geometric variable minus a uniform one in (0, 1), mapped through the continuous law, is nearly uniform.
    smooth = gaps - np.random.default_rng(0).random(len(gaps))
    low, high = np.floor(smooth), np.floor(smooth) + 1
    fraction = smooth - low
    cdf = 1 - (1 - prob) ** low + ((1 - prob) ** low - (1 - prob) ** high) * fraction
    assert kstest(cdf, "uniform").pvalue > 1e-3
    far = 1000
    tail = (1 - prob) ** far
    assert abs((gaps > far).mean() - tail) < 4.5 * np.sqrt(tail / len(gaps))


def test_small_uniforms_reach_beyond_the_grid(monkeypatch):
    """The second uniform refines the first grid cell: a gap may be longer than log(2^-54) allows, and is capped."""
    monkeypatch.setattr(poisson_module, "uniforms", lambda key, count: np.array([2.0**-54, 2.0**-54]))
    gap = poisson_module._gaps(SEED, 1, 0.5, 10**6)
    assert gap.tolist() == [108]
    assert poisson_module._gaps(SEED, 1, 0.5, 50).tolist() == [50]


def test_the_largest_uniform_is_the_shortest_gap(monkeypatch):
    monkeypatch.setattr(poisson_module, "uniforms", lambda key, count: np.array([1 - 2.0**-54, 1 - 2.0**-54]))
    assert poisson_module._gaps(SEED, 1, 1e-9, 10**6).tolist() == [1]


def test_first_and_last_record_are_drawn_like_the_others():
    prob, repeats, num_records = 0.3, 6000, 7
    masks = _masks(Poisson(sampling_prob=prob), num_records, repeats)
    for index in (0, num_records - 1):
        assert abs(masks[:, index].mean() - prob) < 4.5 * np.sqrt(prob * (1 - prob) / repeats)


def test_probability_one_draws_everybody():
    sampler = Poisson(num_records=9, expected_batch_size=9)
    np.testing.assert_array_equal(sampler.draw(SEED, 9), np.arange(9))


def test_empty_draws_are_ordinary():
    drawn = Poisson(sampling_prob=1e-12).draw(SEED, 1000)
    assert drawn.shape == (0,)
    assert drawn.dtype == np.int64
    assert Poisson(sampling_prob=0.5).draw(SEED, 0).shape == (0,)


def test_draws_longer_than_one_block(monkeypatch):
    """Positions run on across blocks: no repeat, no hole at the seam."""
    monkeypatch.setattr(poisson_module, "_BLOCK_GAPS", 10)
    masks = np.zeros((2000, 60), bool)
    for i in range(len(masks)):
        drawn = Poisson(sampling_prob=0.5).draw(derive(SEED, "seam", i), 60)
        assert np.all(np.diff(drawn) > 0)
        masks[i, drawn] = True
    assert np.abs(masks.mean(0) - 0.5).max() < 4.5 * 0.5 / np.sqrt(len(masks))


def test_golden():
    assert Poisson(num_records=1000, expected_batch_size=8).draw(SEED, 1000).tolist() == GOLDEN
    assert Poisson(num_records=1000, expected_batch_size=8, cap=3).draw(SEED, 1000).tolist() == GOLDEN_CAPPED


def test_cap_keeps_a_uniform_subset_of_the_uncapped_draw():
    plain = Poisson(num_records=20, expected_batch_size=10)
    capped = Poisson(num_records=20, expected_batch_size=10, cap=8)
    masks = _masks(capped, 20, 5000)
    assert masks.sum(1).max() == 8
    for i in range(50):
        key = derive(SEED, "cap", i)
        full, kept = plain.draw(key, 20), capped.draw(key, 20)
        assert set(kept) <= set(full)
        assert len(kept) == min(8, len(full))
    # E[min(Bin(20, 1/2), 8)] / 20 for every record, the first as much as the last
    sizes = np.arange(21)
    mean = (np.minimum(sizes, 8) * binom.pmf(sizes, 20, 0.5)).sum() / 20
    assert np.abs(masks.mean(0) - mean).max() < 4.5 * np.sqrt(mean * (1 - mean) / len(masks))


def test_declared_records_and_hidden_records():
    public = Poisson(num_records=200, expected_batch_size=50)
    assert public.sampling_prob == 0.25
    assert public.default_relation is Relation.ZERO_OUT
    assert public.draw_event == PoissonDraw(sampling_prob=0.25)
    assert public.divisor == 50.0
    hidden = Poisson(sampling_prob=0.25, expected_batch_size=48)
    assert hidden.default_relation is Relation.ADD_REMOVE
    assert hidden.num_records is None
    assert hidden.divisor == 48.0
    assert len(hidden.draw(SEED, 123)) > 0  # any size of data set goes
    capped = Poisson(num_records=200, expected_batch_size=50, cap=80)
    assert capped.draw_event == CappedPoissonDraw(sampling_prob=0.25, num_records=200, cap=80)


def test_divisor_has_to_be_declared():
    with pytest.raises(BadInput, match="expected_batch_size"):
        _ = Poisson(sampling_prob=0.25).divisor


def test_another_size_of_data_set_is_refused():
    with pytest.raises(BadInput, match=r"declares num_records = 200, the data set has 199"):
        Poisson(num_records=200, expected_batch_size=50).draw(SEED, 199)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({}, "num_records"),
        ({"num_records": 10}, "expected_batch_size"),
        ({"expected_batch_size": 10}, "sampling_prob"),
        ({"num_records": 10, "expected_batch_size": 11}, "exceeds"),
        ({"num_records": 10, "expected_batch_size": 0}, "expected_batch_size"),
        ({"num_records": 10.5, "expected_batch_size": 2}, "num_records"),
        ({"num_records": 10, "expected_batch_size": 5, "sampling_prob": 0.4}, "contradicts"),
        ({"sampling_prob": 0.0}, "sampling_prob"),
        ({"sampling_prob": 1.5}, "sampling_prob"),
        ({"sampling_prob": 0.1, "cap": 5}, "cap"),
        ({"num_records": 10, "expected_batch_size": 5, "cap": 0}, "cap"),
    ],
)
def test_impossible_declarations(fields, named):
    with pytest.raises(BadInput, match=named):
        Poisson(**fields)


def test_work_grows_with_the_batch_not_with_the_data_set(monkeypatch):
    """Two random words per drawn record and a margin; and memory to match, at the size of the paper's data set."""
    used = []

    def counted(key, count):
        used.append(count)
        return original(key, count)

    original = poisson_module.uniforms
    monkeypatch.setattr(poisson_module, "uniforms", counted)
    num_records, batch = 233_804_767, 20_000
    sampler = Poisson(num_records=num_records, expected_batch_size=batch)
    tracemalloc.start()
    drawn = sampler.draw(SEED, num_records)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert abs(len(drawn) - batch) < 6 * np.sqrt(batch)
    assert sum(used) < 2 * (batch + 7 * np.sqrt(batch))
    assert peak < 200 * batch + 10_000
