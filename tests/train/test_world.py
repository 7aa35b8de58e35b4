"""Two gloo processes under torchrun: one draw in strided shares, the same release on every rank, one ledger."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tests.train import ranks
from tests.train.case import COUPLED, STEPS

from sfumato.base import BadInput, Refused, ledger
from sfumato.train import World, fingerprint, join_world

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def both(tmp_path_factory) -> tuple[Path, list[dict]]:
    folder = tmp_path_factory.mktemp("ranks")
    command = ["-W", "error", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(
        [sys.executable, *command, "-m", "tests.train.ranks", str(folder)],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder, [json.loads((folder / f"rank-{rank}.json").read_text()) for rank in range(2)]


def test_every_rank_has_the_same_weights_and_epsilon(both):
    _, (one, two) = both
    assert one["whole"]["bits"] == two["whole"]["bits"]
    assert one["whole"]["first_row"] == two["whole"]["first_row"]
    assert one["whole"]["epsilon"] == two["whole"]["epsilon"] > 0
    assert [r["whole"]["device_rank"] for r in (one, two)] == [[0, 2], [1, 2]]


def test_the_draw_is_shared_out(both):
    _, (one, two) = both
    assert one["whole"]["rows_seen"] > 36
    assert abs(one["whole"]["rows_seen"] - two["whole"]["rows_seen"]) <= STEPS


def test_one_ledger_and_the_counts_of_all_ranks(both):
    folder, _ = both
    assert ledger.read(folder / "whole/private/ledger.jsonl").charged()[0][1] == STEPS
    lines = [json.loads(line) for line in (folder / "whole/private/log.jsonl").read_text().splitlines()]
    assert len(lines) == STEPS
    tried = 18  # by each rank: 16 for the form of a row, 2 for whether rows are read alone
    assert sum(line["num_rows"] for line in lines) == sum(r["whole"]["rows_seen"] - tried for r in both[1])


def test_two_processes_compute_what_one_does(both, tmp_path, monkeypatch):
    monkeypatch.setattr(fingerprint, "surrounding_fields", ranks.no_surroundings)
    alone = ranks.without_noise(tmp_path)
    for result in both[1]:
        for name, value in result["without_noise"].items():
            # float32 sums in another order, made larger by AdamW's division by small second moments
            torch.testing.assert_close(torch.tensor(value), torch.tensor(alone[name]), rtol=1e-4, atol=1e-5)


def test_resumed_equals_uninterrupted_on_every_rank(both):
    folder, results = both
    assert {r["resumed"] for r in results} == {results[0]["whole"]["bits"]}
    assert ledger.read(folder / "resumed/private/ledger.jsonl").charged()[0][1] == STEPS


def test_empty_shares_are_ordinary(both):
    folder, (one, two) = both
    lines = [json.loads(line) for line in (folder / "empty/private/log.jsonl").read_text().splitlines()]
    assert {0, 1} <= {line["num_rows"] for line in lines}  # nobody drawn, and one record: an empty share on rank 1
    assert one["empty_shares"]["bits"] == two["empty_shares"]["bits"]
    assert ledger.read(folder / "empty/private/ledger.jsonl").charged()[0][1] == 20


def test_a_refusal_is_heard_on_every_rank(both):
    texts = [result["refused_by_all"] for result in both[1]]
    assert texts[0] == texts[1]
    assert "optimizer.groups.0.lr: 0.05 -> 0.1" in texts[0]


def test_a_new_attempt_is_taken_by_all(both):
    folder, (one, two) = both
    assert one["accepted_conflict"] == two["accepted_conflict"]
    assert one["accepted_conflict"][0] == 1
    assert [n for _, n in ledger.read(folder / "conflict/private/ledger.jsonl").charged()] == [2, 2]


def test_ranks_started_with_other_settings_are_told(both):
    assert both[1][0]["started_otherwise"] is None
    assert "rank 1 was started with other settings" in both[1][1]["started_otherwise"]


def test_the_trainer_runs_on_every_rank(both):
    folder, (one, two) = both
    assert one["trainer"] == two["trainer"]
    assert one["trainer"][0] == STEPS
    assert len((folder / "trainer/export/progress.jsonl").read_text().splitlines()) == STEPS


def test_alone_without_torchrun(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    world = join_world(torch.device("cpu"))
    assert (world.rank, world.size, world.first) == (0, 1, True)


def test_a_device_without_a_backend_is_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(BadInput, match="gloo"):
        join_world(torch.device("meta"))


@pytest.mark.parametrize("error", [BadInput, Refused])
def test_alone_a_decision_raises_as_it_is(error):
    def refuse():
        raise error("no")

    with pytest.raises(error, match="no"):
        World().decide(refuse)


@pytest.mark.every(3)
@pytest.mark.parametrize("kind", COUPLED)
def test_losses_that_couple_rows_over_ranks_compute_what_one_process_does(both, kind, tmp_path, monkeypatch):
    monkeypatch.setattr(fingerprint, "surrounding_fields", ranks.no_surroundings)
    alone = ranks.coupled(tmp_path)[kind]
    one, two = (result["coupled"][kind] for result in both[1])
    assert one["bits"] == two["bits"]
    assert min(one["rows_seen"], two["rows_seen"]) > 16, "both ranks take part"
    for name, value in one["state"].items():
        torch.testing.assert_close(torch.tensor(value), torch.tensor(alone["state"][name]), rtol=1e-4, atol=1e-6)


def test_ranks_without_a_row_take_part_in_what_is_exchanged(both):
    one, two = (result["coupled_and_empty"] for result in both[1])
    assert one == two
