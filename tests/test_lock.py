"""The lock covers what `make demo` and `make test` install, on every machine that matters; make installs from it."""

import os
import re
import subprocess
import tomllib
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT = PYPROJECT["project"]
EXTRAS = PROJECT["optional-dependencies"]
LINES = [line for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines() if line[0] != "#"]
PINS = [Requirement(line) for line in LINES]
MACHINES = {
    f"{python} {platform} {machine}": {
        "python_version": python,
        "python_full_version": f"{python}.1",
        "sys_platform": platform,
        "platform_machine": machine,
        "platform_system": system,
    }
    for python in ("3.11", "3.12", "3.13", "3.14")
    for platform, machine, system in (
        ("linux", "x86_64", "Linux"),
        ("linux", "aarch64", "Linux"),
        ("darwin", "arm64", "Darwin"),
        ("win32", "AMD64", "Windows"),
    )
}


def asked(lines: list[str]) -> Iterator[Requirement]:
    """Every requirement behind the given ones that pyproject.toml itself names."""
    for line in lines:
        requirement = Requirement(line)
        if requirement.name != "sfumato":
            yield requirement
        for extra in requirement.extras if requirement.name == "sfumato" else ():
            yield from asked(EXTRAS[extra])


DIRECT = list(asked([*PROJECT["dependencies"], "sfumato[demo,test]"]))
EVERYTHING = [*DIRECT, *asked([f"sfumato[{','.join(EXTRAS)}]", *PYPROJECT["build-system"]["requires"]])]
OF_MAKE = ("MAKEFLAGS", "MFLAGS", "MAKEOVERRIDES", "MAKELEVEL", "LOCK", "VENV", "PYTHON", "PAIR", "JOBS")


def pinned(machine: dict[str, str]) -> dict[str, str]:
    """Name and version of each pin that holds on a machine."""
    return {
        canonicalize_name(pin.name): next(iter(pin.specifier)).version
        for pin in PINS
        if pin.marker is None or pin.marker.evaluate(machine)
    }


def test_the_lock_holds_exact_versions_and_no_place() -> None:
    for line, pin in zip(LINES, PINS, strict=True):
        assert [one.operator for one in pin.specifier] == ["=="], line
        assert not re.search(r"[/\\@*+\[]|--", line), line
    assert not re.search(r"://|/(home|root|tmp|work)|index", (ROOT / "constraints.txt").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", MACHINES)
def test_each_machine_has_one_pin_of_all_that_is_asked_for(name: str) -> None:
    machine = MACHINES[name]
    names = [canonicalize_name(pin.name) for pin in PINS if pin.marker is None or pin.marker.evaluate(machine)]
    assert len(names) == len(set(names)), "two pins of one package"
    found = pinned(machine)
    for requirement in DIRECT:
        assert requirement.specifier.contains(found[canonicalize_name(requirement.name)]), requirement
    assert {"torch", "torchvision", "hatchling", "editables"} <= found.keys()


def test_every_range_has_two_ends() -> None:
    for requirement in EVERYTHING:
        kinds = sorted(one.operator for one in requirement.specifier)
        assert kinds in (["<", ">="], ["=="]), requirement


def test_what_is_installed_is_what_the_lock_says() -> None:
    """Down to the last package that is asked for on the way; in the newest or the lowest versions there is no lock."""
    here = pinned({})
    installed = {canonicalize_name(one.name): distribution(one.name).version.partition("+")[0] for one in DIRECT}
    if any(here[name] != version for name, version in installed.items()):
        pytest.skip("this environment was not installed from constraints.txt")
    for name, version in behind(DIRECT).items():
        assert here.get(name) == version, f"{name} {version} is installed, constraints.txt has {here.get(name)}"


def behind(requirements: list[Requirement]) -> dict[str, str]:
    """Name and version of each installed package that the given ones need here, directly or not."""
    found: dict[str, str] = {}
    seen: set[str] = set()
    left = list(requirements)
    while left:
        one = left.pop()
        if str(one) in seen:
            continue
        seen.add(str(one))
        try:
            package = distribution(one.name)
        except PackageNotFoundError:
            continue
        found[canonicalize_name(one.name)] = package.version.partition("+")[0]
        for line in package.requires or ():
            needed = Requirement(line)
            extras = one.extras or {""}
            if needed.marker is None or any(needed.marker.evaluate({"extra": extra}) for extra in extras):
                left.append(needed)
    return found


def recipe(*arguments: str) -> str:
    """What make would run, in order; not as the make that runs these tests was called."""
    command = ["make", "--no-print-directory", "--dry-run", "--always-make", *arguments]
    env = {name: value for name, value in os.environ.items() if name not in OF_MAKE}
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True, env=env).stdout


@pytest.mark.parametrize("target", ["demo", "test"])
def test_make_installs_from_the_lock_with_pip_alone(target: str) -> None:
    shown = recipe(target, "VENV=.venv-of-a-test")
    assert "PIP_CONSTRAINT='constraints.txt' PIP_BUILD_CONSTRAINT='constraints.txt'" in shown
    assert f"-e '.[{target}]'" in shown
    assert not re.search(r"\buv\b", shown)
    assert "make test" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


def test_the_newest_and_the_lowest_versions_have_environments_of_their_own() -> None:
    newest, lowest = recipe("test-latest"), recipe("test-lowest")
    assert "CONSTRAINT" not in newest
    assert ".venv-latest/bin/python -m pytest" in newest
    assert "PIP_CONSTRAINT='build/lowest.txt'" in lowest
    assert ".venv-lowest/bin/python -m pytest" in lowest
    assert not re.search(r"\.venv/", newest + lowest)


def test_the_lowest_versions_are_those_of_pyproject() -> None:
    script = next(line for line in recipe("build/lowest.txt").splitlines() if line.startswith("grep"))
    done = subprocess.run(script.partition(" > ")[0], shell=True, capture_output=True, text=True, cwd=ROOT, check=True)
    wanted = {f"{one.name}=={bound.version}" for one in EVERYTHING for bound in one.specifier if bound.operator == ">="}
    assert set(done.stdout.split()) == wanted
