import os
import socket

import pytest

from sfumato.base.errors import BadInput
from sfumato.data.regular import bytes_of, is_special, opened, text_of


@pytest.fixture
def things(tmp_path):
    """One of each kind of thing that stands where a file is expected."""
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "device.png").symlink_to("/dev/zero")
    server = socket.socket(socket.AF_UNIX)
    here = os.getcwd()
    os.chdir(tmp_path)  # the path of a socket is short
    server.bind("socket.png")
    os.chdir(here)
    yield tmp_path
    server.close()


@pytest.mark.parametrize("name", ["pipe.png", "folder.png", "device.png", "socket.png", "nothing.png"])
def test_only_regular_files_are_opened(things, name):
    for read in (opened, bytes_of):
        with pytest.raises(OSError, match=r"regular|No such"):
            read(things / name)
    with pytest.raises(BadInput, match=r"cannot be read as UTF-8 text"):
        text_of(things / name)


def test_a_pipe_put_there_after_the_first_look_does_not_wait(things, monkeypatch):
    (things / "file").write_bytes(b"x")
    real = os.stat(things / "file")
    monkeypatch.setattr(os, "stat", lambda path, **_: real)
    with pytest.raises(OSError, match="not a regular file"):
        opened(things / "pipe.png")


def test_what_is_special(things):
    names = ("pipe.png", "device.png", "socket.png", "folder.png", "nothing.png")
    assert [is_special(things / name) for name in names] == [True, True, True, False, False]
    assert not is_special("a\0b")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_text_of_every_encoding_with_a_mark(tmp_path, encoding):
    (tmp_path / "t").write_bytes("\u00e9\r\nb\U0001f600".encode(encoding))
    assert text_of(tmp_path / "t") == "\u00e9\r\nb\U0001f600"


@pytest.mark.parametrize("mark", [b"\xff\xfe", b"\xfe\xff"])
def test_utf_16_of_either_order(tmp_path, mark):
    order = "utf-16-le" if mark == b"\xff\xfe" else "utf-16-be"
    (tmp_path / "t").write_bytes(mark + "\u00e9 b".encode(order))
    assert text_of(tmp_path / "t") == "\u00e9 b"


@pytest.mark.parametrize(
    ("raw", "line"),
    [
        (b"a\nb\nsecret\xe9\n", 3),
        (b"secret\xff", 1),
        (b"a\r\nb\r\nsecret \xe9", 3),
        (b"a\rb\rsecret \xe9", 3),
        (b"\xef\xbb\xbfa\nsecret \xe9", 2),
        ("\ufeffa\nb\n".encode("utf-16-le") + b"\x00\xd8a\x00", 3),  # half of a character
        ("file,text\n".encode("utf-16-le"), 1),  # without its mark
        ("file,text\n".encode("utf-16-be"), 1),
    ],
)
def test_bytes_that_are_no_text_are_named_by_line(tmp_path, raw, line):
    (tmp_path / "t.csv").write_bytes(raw)
    with pytest.raises(BadInput, match=rf"t\.csv is not UTF-8 text in line {line}\b") as caught:
        text_of(tmp_path / "t.csv")
    assert "secret" not in str(caught.value)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
