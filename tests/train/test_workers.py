"""Processes that are killed: those that make rows, and other ranks."""

import multiprocessing
import os
import signal

import pytest
import torch
import torch.distributed as dist
from tests.train.case import STEPS, Records, Run, bits

import sfumato as sf
from sfumato.base import Stopped
from sfumato.train import World, workers
from sfumato.train.workers import default_sigchld, lost_workers


class Killed(Records):
    """Its worker is killed after some rows."""

    def __getitem__(self, index):
        if torch.utils.data.get_worker_info() is not None and len(self.seen) == 45:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitem__(index)


@pytest.mark.filterwarnings("ignore")
def test_a_killed_worker_is_a_sentence_and_the_run_resumes(tmp_path):
    def fit(out, dataset, num_workers):
        with Run(tmp_path / "unused", options={"seed": 1}) as run:
            model, optimizer = run.model, run.optimizer
        sf.Trainer(
            model=model, loss_fn=run.loss, dataset=dataset, plan=run.plan, out=out, optimizer=optimizer,
            micro_batch_size=4, seed=1, checkpoint_every=1, num_workers=num_workers,
        ).fit()  # fmt: skip
        return bits(model)

    with pytest.raises(Stopped, match=r"--num-workers.* was killed.*same command resumes"):
        fit(tmp_path / "cut", Killed(), 1)
    assert fit(tmp_path / "cut", Records(), 0) == fit(tmp_path / "whole", Records(), 0)
    assert len(sf.train.RunFolder(tmp_path / "cut").ledger.read_bytes().splitlines()) == STEPS + 2


def test_a_report_that_comes_while_another_is_looked_at_changes_nothing(monkeypatch):
    """The line to a worker breaks, and torch's handler reports its death while the broken line is looked at."""

    def reported(error):
        raise RuntimeError("DataLoader worker (pid 12) is killed by signal: Killed.")

    monkeypatch.setattr(workers, "_of_a_worker", reported)
    with pytest.raises(Stopped, match="was killed"), lost_workers():
        raise ConnectionResetError("Connection reset by peer")


def test_a_worker_is_lost_where_rows_are_asked_for_and_nowhere_else():
    before = signal.getsignal(signal.SIGCHLD)

    def raises(*_):
        raise RuntimeError("DataLoader worker (pid 12) is killed by signal: Killed.")

    signal.signal(signal.SIGCHLD, raises)
    try:
        with default_sigchld():
            os.kill(os.getpid(), signal.SIGCHLD)
        with pytest.raises(RuntimeError, match="is killed"):
            os.kill(os.getpid(), signal.SIGCHLD)
    finally:
        signal.signal(signal.SIGCHLD, before)


def test_no_handler_of_torch_stays_behind(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.utils.data._utils.signal_handling, "_SIGCHLD_handler_set", False)
    before = signal.getsignal(signal.SIGCHLD)
    with Run(tmp_path / "run", num_workers=1) as run:
        run.train(until=1)
    assert signal.getsignal(signal.SIGCHLD) is before


@pytest.mark.parametrize(
    ("message", "is_lost"),
    [
        ("DataLoader worker (pid 12) is killed by signal: Bus error. It is possible ...", True),
        ("DataLoader worker (pid(s) 12, 13) exited unexpectedly", True),
        ("Caught RuntimeError in DataLoader worker process 0.", False),
        ("another matter", False),
    ],
)
def test_only_lost_workers_are_told_so(message, is_lost):
    with pytest.raises(Stopped if is_lost else RuntimeError) as error, lost_workers():
        raise RuntimeError(message)
    assert isinstance(error.value, Stopped) == is_lost


def test_a_line_that_breaks_is_a_lost_worker():
    ours, theirs = multiprocessing.Pipe()
    theirs.close()
    with pytest.raises(Stopped), lost_workers():
        ours.recv()
    with pytest.raises(EOFError), lost_workers():
        raise EOFError


@pytest.mark.parametrize("exchange", ["add_up", "gather", "decide"])
def test_a_lost_rank_is_a_sentence(monkeypatch, exchange):
    def lost(*_, **__):
        raise dist.DistBackendError("[127.0.0.1]:4711: Connection closed by peer")

    for name in ("all_reduce", "all_gather", "broadcast"):
        monkeypatch.setattr(dist, name, lost)
    world = World(rank=1, size=2)
    calls = {
        "add_up": lambda: world.add_up(torch.zeros(2)),
        "gather": lambda: world.gather(torch.zeros(2, 2)),
        "decide": lambda: world.decide(lambda: 1),
    }
    with pytest.raises(Stopped, match=r"another process of this run was killed.*same command resumes"):
        calls[exchange]()
