"""Events are plain numbers, checked where they are made: the accountant may trust them."""

import math

import pytest

from sfumato.base import (
    BadInput,
    CappedPoissonDraw,
    FixedSizeDraw,
    FullBatchDraw,
    GaussianStep,
    PoissonDraw,
    Relation,
)


def _step(**changes):
    fields = {
        "draw": PoissonDraw(sampling_prob=0.1),
        "relation": Relation.ZERO_OUT,
        "std": 2.0,
        "presence": 1.0,
        "swap": 2.0,
    }
    return GaussianStep(**(fields | changes))


@pytest.mark.parametrize("prob", [0.0, -0.1, 1.0000001, math.nan])
def test_probabilities_lie_in_zero_one(prob):
    with pytest.raises(BadInput, match="sampling_prob"):
        PoissonDraw(sampling_prob=prob)


@pytest.mark.parametrize("prob", [1e-12, 0.5, 1.0])
def test_probabilities_up_to_one_are_fine(prob):
    assert PoissonDraw(sampling_prob=prob).sampling_prob == prob


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: CappedPoissonDraw(sampling_prob=0.1, num_records=0, cap=1), "num_records"),
        (lambda: CappedPoissonDraw(sampling_prob=0.1, num_records=5, cap=0), "cap"),
        (lambda: CappedPoissonDraw(sampling_prob=2.0, num_records=5, cap=1), "sampling_prob"),
        (lambda: FixedSizeDraw(num_records=5, batch_size=6), "exceeds num_records 5"),
        (lambda: FixedSizeDraw(num_records=5, batch_size=2.5), "batch_size"),
        (lambda: FixedSizeDraw(num_records=-5, batch_size=2), "num_records"),
        (lambda: FullBatchDraw(num_records=0), "num_records"),
    ],
)
def test_impossible_draws_name_the_field(make, named):
    with pytest.raises(BadInput, match=named):
        make()


@pytest.mark.parametrize("field", ["std", "presence", "swap"])
@pytest.mark.parametrize("value", [0.0, -1.0, math.inf, math.nan])
def test_a_step_without_noise_or_distance_does_not_exist(field, value):
    with pytest.raises(BadInput, match=field):
        _step(**{field: value})


def test_equal_events_are_one_key():
    """Compositions are merged and cached by value."""
    assert _step() == _step()
    assert hash(_step()) == hash(_step())
    assert _step() != _step(std=2.1)


def test_events_cannot_be_changed():
    with pytest.raises(AttributeError):
        _step().std = 1.0


def test_relations_are_their_json_names():
    assert [str(relation) for relation in Relation] == ["add_remove", "zero_out", "replace_one"]
    assert Relation("zero_out") is Relation.ZERO_OUT
