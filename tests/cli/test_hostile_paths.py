"""Every flag that names a file or a folder, with what is not one: a sentence that names it, and nothing is written."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.cli.hostile import check_plain, told

from sfumato.cli.doctor import DoctorCommand
from sfumato.cli.evaluate import EvaluateCommand
from sfumato.cli.export import ExportCommand
from sfumato.cli.finetune import FinetuneCommand
from sfumato.cli.predict import PredictCommand
from sfumato.cli.report import ReportCommand
from sfumato.cli.train import TrainCommand


def _loop(path: Path) -> None:
    path.symlink_to(path)


def _nothing(path: Path) -> None:
    pass


def _locked(path: Path) -> None:
    path.write_text("text")
    path.chmod(0)


def _run_of_bytes(path: Path) -> None:
    path.mkdir()
    (path / "run.json").write_bytes(bytes(range(256)))


def _run_of_nonsense(path: Path) -> None:
    path.mkdir()
    (path / "run.json").write_text(json.dumps({"recipe": 3, "private": "no", "data": [], "model": {"kind": 7}}))


def _config_of_bytes(path: Path) -> None:
    path.mkdir()
    (path / "config.json").write_bytes(bytes(range(256)))


def _pickle_only(path: Path) -> None:
    path.mkdir()
    (path / "config.json").write_text('{"model_type": "vit", "hidden_size": 32, "num_attention_heads": 2}')
    (path / "pytorch_model.bin").write_bytes(b"\x80\x04cos\nsystem\n.")


def _own_code(path: Path) -> None:
    path.mkdir()
    own = {"AutoConfig": "mine.Config", "AutoModel": "mine.Model"}
    (path / "config.json").write_text(json.dumps({"model_type": "mine", "auto_map": own}))
    (path / "mine.py").write_text("raise SystemExit('ran')\n")
    (path / "model.safetensors").write_bytes(b"")


MAKE: dict[str, Callable[[Path], object]] = {
    "missing": _nothing,
    "folder": lambda path: path.mkdir(),
    "binary": lambda path: path.write_bytes(bytes(range(256)) * 8),
    "zeros": lambda path: path.write_bytes(bytes(4096)),
    "empty": lambda path: path.write_bytes(b""),
    "pipe": lambda path: os.mkfifo(path),
    "loop": _loop,
    "locked": _locked,
    "run of bytes": _run_of_bytes,
    "run of nonsense": _run_of_nonsense,
    "config of bytes": _config_of_bytes,
    "pickle": _pickle_only,
    "own code": _own_code,
}
FILES = ("missing", "folder", "binary", "zeros", "empty", "pipe", "loop", "locked")
FOLDERS = tuple(MAKE)


def train(out: Path, **flags: Any) -> TrainCommand:
    usual = {"recipe": "dp-cap", "data": "shapes:1000", "noise_multiplier": 1.0, "steps": 1, "out": out}
    return TrainCommand(**{**usual, **flags})


COMMANDS: dict[str, tuple[str, Callable[[Path, Path], Any], tuple[str, ...]]] = {
    "train --data": ("train", lambda x, out: train(out, data=str(x), max_tokens=9), FILES),
    "train --captions": ("train", lambda x, out: train(out, data=str(x.parent), captions=str(x)), FILES),
    "train --vocabulary": ("train", lambda x, out: train(out, vocabulary=str(x)), FILES),
    "train --public-text": ("train", lambda x, out: train(out, public_text=str(x)), FILES),
    "train --init": ("train", lambda x, out: train(out, init=str(x)), FOLDERS),
    "train dp-gcl --init": ("train", lambda x, out: train(out, recipe="dp-gcl", init=str(x)), FOLDERS),
    "train logit-dp --init": ("train", lambda x, out: train(out, recipe="logit-dp", init=str(x)), FOLDERS),
    "train logit-dp --size": ("train", lambda x, out: train(out, recipe="logit-dp", size=f"timm:resnet18:{x}"), FILES),
    "train dp-vqa --model": (
        "train",
        lambda x, out: train(out, recipe="dp-vqa", data="shape-questions:100", model=str(x)),
        FOLDERS,
    ),
    "finetune": (
        "finetune",
        lambda x, out: FinetuneCommand(run=x, data="shapes:1000", out=out, noise_multiplier=1.0),
        FOLDERS,
    ),
    "evaluate": ("evaluate", lambda x, out: EvaluateCommand(run=x), FOLDERS),
    "report": ("report", lambda x, out: ReportCommand(run=x, open="no"), FOLDERS),
    "export": ("export", lambda x, out: ExportCommand(run=x, out=out), FOLDERS),
    "predict": ("predict", lambda x, out: PredictCommand(run=x, images=(x.parent,)), FOLDERS),
    "doctor": ("doctor", lambda x, out: DoctorCommand(model=str(x), no_measure=True), FOLDERS),
}


@pytest.mark.parametrize("case", COMMANDS)
def test_what_is_no_such_file_is_named(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    name, make, kinds = COMMANDS[case]
    for kind in kinds:
        if kind == "locked" and os.geteuid() == 0:  # who may read everything
            continue
        place = tmp_path / kind.replace(" ", "-")
        place.mkdir()
        path, out = place / "thing", place / "out"
        MAKE[kind](path)
        status, error = told(monkeypatch, capsys, name, make(path, out))
        if name == "doctor":  # which returns 1 for what cannot be trained
            status = 2 if status == 1 else status
        check_plain(status, error, "thing", str(place))
        assert status == 2 or (name, kind) == ("report", "run of nonsense"), error  # a page shows what there is
        assert "trust_remote_code" not in error
        assert "weights_only" not in error
        assert not out.exists(), kind
