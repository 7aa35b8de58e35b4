"""The house: what importing costs, what the door offers, and that every import contract can fail."""

import ast
import dataclasses
import importlib
import importlib.util
import re
import shutil
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest

import sfumato
from sfumato.cli import COMMANDS

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "sfumato"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
CONTRACTS = [contract["name"] for contract in PROJECT["tool"]["importlinter"]["contracts"]]


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_import_is_fast_and_brings_no_torch() -> None:
    code = (
        "import sys, time; start = time.perf_counter(); import sfumato; took = time.perf_counter() - start;"
        "heavy = {'torch', 'numpy', 'transformers', 'matplotlib', 'tyro'} & set(sys.modules);"
        "print(took, sorted(heavy))"
    )
    took, heavy = python(code).stdout.split(maxsplit=1)
    assert float(took) < 1.0
    assert heavy.strip() == "[]"


def test_planning_names_resolve_with_torch_blocked() -> None:
    code = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "torchvision", "transformers"):
            raise ModuleNotFoundError(name, name=name)
sys.meta_path.insert(0, Blocked())
import sfumato as sf
sf.Plan, sf.Example, sf.Poisson, sf.Relation, sf.report.build, sf.plan, sf.sampling, sf.accounting
"""
    done = python(code)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", sorted(sfumato._HOME_OF))
def test_every_name_of_the_door_resolves(name: str) -> None:
    value = getattr(sfumato, name)
    assert value is getattr(sys.modules[sfumato._HOME_OF[name]], name)
    assert name in sfumato.__all__
    assert name in dir(sfumato)


def test_type_checkers_are_told_the_same_names() -> None:
    tree = ast.parse((SOURCE / "__init__.py").read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    told = {alias.name: node.module for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert told == sfumato._HOME_OF
    assert sorted(sfumato.__all__) == sorted([*told, "__version__"])


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = sfumato.nothing


def test_versions_agree() -> None:
    assert PROJECT["project"]["version"] == sfumato.__version__


def test_files_keep_the_style() -> None:
    files = [path for path in SOURCE.rglob("*.py") if "__pycache__" not in path.parts]
    assert [path.name for path in files if path.name in ("utils.py", "helpers.py", "misc.py")] == []
    too_long = {str(path.relative_to(ROOT)): n for path in files if (n := len(path.read_text().splitlines())) > 340}
    assert too_long == {}


def test_every_room_of_the_source_is_in_the_layers_contract() -> None:
    layers = next(c for c in PROJECT["tool"]["importlinter"]["contracts"] if c["id"] == "storeys")["layers"]
    named = {name for layer in layers for name in re.findall(r"\w+", layer)}
    rooms = {path.name for path in SOURCE.iterdir() if (path / "__init__.py").is_file()}
    assert rooms <= named


@pytest.fixture(scope="module")
def broken_lint(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What lint-imports says of a copy of the source in which every contract is broken once."""
    copy = tmp_path_factory.mktemp("house")
    shutil.copytree(SOURCE, copy / "src" / "sfumato", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", copy)
    bad = {
        "sampling/bad.py": "import sfumato.accounting\n",
        "base/bad_one.py": "import sfumato.base.bad_two\n",
        "base/bad_two.py": "import sfumato.base.bad_one\n",
        "report/bad.py": "def later():\n    import torch\n",
        "train/bad.py": "import transformers, datasets, sklearn\nimport tyro\nimport rich\nimport matplotlib\n",
        "plan/bad.py": "from dp_accounting import pld\n",
    }
    for name, text in bad.items():
        (copy / "src" / "sfumato" / name).write_text(text)
    code = "import sys; sys.path.insert(0, 'src'); from importlinter.cli import lint_imports_command as c; c()"
    command = [sys.executable, "-c", code, "--no-cache", "--no-logo"]
    return subprocess.run(command, cwd=copy, capture_output=True, text=True, check=False).stdout


@pytest.mark.parametrize("contract", CONTRACTS)
def test_every_import_contract_can_fail(contract: str, broken_lint: str) -> None:
    assert re.search(rf"^{re.escape(contract)} BROKEN", broken_lint, re.MULTILINE), broken_lint


def test_sockets_are_closed_to_other_machines() -> None:
    import socket

    with socket.socket() as sock, pytest.raises(RuntimeError, match="may not connect"):
        sock.connect(("192.0.2.1", 80))
    with pytest.raises(RuntimeError, match="may not look up"):
        socket.getaddrinfo("example.org", 80)


def test_sockets_reach_this_machine() -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        started = time.monotonic()
        with socket.create_connection(server.getsockname(), timeout=5):
            assert time.monotonic() - started < 5


def test_conftest_imports_no_torch() -> None:
    path = str(Path(__file__).parent / "conftest.py")
    spec = importlib.util.spec_from_file_location("sfumato_conftest", path)
    assert spec is not None
    code = f"import runpy, sys; runpy.run_path({path!r}); print('torch' in sys.modules)"
    assert python(code).stdout.strip() == "False"


# ---------------------------------------------------------------- what texts name

PAGES = [*sorted((ROOT / "docs").rglob("*.md")), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
_OF_OTHERS = {
    *("no-deps", "nproc-per-node", "mixed"),  # of pip, torchrun and another trainer
    *("faint", "sans"),  # of a style sheet
    *("cases", "logical", "models", "sizes", "dims", "no-opacus", "no-jax", "rows", "sides"),  # of benchmarks
}


def _flags(text: str) -> set[str]:
    return set(re.findall(r"(?<![\w-])--([a-z][a-z-]*[a-z])", text))


def test_every_flag_that_a_message_or_a_page_names_exists() -> None:
    known = {"help", "version", *_OF_OTHERS}
    for name in COMMANDS:
        command = getattr(importlib.import_module(f"sfumato.cli.{name}"), f"{name.capitalize()}Command")
        known |= {field.name.replace("_", "-") for field in dataclasses.fields(command)}
    said = {str(page): _flags(page.read_text(encoding="utf-8")) for page in PAGES}
    for path in SOURCE.rglob("*.py"):
        texts = (node.value for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if _is_text(node))
        said[str(path)] = set().union(*map(_flags, texts))
    assert {path: flags - known for path, flags in said.items() if flags - known} == {}


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def test_every_path_that_a_page_names_exists() -> None:
    named = [
        (page.name, path)
        for page in PAGES
        for path in re.findall(r"`((?:src|tests|docs|benchmarks|examples)/[\w./-]+)`", page.read_text(encoding="utf-8"))
    ]
    assert len(named) > 10
    assert [one for one in named if not (ROOT / one[1]).exists()] == []
