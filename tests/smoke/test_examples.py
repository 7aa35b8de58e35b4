"""The examples run, resume where they say so, and stay short."""

import importlib.util
from pathlib import Path

import pytest
from tests.smoke.trainers import LIGHTNING_WARNS

from sfumato.base import ledger

FOLDER = Path(__file__).parents[2] / "examples"
MAX_LINES = 120
TESTED = {"own_model_own_loop", "hf_trainer", "accelerate_loop", "lightning_module", "conjectured_rule", "contrastive"}


def _main(name):
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.py")), ids=lambda path: path.stem)
def test_an_example_is_short_and_tested(path):
    assert len(path.read_text().splitlines()) <= MAX_LINES
    assert path.stem in TESTED


def test_own_model_own_loop(tmp_path):
    main = _main("own_model_own_loop")
    first, again = (main(tmp_path, steps=3, num_records=80) for _ in range(2))
    assert first == again
    assert 7.9 < first <= 8.0 + 1e-6
    assert len(ledger.read(tmp_path / "private/ledger.jsonl").steps) == 3


def test_hf_trainer(tmp_path):
    assert 7.9 < _main("hf_trainer")(tmp_path, steps=3, num_records=60) <= 8.0 + 1e-6
    assert len(ledger.read(tmp_path / "private/ledger.jsonl").steps) == 3


@pytest.mark.filterwarnings(LIGHTNING_WARNS)
@pytest.mark.filterwarnings("ignore:Total length of .*Loader. across ranks is zero:UserWarning:lightning")
@pytest.mark.parametrize("name", ["accelerate_loop", "lightning_module"])
def test_other_trainers(tmp_path, name, monkeypatch):
    """What they refuse, resume and do on two processes: test_trainers.py."""
    monkeypatch.chdir(tmp_path)  # a trainer may leave files of its own
    first, again = (_main(name)(tmp_path / "run", steps=3, num_records=60) for _ in range(2))
    assert first == again
    assert 7.9 < first <= 8.0 + 1e-6
    assert len(ledger.read(tmp_path / "run/private/ledger.jsonl").steps) == 3
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_conjectured_rule(tmp_path):
    card = _main("conjectured_rule")(tmp_path, steps=3)
    assert card["epsilon"] is None
    assert card["sentence"].startswith("NOT PROVED")


@pytest.mark.parametrize("which", ["group", "pair", "own"])
def test_contrastive(tmp_path, which):
    main = _main("contrastive")
    first, again = (main(which, tmp_path, steps=2, num_records=80) for _ in range(2))
    assert first == again
    assert (first is None) == (which == "own"), "claims that nobody has proved carry no epsilon"
    assert len(ledger.read(tmp_path / "private/ledger.jsonl").steps) == 2
