"""The promises of the example unit, through the real loader and step."""

import pytest
from tests.guarantees import draws, neighbours, noise, record


def _name(check):
    return check.__name__


@pytest.mark.parametrize("check", neighbours.CHECKS, ids=_name)
def test_neighbours_stay_within_the_declared_distances(check, tmp_path):
    check(tmp_path)


@pytest.mark.parametrize("check", draws.CHECKS, ids=_name)
def test_records_are_drawn_as_accounted(check, tmp_path):
    check(tmp_path)


@pytest.mark.parametrize("check", noise.CHECKS, ids=_name)
def test_noise_is_the_plans_and_never_the_same_twice(check, tmp_path):
    check(tmp_path)


@pytest.mark.parametrize("check", record.CHECKS, ids=_name)
def test_steps_are_charged_and_ranks_agree(check, tmp_path):
    check(tmp_path)
