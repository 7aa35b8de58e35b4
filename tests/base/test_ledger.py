"""The ledger: what it charges, and that torn, edited, removed and doubly written lines are told apart."""

import errno
import fcntl
import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from sfumato.base import BadInput
from sfumato.base.history import digest
from sfumato.base.ledger import BrokenLedger, Ledger, read, writer

PLAN = {"noise_multiplier": 1.0}


def _open_attempt(ledger: Ledger, fingerprint: str = "f", start_step: int = 0) -> int:
    return ledger.attempt(fingerprint=fingerprint, fields={"a": 1}, plan=PLAN, start_step=start_step)


def _step(ledger: Ledger, step: int, attempt: int = 0) -> None:
    ledger.step(attempt=attempt, step=step, weights="w", clipped_sum="s")


def _written(path: Path, steps: int = 3) -> Path:
    with Ledger(path) as ledger:
        _open_attempt(ledger)
        for step in range(steps):
            _step(ledger, step)
    return path


def test_charges_each_attempt_and_step_once(tmp_path):
    path = _written(tmp_path / "ledger.jsonl")
    with Ledger(path) as ledger:
        with pytest.raises(BadInput, match="already"):
            _step(ledger, 2)
        assert _open_attempt(ledger, "g", start_step=2) == 1
        _step(ledger, 2, attempt=1)
        _open_attempt(ledger, "h", start_step=3)
    history = read(path)
    assert history.charged() == [(PLAN, 3), (PLAN, 1)]
    assert [a.fingerprint for a in history.attempts] == ["f", "g", "h"]
    assert history.steps[1, 2].weights == "w"


def test_a_step_of_an_unknown_attempt_is_refused(tmp_path):
    with Ledger(tmp_path / "ledger.jsonl") as ledger, pytest.raises(BadInput, match="does not belong"):
        _step(ledger, 0)


def test_entry_is_on_disk_when_append_returns(tmp_path):
    with Ledger(tmp_path / "ledger.jsonl") as ledger:
        _open_attempt(ledger)
        assert len(read(ledger.path).attempts) == 1


def test_files_are_private(tmp_path):
    path = tmp_path / "ledger.jsonl"
    path.touch(mode=0o644)
    with Ledger(path):
        pass
    for file in (path, path.with_suffix(".lock")):
        assert stat.S_IMODE(file.stat().st_mode) == 0o600


@pytest.mark.parametrize("kept", [1, 20, -1])
def test_torn_last_line_is_dropped(tmp_path, kept):
    path = _written(tmp_path / "ledger.jsonl")
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines) + lines[-1][:kept])
    assert len(read(path).steps) == 3
    with Ledger(path) as ledger:
        _step(ledger, 3)
    assert len(read(path).steps) == 4


def test_line_written_before_the_count_was_is_kept(tmp_path):
    """Killed between the line and the count: the line is charged."""
    path = _written(tmp_path / "ledger.jsonl")
    lock = path.with_suffix(".lock")
    before = lock.read_bytes()
    with Ledger(path) as ledger:
        _step(ledger, 3)
    lock.write_bytes(before)
    with Ledger(path) as ledger:
        assert len(ledger.history.steps) == 4


@pytest.mark.parametrize("line", [0, 1, 2, 3])
def test_removed_line_is_found(tmp_path, line):
    path = _written(tmp_path / "ledger.jsonl")
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:line] + lines[line + 1 :]))
    with pytest.raises(BadInput, match="missing"):
        read(path)


@pytest.mark.parametrize("lines_left", [0, 2, 4])
def test_lines_removed_at_the_end_are_found(tmp_path, lines_left):
    path = _written(tmp_path / "ledger.jsonl")
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:lines_left]))
    with pytest.raises(BadInput, match="removed"):
        Ledger(path)


@pytest.mark.parametrize(("old", "new"), [(b'"step": 1', b'"step": 9'), (b"{", b"["), (b'"hash"', b'"hush"')])
def test_edited_line_is_found(tmp_path, old, new):
    path = _written(tmp_path / "ledger.jsonl")
    assert old in path.read_bytes()
    path.write_bytes(path.read_bytes().replace(old, new, 1))
    with pytest.raises(BadInput, match="changed"):
        Ledger(path)


def test_last_line_of_another_run_is_found(tmp_path):
    path, other = _written(tmp_path / "ledger.jsonl"), tmp_path / "other.jsonl"
    with Ledger(other) as ledger:
        _open_attempt(ledger, "another")
        for step in range(3):
            _step(ledger, step)
    path.write_bytes(other.read_bytes())
    with pytest.raises(BadInput, match="removed"):
        Ledger(path)


def test_second_writer_in_this_process_is_refused(tmp_path):
    with Ledger(tmp_path / "ledger.jsonl"), pytest.raises(BadInput, match="already open"):
        Ledger(tmp_path / "ledger.jsonl")
    Ledger(tmp_path / "ledger.jsonl").close()


def test_second_writer_in_another_process_is_refused(tmp_path):
    path = tmp_path / "ledger.jsonl"
    code = (
        "import sys; from pathlib import Path; from sfumato.base.ledger import Ledger\n"
        "from sfumato.base import BadInput\n"
        "try: Ledger(Path(sys.argv[1]))\n"
        "except BadInput as error: sys.exit(7 if 'another process' in str(error) else 1)"
    )
    with Ledger(path) as ledger:
        _open_attempt(ledger)
        read(path)  # opening and closing the file here must not give the lock away
        assert subprocess.run([sys.executable, "-c", code, str(path)], check=False).returncode == 7
    assert subprocess.run([sys.executable, "-c", code, str(path)], check=False).returncode == 0


def test_a_dropped_ledger_gives_its_lock_back(tmp_path):
    ledger = Ledger(tmp_path / "ledger.jsonl")
    del ledger
    Ledger(tmp_path / "ledger.jsonl").close()


def test_nothing_is_written_after_close_or_from_a_fork(tmp_path):
    ledger = Ledger(tmp_path / "ledger.jsonl")
    ledger.close()
    ledger.close()
    with pytest.raises(BadInput, match="not open"):
        _open_attempt(ledger)
    with Ledger(tmp_path / "ledger.jsonl") as again, pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "getpid", lambda: -1)  # as in a worker that inherited the object
        with pytest.raises(BadInput, match="not open"):
            _open_attempt(again)


def test_full_disk_leaves_the_ledger_readable(tmp_path, monkeypatch):
    ledger = Ledger(_written(tmp_path / "ledger.jsonl"))
    real = os.write
    monkeypatch.setattr(os, "fsync", lambda handle: (_ for _ in ()).throw(OSError("no space")))
    monkeypatch.setattr(os, "write", lambda handle, raw: real(handle, raw[:10]))
    with pytest.raises(OSError, match="no space"):
        _step(ledger, 3)
    monkeypatch.undo()
    assert len(read(ledger.path).steps) == 3
    with Ledger(ledger.path) as again:
        _step(again, 3)


def test_looks_are_recorded_once_each(tmp_path):
    path = tmp_path / "ledger.jsonl"
    for _ in range(2):
        with Ledger(path) as ledger:
            ledger.look("simulation", steps=5)
            ledger.look("simulation", steps=6)
    assert [look.detail["steps"] for look in read(path).looks] == [5, 6]


def test_reading_a_run_without_a_ledger(tmp_path):
    with pytest.raises(BadInput, match="does not exist"):
        read(tmp_path / "ledger.jsonl")


_TRY = (
    "import sys; from pathlib import Path; from sfumato.base.ledger import Ledger\n"
    "from sfumato.base import BadInput\n"
    "try: Ledger(Path(sys.argv[1]))\n"
    "except BadInput as error: sys.exit(str(error))"
)


def _in_another_process(path: Path) -> str:
    """What a second writer is answered; empty if it got the lock."""
    done = subprocess.run([sys.executable, "-c", _TRY, str(path)], check=False, capture_output=True, text=True)
    return done.stderr.strip()


@pytest.mark.parametrize("removed", [(), ("ledger.lock",)])
def test_the_lock_does_not_hang_on_a_file_next_to_it(tmp_path, removed):
    with Ledger(tmp_path / "ledger.jsonl") as ledger:
        _open_attempt(ledger)
        for name in removed:
            os.remove(tmp_path / name)
        assert f"by another process (process {os.getpid()}" in _in_another_process(ledger.path)
        with pytest.raises(BadInput, match="already open in this process"):
            Ledger(ledger.path)
        _step(ledger, 0)
        assert (tmp_path / "ledger.lock").is_file(), "the count is kept again"
        assert f"by another process (process {os.getpid()}" in _in_another_process(ledger.path)
    assert _in_another_process(ledger.path) == ""


def test_the_writer_is_named_where_the_kernel_does_not_say(tmp_path, monkeypatch):
    with Ledger(tmp_path / "ledger.jsonl") as ledger:
        other = os.open(ledger.path, os.O_RDWR)
        monkeypatch.setattr(Path, "read_text", lambda *a, **o: (_ for _ in ()).throw(OSError))
        assert writer(ledger.path, other).startswith(f" (process {os.getpid()} on ")
        os.close(other)


@pytest.mark.parametrize("how", ["removed", "replaced", "written", "cut"])
def test_a_ledger_that_is_no_longer_ours_stops_the_writer(tmp_path, how):
    ledger = Ledger(_written(tmp_path / "ledger.jsonl"))
    before = ledger.path.read_bytes()
    if how == "removed":
        os.remove(ledger.path)
    elif how == "replaced":
        (tmp_path / "copy").write_bytes(before)
        os.replace(tmp_path / "copy", ledger.path)
    elif how == "written":
        ledger.path.write_bytes(before + b"{}\n")
    else:
        os.truncate(ledger.path, len(before) - 1)
    found = ledger.path.read_bytes() if ledger.path.exists() else None
    with pytest.raises(BadInput, match="before anything of this step left"):
        _step(ledger, 3)
    assert (ledger.path.read_bytes() if ledger.path.exists() else None) == found
    with pytest.raises(BadInput, match="not open"):
        _step(ledger, 3)


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_file_system_without_locks_is_no_other_process(tmp_path, monkeypatch, number):
    monkeypatch.setattr(fcntl, "flock", lambda *_: (_ for _ in ()).throw(OSError(number, os.strerror(number))))
    with pytest.raises(BadInput, match=r"gives no file locks.*local disk"):
        Ledger(tmp_path / "ledger.jsonl")


def test_a_fork_neither_keeps_the_lock_nor_gives_it_away(tmp_path):
    ledger = Ledger(tmp_path / "ledger.jsonl")
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:  # as a process that makes rows, and outlives its parent for a while
        os.close(write_end)
        os.read(read_end, 1)
        os._exit(0)
    os.close(read_end)
    try:
        assert "another process" in _in_another_process(ledger.path)
        _open_attempt(ledger)
        ledger.close()
        assert _in_another_process(ledger.path) == ""
    finally:
        os.close(write_end)
        os.waitpid(child, 0)


def test_a_full_disk_names_the_ledger(tmp_path, monkeypatch):
    ledger = Ledger(_written(tmp_path / "ledger.jsonl"))
    monkeypatch.setattr(os, "write", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left")))
    with pytest.raises(OSError, match="No space left") as error:
        _step(ledger, 3)
    assert error.value.filename == str(ledger.path)


def test_a_broken_chain_says_up_to_where_it_is_whole(tmp_path):
    path = _written(tmp_path / "ledger.jsonl", steps=5)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:4], lines[4].replace(b'"w"', b'"v"'), *lines[5:]]))
    said = r"line 5: changed.*Lines 1 to 4 are whole.* 2 steps in 1 attempts"
    with pytest.raises(BrokenLedger, match=said) as error:
        read(path)
    assert sorted(error.value.history.steps) == [(0, 0), (0, 1)]
    assert [entry and entry["step"] for entry in error.value.later] == [None, 3, 4]


def test_two_writers_of_an_earlier_version_leave_their_lines_to_be_counted(tmp_path):
    one, two = _written(tmp_path / "one.jsonl", steps=3), tmp_path / "two.jsonl"
    two.write_bytes(one.read_bytes())
    for path, step in ((one, 3), (two, 3), (two, 4)):
        with Ledger(path) as ledger:
            ledger.step(attempt=0, step=step, weights=path.stem, clipped_sum="s")
    added = two.read_bytes().splitlines(keepends=True)[-2:]
    one.write_bytes(one.read_bytes() + b"".join(added))
    with pytest.raises(BrokenLedger, match="Lines 1 to 6 are whole") as error:
        read(one)
    assert [entry["step"] for entry in error.value.later] == [3, 4]


@pytest.mark.parametrize(
    ("kind", "strange"),
    [
        ("step", {"step": "1"}),
        ("step", {"step": [1]}),
        ("step", {"attempt": {"a": 1}}),
        ("step", {"step": None}),
        ("step", {"weights": 7}),
        ("attempt", {"plan": "x"}),
        ("attempt", {"fields": []}),
        ("attempt", {"start_step": None}),
        ("look", {"detail": 3}),
        ([], {}),
        ({}, {}),
    ],
)
@pytest.mark.parametrize("later", [False, True])
def test_a_line_with_values_of_another_type_is_damaged(tmp_path, kind, strange, later):
    """Its own hash is right, so that only its types tell."""
    path = _written(tmp_path / "ledger.jsonl")
    usual = {
        "step": {"attempt": 0, "step": 9, "weights": "w", "clipped_sum": "s"},
        "attempt": {"number": 1, "fingerprint": "g", "fields": {}, "plan": {}, "start_step": 0},
        "look": {"what": "x", "detail": {}},
    }
    fields = usual[kind] if isinstance(kind, str) else {}
    body = {"kind": kind, **fields, **strange, "prev": "other" if later else read(path).head}
    with path.open("a") as file:
        file.write(json.dumps({**body, "hash": digest(body)}) + "\n")
    with pytest.raises(BrokenLedger, match="line 6: changed") as caught:
        read(path)
    assert caught.value.later == (None,)
