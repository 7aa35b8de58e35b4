"""Text and JSON files that a user names."""

import os
from pathlib import Path

import pytest

from sfumato.base import BadInput
from sfumato.base.texts import read_object, read_text


def _missing(path: Path) -> None:
    pass


def _folder(path: Path) -> None:
    path.mkdir()


def _pipe(path: Path) -> None:
    os.mkfifo(path)


WRONG = {
    "missing": (_missing, "there is no file"),
    "folder": (_folder, "is a folder"),
    "pipe": (_pipe, "not a regular file"),
    "binary": (lambda path: path.write_bytes(bytes(range(256))), "not text in UTF-8"),
    "zeros": (lambda path: path.write_bytes(bytes(64)), "not a text file"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_what_is_no_text_is_named(kind: str, tmp_path: Path) -> None:
    make, words = WRONG[kind]
    make(tmp_path / "x.txt")
    with pytest.raises(BadInput, match=rf"^--public-text: .*x\.txt.*{words}|^--public-text: {words} .*x\.txt"):
        read_text(tmp_path / "x.txt", "--public-text")


@pytest.mark.parametrize("text", ["", "{", "[1]", "3", "[" * 100_000])
def test_what_is_no_json_object_is_named(text: str, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(BadInput, match=r"x\.json (is not valid JSON|holds no JSON object)"):
        read_object(tmp_path / "x.json", "settings")


def test_a_byte_order_mark_is_not_text(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_bytes(b'\xef\xbb\xbf{"a": 1}')
    assert read_object(tmp_path / "x.json", "settings") == {"a": 1}
