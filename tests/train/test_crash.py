"""Killed while drawing, computing, reducing, charging, releasing or writing: resumed equals uninterrupted."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.train.case import COUPLED, STEPS
from tests.train.crash import COUPLED_PLACES

ROOT = Path(__file__).parents[2]
KILLS = int(os.environ.get("SFUMATO_KILLS", "6"))


def by_kind(folder: Path, *arguments: str) -> dict[str, dict[str, tuple[int, list]]]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "tests.train.crash", str(folder), *arguments],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300 + 10 * KILLS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert arguments or done.stderr == "", "workers whose parent was killed at random may say so"
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    outcomes: dict[str, dict[str, tuple[int, list]]] = {}
    for kind, place, ended, found in lines:
        outcomes.setdefault(kind, {})[place] = (ended, found)
    return outcomes


@pytest.fixture(scope="module")
def everything(tmp_path_factory) -> dict[str, dict[str, tuple[int, list]]]:
    return by_kind(tmp_path_factory.mktemp("crash"))


@pytest.fixture
def outcomes(everything) -> dict[str, tuple[int, list]]:
    return everything[""]


def test_every_place_was_reached(outcomes):
    assert outcomes["nowhere"][0] == 0
    killed = {place: ended for place, (ended, _) in outcomes.items() if place != "nowhere"}
    assert len(killed) >= 15
    assert set(killed.values()) == {signal.SIGKILL}, killed


def test_resumed_equals_uninterrupted_bit_for_bit(outcomes):
    whole = outcomes["nowhere"][1][0]
    assert {place: found[0] for place, (_, found) in outcomes.items()} == dict.fromkeys(outcomes, whole)


def test_no_step_is_charged_twice(outcomes):
    assert {place: found[1:3] for place, (_, found) in outcomes.items()} == {place: [STEPS, 0] for place in outcomes}


@pytest.mark.parametrize("kind", COUPLED)
def test_losses_that_couple_rows_resume_bit_for_bit_too(everything, kind):
    found = everything[kind]
    killed = {place: ended for place, (ended, _) in found.items() if place != "nowhere"}
    assert len(killed) == len(COUPLED_PLACES)
    assert set(killed.values()) == {signal.SIGKILL}, killed
    whole = found["nowhere"][1]
    assert {place: result for place, (_, result) in found.items()} == dict.fromkeys(found, whole)
    assert whole[1:3] == [STEPS, 0]


def test_killed_at_random_moments(tmp_path):
    """SFUMATO_KILLS=40 before pytest: so many of them. Weights and ledger come out the same, to the last bit."""
    found = by_kind(tmp_path, str(KILLS))["random"]
    whole = found.pop("whole")[1]
    assert len(found) == KILLS
    assert signal.SIGKILL in {ended for ended, _ in found.values()}
    assert {number: result for number, (_, result) in found.items()} == dict.fromkeys(found, whole)
    assert whole[1:3] == [STEPS, 0]
