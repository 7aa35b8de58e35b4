"""Files that are whole or absent, and logs that lose their end."""

import json
import os
import resource
import stat
from pathlib import Path

import pytest

from sfumato.base.files import append_line, read_log, write_whole


def full_disk(do) -> int:
    """Return the status of a fork in which no file may grow beyond 100 bytes, as on a full disk."""
    child = os.fork()
    if child == 0:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
        try:
            do()
        except OSError as error:
            os._exit(7 if str(error.filename).endswith("page.html") else 8)
        except BaseException:
            os._exit(9)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    write_whole(path, "first")
    write_whole(path, b"second", 0o600)
    assert path.read_text() == "second"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [file.name for file in tmp_path.iterdir()] == ["page.html"]


def test_a_full_disk_leaves_the_former_file(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_text("former")
    assert full_disk(lambda: write_whole(path, "x" * 10_000)) == 7, "the file is named"
    assert path.read_text() == "former"
    assert [file.name for file in tmp_path.iterdir()] == ["page.html"]


@pytest.mark.parametrize("end", [b"", b'{"step": 3, "eps', b"\0" * 50, b"\xff\xfe", b'{"step": 3}', b"[1]", b"7\n"])
def test_a_log_may_lose_its_end(tmp_path: Path, end: bytes) -> None:
    path = tmp_path / "log.jsonl"
    append_line(path, {"step": 1})
    append_line(path, {"step": 2})
    path.write_bytes(path.read_bytes() + end)
    whole = [{"step": 1}, {"step": 2}] + ([{"step": 3}] if end == b'{"step": 3}' else [])
    assert read_log(path) == whole
    append_line(path, {"step": 4})
    assert read_log(path)[-1] == {"step": 4}
    assert read_log(path)[:2] == [{"step": 1}, {"step": 2}]


def test_a_line_in_the_midst_keeps_its_number(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_bytes(b'{"a": 1}\nnothing\n{"b": 2}\n')
    assert read_log(path) == [{"a": 1}, None, {"b": 2}]
    assert read_log(tmp_path / "none") == []


@pytest.mark.parametrize("left", range(0, 30, 7))
def test_a_log_cut_anywhere_goes_on(tmp_path: Path, left: int) -> None:
    path = tmp_path / "log.jsonl"
    for step in range(3):
        append_line(path, {"step": step})
    os.truncate(path, left)
    append_line(path, {"step": 9})
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert lines[-1] == {"step": 9}
    assert [line["step"] for line in lines[:-1]] == list(range(left // 12))
