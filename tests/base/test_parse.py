"""JSON that lies in a folder is read in one place, which knows all that a file may hold."""

import ast
from pathlib import Path

import pytest

import sfumato
from sfumato.base.history import parse
from sfumato.base.parse import parsed

SOURCES = Path(sfumato.__file__).parent
ROOMS = ("base", "cli", "plan", "recipes", "report", "train")
OWN = {  # what this process, or a child of it, wrote itself a moment ago
    "base/parse.py": 1,
    "report/facts.py": 1,
    "recipes/doctor_measure.py": 2,
    "recipes/kept.py": 1,
    "train/world.py": 1,
}


@pytest.mark.parametrize(
    "text",
    ["[" * 5000, "[" * 5000 + "]" * 5000, '{"a":' * 300 + "1" + "}" * 300, b"\xff\xfe\x00", "", "{", "9" * 400],
    ids=lambda text: repr(text)[:12],
)
def test_what_is_no_value_is_a_value_error(text: str | bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        parsed(text)


def test_no_other_module_parses_json_of_a_folder() -> None:
    found: dict[str, int] = {}
    for room in ROOMS:
        for path in (SOURCES / room).rglob("*.py"):
            calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute)]
            name = path.relative_to(SOURCES).as_posix()
            for node in calls:
                if isinstance(node.value, ast.Name) and node.value.id == "json" and node.attr in ("load", "loads"):
                    found[name] = found.get(name, 0) + 1
    assert found == OWN


def test_a_ledger_line_that_is_nested_too_deep_is_a_changed_line(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    path.write_text("[" * 5000 + "\n")
    with pytest.raises(ValueError, match=r"ledger\.jsonl, line 1: changed"):
        parse(path)
