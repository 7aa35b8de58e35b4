"""Regular files only: a pipe would wait for ever, a device fill the memory, and neither is data."""

import codecs
import errno
import os
import re
import stat
from pathlib import Path
from typing import BinaryIO

from sfumato.base.errors import BadInput

_MARKS = (  # the longer first: the mark of UTF-32 begins with that of UTF-16
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_LINE_END = re.compile("\r\n|\r|\n")


def opened(path: str | os.PathLike[str]) -> BinaryIO:
    """Return a regular file, open for reading bytes.

    Raises:
        OSError: it does not exist or may not be read; or it is a pipe, a socket, a device or a folder.
    """
    return open(path, "rb", opener=_descriptor)


def bytes_of(path: str | os.PathLike[str]) -> bytes:
    """Return the content of a regular file. Raises OSError as `opened`."""
    with opened(path) as file:
        return file.read()


def _descriptor(path: str, flags: int) -> int:
    _check_regular(os.stat(path))  # opening a device may already move it
    descriptor = os.open(path, flags | getattr(os, "O_NONBLOCK", 0))  # a pipe put there since does not wait
    try:
        _check_regular(os.fstat(descriptor))
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _check_regular(found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "not a regular file")


def is_special(path: str | os.PathLike[str]) -> bool:
    """Say whether a path leads to something that is neither a regular file nor a folder."""
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):
        return False
    return not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)


def text_of(path: Path) -> str:
    """Return the text of a regular file: UTF-8, or UTF-16 or UTF-32 with its byte order mark, which is left out.

    Raises:
        BadInput: it cannot be read, or a line (which is named) holds bytes that are no text.
    """
    try:
        raw = bytes_of(path)
    except OSError:
        raise BadInput(f"{path} cannot be read as UTF-8 text.") from None
    encoding = next((name for mark, name in _MARKS if raw.startswith(mark)), "utf-8-sig")
    try:
        text = raw.decode(encoding)
    except UnicodeDecodeError as error:
        line = _line_after(raw[: error.start].decode(encoding, "ignore"))
        raise BadInput(f"{path} is not UTF-8 text in line {line}: save it as UTF-8.") from None
    if "\0" in text[:4]:
        raise BadInput(f"{path} is not UTF-8 text in line 1 (it looks like UTF-16 without its mark): save it as UTF-8.")
    return text


def _line_after(text: str) -> int:
    return 1 + len(_LINE_END.findall(text))
