"""Commands with one hostile flag each, run through the frame in this process: what they say and return."""

import dataclasses
import math
import typing
from collections.abc import Iterator
from typing import Any

import pytest

from sfumato import cli

NUMBERS = (math.nan, math.inf, -math.inf, -1.0, 0.0, 1e30, -1e30, 1e-300, 1e300)
WHOLES = (-1, 0, 10**9, 10**30, 10**400, -(10**30))


def fields_of(command: type) -> Iterator[tuple[str, type, bool]]:
    """Yield the name of each numeric flag, its type, and how many values it takes (True: several)."""
    for field in dataclasses.fields(command):
        kind = typing.get_args(field.type)[0] if typing.get_origin(field.type) is typing.Annotated else field.type
        words = str(kind)
        if "Literal" in words:
            continue
        if "float" in words or kind is float:
            yield field.name, float, "tuple" in words
        elif "int" in words.replace("print", "") or kind is int:
            yield field.name, int, "tuple" in words


def hostile(command: type) -> list[tuple[str, Any]]:
    """Return (flag, value) for every numeric flag and every hostile value of its type."""
    found: list[tuple[str, Any]] = []
    for name, kind, several in fields_of(command):
        for value in NUMBERS if kind is float else WHOLES:
            found.append((name, ((value, value) if name == "window" else (value,)) if several else value))
    return found


def told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, command: Any
) -> tuple[int, str]:
    """Return status and stderr of a command whose flags are parsed already."""
    monkeypatch.setattr(cli, "_parse", lambda *_: command)
    status = cli.main([name])
    return status, capsys.readouterr().err


def check_plain(status: int, error: str, *names: str) -> None:
    """Check that a refusal is one or two plain sentences that name the flag or the file."""
    assert "unexpected" not in error, error
    assert "Traceback" not in error, error
    if status == 0:
        return
    assert status == 2, error
    last = error.strip().splitlines()[-1]
    assert last.startswith("sfumato: "), error
    assert len(last) < 700, error
    assert any(name in last for name in names), (names, error)
