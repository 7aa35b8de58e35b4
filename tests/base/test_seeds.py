"""Keys and streams: distinct paths give unrelated streams, and the streams have the distributions they claim."""

import itertools

import numpy as np
import pytest
from scipy import stats

from sfumato.base import BadInput, seeds

SEED = bytes(range(32))
COUNT = 200_000


def test_secret_seeds_differ():
    assert len({seeds.secret_seed() for _ in range(100)}) == 100
    assert len(seeds.secret_seed()) == seeds.SEED_BYTES


def test_paths_are_prefix_free():
    """No two different paths run into one another, whatever their types and lengths."""
    parts = ["", "a", "ab", b"a", b"", 0, 1, -1, "0", b"\0"]
    paths = [p for length in (0, 1, 2) for p in itertools.product(parts, repeat=length)]
    assert len({seeds.derive(SEED, *path) for path in paths}) == len(paths)


def test_key_depends_on_the_seed():
    assert seeds.derive(SEED, "noise") != seeds.derive(bytes(32), "noise")


@pytest.mark.parametrize("length", [0, 31, 33])
def test_short_and_long_seeds_are_refused(length):
    with pytest.raises(BadInput, match="32 bytes"):
        seeds.derive(bytes(length), "noise")


@pytest.mark.parametrize("stream", [seeds.words, seeds.uniforms])
def test_a_longer_stream_begins_with_the_shorter(stream):
    key = seeds.derive(SEED, "x")
    assert np.array_equal(stream(key, 10), stream(key, 1000)[:10])


def test_blocks_of_a_stream_differ(monkeypatch):
    monkeypatch.setattr(seeds, "_BLOCK_WORDS", 8)
    for stream in (seeds.words, seeds.normals):
        values = stream(seeds.derive(SEED, "x"), 40)
        assert len(np.unique(values)) == 40


@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 16, 17])
def test_counts_around_a_block(monkeypatch, count):
    monkeypatch.setattr(seeds, "_BLOCK_WORDS", 8)
    assert seeds.normals(SEED, count).shape == (count,)
    assert np.isfinite(seeds.normals(SEED, count)).all()


def test_normals_are_standard_normal():
    values = seeds.normals(seeds.derive(SEED, "noise"), COUNT)
    assert stats.kstest(values, "norm").pvalue > 1e-3
    assert abs(np.corrcoef(values[::2], values[1::2])[0, 1]) < 0.02  # the two halves of Box-Muller
    assert abs(np.corrcoef(values[: COUNT // 2], values[COUNT // 2 :])[0, 1]) < 0.02
    assert np.abs(values).max() > 4.0  # tails are there


def test_normals_of_two_keys_are_uncorrelated():
    one, two = (seeds.normals(seeds.derive(SEED, "noise", name), COUNT) for name in ("a", "b"))
    assert abs(np.corrcoef(one, two)[0, 1]) < 0.02


def test_uniforms_are_uniform_and_open():
    values = seeds.uniforms(seeds.derive(SEED, "draw"), COUNT)
    assert stats.kstest(values, "uniform").pvalue > 1e-3
    assert values.min() > 0
    assert values.max() < 1


def test_integers_are_uniform():
    values = seeds.integers(seeds.derive(SEED, "owner"), COUNT, 7)
    assert stats.chisquare(np.bincount(values, minlength=7)).pvalue > 1e-3
    with pytest.raises(BadInput, match="high"):
        seeds.integers(SEED, 1, 0)


def test_generator_is_a_function_of_the_key():
    one, two = (seeds.generator(seeds.derive(SEED, name)).random(4) for name in ("a", "b"))
    assert not np.array_equal(one, two)
    assert np.array_equal(one, seeds.generator(seeds.derive(SEED, "a")).random(4))
